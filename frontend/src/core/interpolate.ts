/** What lies between two slices: masks by signed distance, contours point by point. */

import type { Point } from "./raster";

const FAR = 1e12;

/**
 * Squared distance in pixels of every pixel from the nearest one that is `value` (Felzenszwalb and Huttenlocher:
 * the lower envelope of parabolas, first by column and then by row).
 */
export function distances(bitmap: Uint8Array, width: number, height: number, value: 0 | 1): Float64Array {
  const out = new Float64Array(width * height);
  const size = Math.max(width, height);
  const f = new Float64Array(size);
  const v = new Int32Array(size);
  const z = new Float64Array(size + 1);
  const d = new Float64Array(size);
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) f[y] = bitmap[y * width + x] === value ? 0 : FAR;
    envelope(f, height, v, z, d);
    for (let y = 0; y < height; y++) out[y * width + x] = d[y]!;
  }
  for (let y = 0; y < height; y++) {
    f.set(out.subarray(y * width, (y + 1) * width));
    envelope(f, width, v, z, d);
    out.set(d.subarray(0, width), y * width);
  }
  return out;
}

function envelope(f: Float64Array, size: number, v: Int32Array, z: Float64Array, d: Float64Array): void {
  let k = 0;
  v[0] = 0;
  z[0] = -Infinity;
  z[1] = Infinity;
  for (let q = 1; q < size; q++) {
    let s = meet(f, q, v[k]!);
    while (s <= z[k]!) s = meet(f, q, v[--k]!);
    v[++k] = q;
    z[k] = s;
    z[k + 1] = Infinity;
  }
  k = 0;
  for (let q = 0; q < size; q++) {
    while (z[k + 1]! < q) k++;
    d[q] = (q - v[k]!) ** 2 + f[v[k]!]!;
  }
}

function meet(f: Float64Array, q: number, p: number): number {
  return (f[q]! + q * q - (f[p]! + p * p)) / (2 * q - 2 * p);
}

/** Distance from the edge: positive inside, negative outside. */
export function signedDistance(bitmap: Uint8Array, width: number, height: number): Float32Array {
  const toInside = distances(bitmap, width, height, 1);
  const toOutside = distances(bitmap, width, height, 0);
  const out = new Float32Array(width * height);
  for (let i = 0; i < out.length; i++) {
    out[i] = bitmap[i] ? Math.sqrt(toOutside[i]!) - 0.5 : 0.5 - Math.sqrt(toInside[i]!);
  }
  return out;
}

/**
 * Masks between two masks. Where the two lie apart, each is moved along the way between their centres, so that a
 * structure that runs at a slant does not vanish halfway.
 *
 * @param count of slices between them.
 * @returns `count` bitmaps, from the one beside `a` to the one beside `b`.
 */
export function betweenMasks(a: Uint8Array, b: Uint8Array, width: number, height: number, count: number): Uint8Array[] {
  const ca = centre(a, width);
  const cb = centre(b, width);
  if (!ca || !cb) return Array.from({ length: count }, () => new Uint8Array(width * height));
  const da = signedDistance(a, width, height);
  const db = signedDistance(b, width, height);
  return Array.from({ length: count }, (_, n) => {
    const t = (n + 1) / (count + 1);
    const ax = Math.round(t * (cb[0] - ca[0]));
    const ay = Math.round(t * (cb[1] - ca[1]));
    const bx = ax - Math.round(cb[0] - ca[0]);
    const by = ay - Math.round(cb[1] - ca[1]);
    const out = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const value = (1 - t) * at(da, x - ax, y - ay, width, height) + t * at(db, x - bx, y - by, width, height);
        if (value > 0) out[y * width + x] = 1;
      }
    }
    return out;
  });
}

function at(field: Float32Array, x: number, y: number, width: number, height: number): number {
  return x < 0 || y < 0 || x >= width || y >= height ? -1e6 : field[y * width + x]!;
}

function centre(bitmap: Uint8Array, width: number): [number, number] | null {
  let x = 0;
  let y = 0;
  let n = 0;
  for (let i = bitmap.indexOf(1); i >= 0 && i < bitmap.length; i++) {
    if (!bitmap[i]) continue;
    x += i % width;
    y += Math.floor(i / width);
    n++;
  }
  return n ? [x / n, y / n] : null;
}

/** `count` points at even distances along a closed contour. */
export function resample(points: Point[], count: number): Point[] {
  const closed = [...points, points[0]!];
  const along = [0];
  for (let i = 1; i < closed.length; i++) {
    along.push(along[i - 1]! + Math.hypot(closed[i]![0] - closed[i - 1]![0], closed[i]![1] - closed[i - 1]![1]));
  }
  const total = along[along.length - 1]!;
  let i = 0;
  return Array.from({ length: count }, (_, n) => {
    const target = (total * n) / count;
    while (i < along.length - 2 && along[i + 1]! <= target) i++;
    const step = along[i + 1]! - along[i]!;
    const t = step === 0 ? 0 : (target - along[i]!) / step;
    const [p, q] = [closed[i]!, closed[i + 1]!];
    return [p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])];
  });
}

/** Closed contours between two closed contours; starts and senses are matched first. */
export function betweenContours(a: Point[], b: Point[], count: number): Point[][] {
  const size = Math.min(256, Math.max(a.length, b.length, 32));
  const from = resample(a, size);
  let to = resample(turns(b) === turns(a) ? b : [...b].reverse(), size);
  const [ca, cb] = [middle(from), middle(to)];
  let best = Infinity;
  let shift = 0;
  for (let s = 0; s < size; s++) {
    let sum = 0;
    for (let i = 0; i < size && sum < best; i++) {
      const p = from[i]!;
      const q = to[(i + s) % size]!;
      sum += (p[0] - ca[0] - q[0] + cb[0]) ** 2 + (p[1] - ca[1] - q[1] + cb[1]) ** 2;
    }
    if (sum < best) {
      best = sum;
      shift = s;
    }
  }
  to = [...to.slice(shift), ...to.slice(0, shift)];
  return Array.from({ length: count }, (_, n) => {
    const t = (n + 1) / (count + 1);
    return from.map((p, i): Point => [p[0] + t * (to[i]![0] - p[0]), p[1] + t * (to[i]![1] - p[1])]);
  });
}

function middle(points: Point[]): Point {
  const sum = points.reduce<Point>((s, p) => [s[0] + p[0], s[1] + p[1]], [0, 0]);
  return [sum[0] / points.length, sum[1] / points.length];
}

function turns(points: Point[]): boolean {
  let sum = 0;
  for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
    sum += points[j]![1] * points[i]![0] - points[i]![1] * points[j]![0];
  }
  return sum > 0;
}
