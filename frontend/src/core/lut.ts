/** From stored values to grey: a table of 65,536 entries, so that a pixel costs one look-up. */

export interface Window {
  center: number;
  width: number;
}

export interface Preset extends Window {
  name: string;
}

export const CT_PRESETS: readonly Preset[] = [
  { name: "Soft tissue", center: 40, width: 400 },
  { name: "Lung", center: -600, width: 1500 },
  { name: "Bone", center: 480, width: 2500 },
  { name: "Brain", center: 40, width: 80 },
  { name: "Liver", center: 90, width: 150 },
  { name: "Pulmonary artery", center: 150, width: 700 },
  { name: "Mediastinum", center: 50, width: 350 },
];

/**
 * Grey of every stored value, by the LINEAR function (PS3.3 C.11.2.1.2): indexed with the value's 16 bits.
 *
 * @returns 65,536 pixels as little-endian RGBA words.
 */
export function buildLut(
  signed: boolean,
  slope: number,
  intercept: number,
  window: Window,
  inverted: boolean,
  out = new Uint32Array(65536),
): Uint32Array {
  const width = Math.max(window.width, 1e-6);
  const wide = width > 1 ? width - 1 : width;
  const middle = width > 1 ? window.center - 0.5 : window.center;
  for (let bits = 0; bits < 65536; bits++) {
    const stored = signed && bits > 32767 ? bits - 65536 : bits;
    const grey = ((stored * slope + intercept - middle) / wide + 0.5) * 255;
    const level = grey <= 0 ? 0 : grey >= 255 ? 255 : Math.round(grey);
    const shown = inverted ? 255 - level : level;
    out[bits] = 0xff000000 | (shown << 16) | (shown << 8) | shown;
  }
  return out;
}

/**
 * Draws a slice into RGBA words, every `step`-th pixel of it.
 *
 * @param pixels stored values; the same array seen as unsigned where they are signed.
 */
export function applyLut(pixels: Uint16Array, width: number, height: number, lut: Uint32Array, out: Uint32Array, step = 1): void {
  if (step === 1) {
    const size = width * height;
    for (let i = 0; i < size; i++) out[i] = lut[pixels[i]!]!;
    return;
  }
  let at = 0;
  for (let y = 0; y < height; y += step) {
    for (let x = 0, row = y * width; x < width; x += step) out[at++] = lut[pixels[row + x]!]!;
  }
}

/** Draws RGB bytes into RGBA words. */
export function applyRgb(pixels: Uint8Array, size: number, out: Uint32Array): void {
  for (let i = 0, at = 0; i < size; i++, at += 3) {
    out[i] = 0xff000000 | (pixels[at + 2]! << 16) | (pixels[at + 1]! << 8) | pixels[at]!;
  }
}

/** The window that holds the middle 98 of 100 values, for images that give none. */
export function autoWindow(pixels: ArrayLike<number>, slope: number, intercept: number): Window {
  const step = Math.max(1, Math.floor(pixels.length / 20000));
  const values: number[] = [];
  for (let i = 0; i < pixels.length; i += step) values.push(pixels[i]!);
  values.sort((a, b) => a - b);
  const low = values[Math.floor(values.length * 0.01)]! * slope + intercept;
  const high = values[Math.min(values.length - 1, Math.floor(values.length * 0.99))]! * slope + intercept;
  return { center: (low + high) / 2, width: Math.max(1, Math.abs(high - low)) };
}

/** The window after the mouse moved by (dx, dy): to the right widens, downwards brightens less. */
export function dragWindow(start: Window, dx: number, dy: number, range: number): Window {
  const scale = Math.max(range, start.width) / 600;
  return { center: start.center + dy * scale, width: Math.max(range / 65536, start.width + dx * scale) };
}

/** `#rrggbb` as [r, g, b]; the accent of the page where it is no colour. */
export function rgb(color: string): [number, number, number] {
  const match = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(color);
  return match ? [parseInt(match[1]!, 16), parseInt(match[2]!, 16), parseInt(match[3]!, 16)] : [79, 195, 199];
}
