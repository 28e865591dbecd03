/** Masks as runs: pairs of (start, length) over the row-major pixels of one slice, ascending and apart. */

export type Runs = number[];

/** A rectangle of pixels: columns x0..x1 and rows y0..y1, the ends not included. */
export interface Rect {
  x0: number;
  y0: number;
  x1: number;
  y1: number;
}

/** Runs of the pixels that are not 0. */
export function encode(bitmap: Uint8Array): Runs {
  const runs: Runs = [];
  const size = bitmap.length;
  let at = 0;
  while (at < size) {
    const start = bitmap.indexOf(1, at);
    if (start < 0) break;
    let end = start + 1;
    while (end < size && bitmap[end] === 1) end++;
    runs.push(start, end - start);
    at = end;
  }
  return runs;
}

/** A bitmap of 0 and 1. What lies outside of `size` is cut off. */
export function decode(runs: Runs, size: number, into = new Uint8Array(size)): Uint8Array {
  into.fill(0);
  for (let i = 0; i + 1 < runs.length; i += 2) into.fill(1, runs[i], Math.min(size, runs[i]! + runs[i + 1]!));
  return into;
}

/** How many pixels there are. */
export function area(runs: Runs): number {
  let sum = 0;
  for (let i = 1; i < runs.length; i += 2) sum += runs[i]!;
  return sum;
}

/** Whether a pixel is in the runs; found by halving. */
export function has(runs: Runs, pixel: number): boolean {
  let low = 0;
  let high = runs.length >> 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (runs[2 * middle]! + runs[2 * middle + 1]! <= pixel) low = middle + 1;
    else high = middle;
  }
  return 2 * low < runs.length && runs[2 * low]! <= pixel;
}

/** The smallest rectangle around the runs; null where there are none. */
export function bounds(runs: Runs, width: number): Rect | null {
  if (runs.length === 0) return null;
  let x0 = width;
  let x1 = 0;
  for (let i = 0; i < runs.length; i += 2) {
    const start = runs[i]!;
    const last = start + runs[i + 1]! - 1;
    if (Math.floor(start / width) !== Math.floor(last / width)) {
      x0 = 0;
      x1 = width;
      break;
    }
    x0 = Math.min(x0, start % width);
    x1 = Math.max(x1, (last % width) + 1);
  }
  const final = runs[runs.length - 2]! + runs[runs.length - 1]! - 1;
  return { x0, x1, y0: Math.floor(runs[0]! / width), y1: Math.floor(final / width) + 1 };
}

/** Writes row `row` of the slice into `out` from `offset` on. */
export function writeRow(runs: Runs, width: number, row: number, out: Uint8Array, offset: number): void {
  const from = row * width;
  const to = from + width;
  for (let i = firstRun(runs, from); i < runs.length && runs[i]! < to; i += 2) {
    const start = Math.max(runs[i]!, from);
    const end = Math.min(runs[i]! + runs[i + 1]!, to);
    out.fill(1, offset + start - from, offset + end - from);
  }
}

/** Writes column `column` of the slice into `out` from `offset` on. */
export function writeColumn(runs: Runs, width: number, column: number, out: Uint8Array, offset: number): void {
  for (let i = 0; i < runs.length; i += 2) {
    const start = runs[i]!;
    const end = start + runs[i + 1]!;
    const first = Math.ceil((start - column) / width) * width + column;
    for (let pixel = first; pixel < end; pixel += width) out[offset + (pixel - column) / width] = 1;
  }
}

/** Index into `runs` of the first run that ends behind `pixel`. */
function firstRun(runs: Runs, pixel: number): number {
  let low = 0;
  let high = runs.length >> 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (runs[2 * middle]! + runs[2 * middle + 1]! <= pixel) low = middle + 1;
    else high = middle;
  }
  return 2 * low;
}

/** Pixels of either. */
export function union(a: Runs, b: Runs): Runs {
  const out: Runs = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    const useA = j >= b.length || (i < a.length && a[i]! <= b[j]!);
    const start = useA ? a[i]! : b[j]!;
    const end = start + (useA ? a[i + 1]! : b[j + 1]!);
    if (useA) i += 2;
    else j += 2;
    const last = out.length - 2;
    if (last >= 0 && out[last]! + out[last + 1]! >= start) {
      out[last + 1] = Math.max(out[last]! + out[last + 1]!, end) - out[last]!;
    } else out.push(start, end - start);
  }
  return out;
}

/** Pixels of `a` that are not in `b`. */
export function subtract(a: Runs, b: Runs): Runs {
  const out: Runs = [];
  let j = 0;
  for (let i = 0; i < a.length; i += 2) {
    let start = a[i]!;
    const end = start + a[i + 1]!;
    while (j < b.length && b[j]! + b[j + 1]! <= start) j += 2;
    for (let m = j; m < b.length && b[m]! < end; m += 2) {
      if (b[m]! > start) out.push(start, b[m]! - start);
      start = Math.max(start, b[m]! + b[m + 1]!);
    }
    if (start < end) out.push(start, end - start);
  }
  return out;
}

export function same(a: Runs, b: Runs): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}
