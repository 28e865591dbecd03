/** From shapes to pixels. Points are (row, column), whole numbers at pixel centres. */

import type { Rect } from "./rle";

export type Point = [number, number];

/**
 * Writes a stroke of a round brush: the pixels whose centre is within `radius` of the way from one point to another.
 *
 * @param stretch height of a pixel in units of its width, so that the brush is round in mm.
 * @param allow pixels that may be written; all where it is left out.
 * @returns the rectangle that was looked at, or null where it lies outside.
 */
export function stroke(
  bitmap: Uint8Array,
  width: number,
  height: number,
  from: Point,
  to: Point,
  radius: number,
  value: 0 | 1,
  stretch = 1,
  allow?: (pixel: number) => boolean,
): Rect | null {
  const ry = radius / stretch;
  const x0 = Math.max(0, Math.ceil(Math.min(from[1], to[1]) - radius));
  const x1 = Math.min(width, Math.floor(Math.max(from[1], to[1]) + radius) + 1);
  const y0 = Math.max(0, Math.ceil(Math.min(from[0], to[0]) - ry));
  const y1 = Math.min(height, Math.floor(Math.max(from[0], to[0]) + ry) + 1);
  if (x0 >= x1 || y0 >= y1) return null;
  const ax = from[1];
  const ay = from[0] * stretch;
  const dx = to[1] - ax;
  const dy = to[0] * stretch - ay;
  const long = dx * dx + dy * dy;
  const limit = radius * radius;
  for (let y = y0; y < y1; y++) {
    const py = y * stretch - ay;
    for (let x = x0; x < x1; x++) {
      const px = x - ax;
      const t = long === 0 ? 0 : Math.min(1, Math.max(0, (px * dx + py * dy) / long));
      const ex = px - t * dx;
      const ey = py - t * dy;
      if (ex * ex + ey * ey > limit) continue;
      const pixel = y * width + x;
      if (!allow || allow(pixel)) bitmap[pixel] = value;
    }
  }
  return { x0, y0, x1, y1 };
}

/** Writes 1 where a pixel's centre lies inside an odd number of the polygons; a polygon inside another is a hole. */
export function fillPolygons(bitmap: Uint8Array, width: number, height: number, polygons: Point[][]): void {
  let top = Infinity;
  let bottom = -Infinity;
  for (const polygon of polygons) {
    for (const point of polygon) {
      top = Math.min(top, point[0]);
      bottom = Math.max(bottom, point[0]);
    }
  }
  const first = Math.max(0, Math.ceil(top));
  const last = Math.min(height - 1, Math.floor(bottom));
  for (let y = first; y <= last; y++) {
    const crossings: number[] = [];
    for (const polygon of polygons) {
      for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
        const a = polygon[j]!;
        const b = polygon[i]!;
        if (a[0] <= y !== b[0] <= y) crossings.push(a[1] + ((y - a[0]) * (b[1] - a[1])) / (b[0] - a[0]));
      }
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = Math.max(0, Math.ceil(crossings[i]!));
      const to = Math.min(width - 1, Math.floor(crossings[i + 1]!));
      if (from <= to) bitmap.fill(1, y * width + from, y * width + to + 1);
    }
  }
}

/** Corners of an ellipse given by the ends of one axis and then of the other. */
export function ellipse(points: Point[], corners = 72): Point[] {
  const [a, b, c, d] = points as [Point, Point, Point, Point];
  const centre: Point = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  const u: Point = [(b[0] - a[0]) / 2, (b[1] - a[1]) / 2];
  const v: Point = [(d[0] - c[0]) / 2, (d[1] - c[1]) / 2];
  return Array.from({ length: corners }, (_, i) => {
    const angle = (2 * Math.PI * i) / corners;
    const cos = Math.cos(angle);
    const sin = Math.sin(angle);
    return [centre[0] + u[0] * cos + v[0] * sin, centre[1] + u[1] * cos + v[1] * sin];
  });
}

/** Corners of a box given by two opposite ones. */
export function box([a, b]: Point[]): Point[] {
  return [a!, [a![0], b![1]], b!, [b![0], a![1]]];
}

/** Leaves out points that lie closer than `tolerance` to the way between their neighbours (Douglas and Peucker). */
export function simplify(points: Point[], tolerance: number): Point[] {
  if (points.length < 3) return points;
  const keep = new Uint8Array(points.length);
  keep[0] = keep[points.length - 1] = 1;
  const open: [number, number][] = [[0, points.length - 1]];
  while (open.length) {
    const [first, last] = open.pop()!;
    let worst = tolerance;
    let at = -1;
    for (let i = first + 1; i < last; i++) {
      const distance = awayFrom(points[i]!, points[first]!, points[last]!);
      if (distance > worst) {
        worst = distance;
        at = i;
      }
    }
    if (at > 0) {
      keep[at] = 1;
      open.push([first, at], [at, last]);
    }
  }
  return points.filter((_, i) => keep[i]);
}

/** Distance of a point from the way between two others. */
export function awayFrom(p: Point, a: Point, b: Point): number {
  const dy = b[0] - a[0];
  const dx = b[1] - a[1];
  const long = dx * dx + dy * dy;
  const t = long === 0 ? 0 : Math.min(1, Math.max(0, ((p[0] - a[0]) * dy + (p[1] - a[1]) * dx) / long));
  return Math.hypot(p[0] - a[0] - t * dy, p[1] - a[1] - t * dx);
}

/** Whether a point lies inside a polygon. */
export function inside(p: Point, polygon: Point[]): boolean {
  let odd = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const a = polygon[j]!;
    const b = polygon[i]!;
    if (a[0] <= p[0] !== b[0] <= p[0] && p[1] < a[1] + ((p[0] - a[0]) * (b[1] - a[1])) / (b[0] - a[0])) odd = !odd;
  }
  return odd;
}

/** Area in pixels, of which corners that cross are counted off. */
export function polygonArea(points: Point[]): number {
  let sum = 0;
  for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
    sum += points[j]![1] * points[i]![0] - points[i]![1] * points[j]![0];
  }
  return Math.abs(sum) / 2;
}
