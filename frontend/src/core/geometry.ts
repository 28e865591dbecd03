/** Places in the patient: mm, LPS (to the left, to the back, upward). */

export type Vec3 = [number, number, number];
export type Affine = number[][];

/** Where voxel (i, j, k) lies: column, row, slice to mm. */
export function apply(affine: Affine, [i, j, k]: Vec3): Vec3 {
  return [0, 1, 2].map((r) => {
    const row = affine[r]!;
    return row[0]! * i + row[1]! * j + row[2]! * k + row[3]!;
  }) as Vec3;
}

/** The way back: mm to voxel. Null where the affine is flat. */
export function invert(affine: Affine): Affine | null {
  const [[a, b, c, x], [d, e, f, y], [g, h, i, z]] = affine as [number[], number[], number[]] as [
    [number, number, number, number],
    [number, number, number, number],
    [number, number, number, number],
  ];
  const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  if (Math.abs(det) < 1e-12) return null;
  const m = [
    [(e * i - f * h) / det, (c * h - b * i) / det, (b * f - c * e) / det],
    [(f * g - d * i) / det, (a * i - c * g) / det, (c * d - a * f) / det],
    [(d * h - e * g) / det, (b * g - a * h) / det, (a * e - b * d) / det],
  ];
  return [...m.map((r) => [...r, -(r[0]! * x + r[1]! * y + r[2]! * z)]), [0, 0, 0, 1]];
}

/** Direction of an axis of the voxels: 0 along columns (i), 1 along rows (j), 2 along slices (k); length 1. */
export function direction(affine: Affine, axis: 0 | 1 | 2): Vec3 {
  const v: Vec3 = [affine[0]![axis]!, affine[1]![axis]!, affine[2]![axis]!];
  const long = Math.hypot(...v) || 1;
  return [v[0] / long, v[1] / long, v[2] / long];
}

/** Letters of a direction, the strongest first: L/R, P/A, H/F (head, foot); the second where it is oblique. */
export function letters(v: Vec3): string {
  const names = [
    ["L", "R"],
    ["P", "A"],
    ["H", "F"],
  ];
  return [0, 1, 2]
    .filter((axis) => Math.abs(v[axis]!) > 0.3)
    .sort((a, b) => Math.abs(v[b]!) - Math.abs(v[a]!))
    .map((axis) => names[axis]![v[axis]! > 0 ? 0 : 1])
    .slice(0, 2)
    .join("");
}

/** The letters of the other way. */
export function opposite(text: string): string {
  const pairs: Record<string, string> = { L: "R", R: "L", P: "A", A: "P", H: "F", F: "H" };
  return [...text].map((letter) => pairs[letter] ?? letter).join("");
}

/** The name of the plane whose normal is given. */
export function planeName(normal: Vec3): string {
  const axis = [0, 1, 2].reduce((best, a) => (Math.abs(normal[a]!) > Math.abs(normal[best]!) ? a : best), 0);
  return ["Sagittal", "Coronal", "Axial"][axis]!;
}

/** Length of a way of (row, column) points in mm, or pixels where there is no spacing. */
export function wayLength(points: number[][], [dy, dx]: readonly [number, number]): number {
  let sum = 0;
  for (let i = 1; i < points.length; i++) {
    sum += Math.hypot((points[i]![0]! - points[i - 1]![0]!) * dy, (points[i]![1]! - points[i - 1]![1]!) * dx);
  }
  return sum;
}

/** Angle at the second of three (row, column) points, in degrees. */
export function angle(points: number[][], [dy, dx]: readonly [number, number]): number {
  const [a, b, c] = points as [number[], number[], number[]];
  const u = [(a[0]! - b[0]!) * dy, (a[1]! - b[1]!) * dx] as const;
  const v = [(c[0]! - b[0]!) * dy, (c[1]! - b[1]!) * dx] as const;
  const long = Math.hypot(...u) * Math.hypot(...v);
  if (long === 0) return 0;
  return (Math.acos(Math.min(1, Math.max(-1, (u[0] * v[0] + u[1] * v[1]) / long))) * 180) / Math.PI;
}

/** A round length (1, 2 or 5 times a power of ten) that is at most `most`. */
export function roundLength(most: number): number {
  const power = 10 ** Math.floor(Math.log10(most));
  const lead = most / power;
  return (lead >= 5 ? 5 : lead >= 2 ? 2 : 1) * power;
}

/** The index in `positions` nearest to a place, for two series that show the same patient. */
export function nearest(positions: readonly (Vec3 | null)[], place: Vec3, normal: Vec3): number {
  let best = -1;
  let least = Infinity;
  positions.forEach((p, k) => {
    if (!p) return;
    const away = Math.abs((p[0] - place[0]) * normal[0] + (p[1] - place[1]) * normal[1] + (p[2] - place[2]) * normal[2]);
    if (away < least) {
      least = away;
      best = k;
    }
  });
  return best;
}

export function cross(a: Vec3, b: Vec3): Vec3 {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}
