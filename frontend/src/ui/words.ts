/** Names, units and colours as people write them. */

/** The alphabetic group of a Person Name (PS3.5 6.2.1.2): "Doe^Jane^Q" as "Doe, Jane Q". */
export function person(text: string): string {
  const [family = "", ...given] = (text.split("=")[0] ?? "").split("^").map((part) => part.trim());
  const rest = given.filter(Boolean).join(" ");
  return family && rest ? `${family}, ${rest}` : family || rest;
}

const UNITS: Record<string, string> = { "[hnsf'U]": "HU", "[arb'U]": "", "1": "", "{SUVbw}g/ml": "SUV bw", "{SUVlbm}g/ml": "SUV lbm", "{SUVbsa}cm2/ml": "SUV bsa", mm2: "mm²", "mm2/s": "mm²/s", "um2/s": "µm²/s", deg: "°", "{pixel}": "px" };

/** A UCUM code as it is read. */
export function unit(code: string): string {
  return UNITS[code] ?? code.replace(/\{(.*?)\}/g, "$1 ").trim();
}

/** So many voxels as a volume, or as pixels where nothing is known of their size (mm). */
export function volume(voxels: number, spacing: readonly number[] | null): string {
  if (!spacing) return `${voxels} px`;
  const ml = (voxels * spacing[0]! * spacing[1]! * spacing[2]!) / 1000;
  return ml >= 1000 ? `${(ml / 1000).toFixed(2)} l` : ml >= 100 ? `${Math.round(ml)} ml` : `${Number(ml.toPrecision(3))} ml`;
}

export const COLOURS = ["#e2b45f", "#6fa8dc", "#d9735e", "#8fbf6a", "#b694d1", "#e08aa8", "#c9c08a", "#7fd0a0", "#d99a5e", "#8f9fe0"];

/** The colour of a label; where it has none, one that its name always has. */
export function colourOf(label: { name: string; color: string }): string {
  if (label.color) return label.color;
  let sum = 7;
  for (const letter of label.name) sum = (sum * 31 + letter.codePointAt(0)!) >>> 0;
  return COLOURS[sum % COLOURS.length]!;
}
