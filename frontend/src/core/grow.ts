/** Regions that grow from a pixel, and holes that are filled. */

export type Pixels = Int16Array | Uint16Array | Uint8Array;

/**
 * The pixels that are joined to a seed, over edges, by values between `low` and `high`.
 *
 * @returns a bitmap of 0 and 1; empty where the seed itself lies outside the bounds.
 */
export function grow2d(
  pixels: ArrayLike<number>,
  width: number,
  height: number,
  seed: number,
  low: number,
  high: number,
): Uint8Array {
  const out = new Uint8Array(width * height);
  const fits = (pixel: number) => pixels[pixel]! >= low && pixels[pixel]! <= high;
  if (!fits(seed)) return out;
  const open = [seed];
  while (open.length) {
    const at = open.pop()!;
    if (out[at]) continue;
    const row = Math.floor(at / width) * width;
    let left = at;
    while (left > row && !out[left - 1] && fits(left - 1)) left--;
    let right = at;
    while (right < row + width - 1 && !out[right + 1] && fits(right + 1)) right++;
    out.fill(1, left, right + 1);
    for (const step of [-width, width]) {
      if ((step < 0 && row === 0) || (step > 0 && row === (height - 1) * width)) continue;
      let joined = false;
      for (let pixel = left + step; pixel <= right + step; pixel++) {
        const good = !out[pixel] && fits(pixel);
        if (good && !joined) open.push(pixel);
        joined = good;
      }
    }
  }
  return out;
}

/** What a region in three dimensions grew to. */
export interface Grown {
  slices: Map<number, Uint8Array>;
  voxels: number;
  /** Whether it was stopped by `most`. */
  cut: boolean;
}

/**
 * As `grow2d`, through the slices above and below. Works slice by slice, so it never holds more than it found.
 *
 * @param slice gives the pixels of a slice; waits until they are there.
 * @param most voxels after which it stops.
 * @param pause called between slices, so that the page stays alive; throws to stop.
 */
export async function grow3d(
  slice: (k: number) => Promise<ArrayLike<number>>,
  shape: readonly [number, number, number],
  seed: readonly [number, number],
  bounds: (k: number) => readonly [number, number],
  most: number,
  pause: () => Promise<void>,
): Promise<Grown> {
  const [depth, height, width] = shape;
  const found: Grown = { slices: new Map(), voxels: 0, cut: false };
  const open: [number, number[]][] = [[seed[0], [seed[1]]]];
  while (open.length) {
    const [k, seeds] = open.shift()!;
    const pixels = await slice(k);
    const [low, high] = bounds(k);
    const before = found.slices.get(k);
    const now = before ?? new Uint8Array(width * height);
    const fresh: number[] = [];
    for (const at of seeds) {
      if (now[at] || !(pixels[at]! >= low && pixels[at]! <= high)) continue;
      flood(pixels, width, height, at, low, high, now, fresh);
    }
    if (fresh.length === 0) continue;
    found.slices.set(k, now);
    found.voxels += fresh.length;
    if (found.voxels > most) {
      found.cut = true;
      return found;
    }
    for (const next of [k - 1, k + 1]) {
      if (next < 0 || next >= depth) continue;
      const there = found.slices.get(next);
      const carried = there ? fresh.filter((pixel) => !there[pixel]) : fresh;
      if (carried.length) open.push([next, carried]);
    }
    await pause();
  }
  return found;
}

function flood(
  pixels: ArrayLike<number>,
  width: number,
  height: number,
  seed: number,
  low: number,
  high: number,
  out: Uint8Array,
  fresh: number[],
): void {
  const open = [seed];
  const last = width * (height - 1);
  out[seed] = 1;
  fresh.push(seed);
  const visit = (pixel: number) => {
    if (out[pixel] || !(pixels[pixel]! >= low && pixels[pixel]! <= high)) return;
    out[pixel] = 1;
    fresh.push(pixel);
    open.push(pixel);
  };
  while (open.length) {
    const at = open.pop()!;
    const column = at % width;
    if (column > 0) visit(at - 1);
    if (column < width - 1) visit(at + 1);
    if (at >= width) visit(at - width);
    if (at < last) visit(at + width);
  }
}

/** The bitmap with every hole filled: what is 0 and not joined, over edges, to the border. */
export function fillHoles(bitmap: Uint8Array, width: number, height: number): Uint8Array {
  const wide = width + 2;
  const framed = new Uint8Array(wide * (height + 2));
  for (let y = 0; y < height; y++) framed.set(bitmap.subarray(y * width, (y + 1) * width), (y + 1) * wide + 1);
  const outside = grow2d(framed, wide, height + 2, 0, 0, 0);
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) out[y * width + x] = outside[(y + 1) * wide + x + 1] ? 0 : 1;
  }
  return out;
}
