/** What a closed contour encloses: its area, and the values of its pixels. */

import { fillPolygons, polygonArea } from "../core/raster";
import type { Mark } from "../data/annotations";
import type { Stack } from "../data/stack";
import type { Contour } from "../data/types";
import { outline } from "../ui/overlay";
import { unit } from "../ui/words";

export interface Enclosed {
  /** mm², or pixels where nothing is known of their size. */
  area: number;
  /** Of the values of its pixels; null for colours, or while the slice is not there. */
  mean: number | null;
  deviation: number;
}

const known = new WeakMap<Contour[], Map<number, Enclosed>>();

/** Of the contours of a mark on a slice; null where none is closed there. */
export function enclosed(stack: Stack, { data }: Mark, k: number): Enclosed | null {
  const contours = data.contours.filter((c) => c.closed && c.slice === k);
  if (!contours.length) return null;
  const there = known.get(data.contours) ?? new Map<number, Enclosed>();
  known.set(data.contours, there);
  const before = there.get(k);
  if (before && before.mean !== null) return before;
  const { rows, columns, spacing, colour } = stack.info;
  const lines = contours.map((c) => outline(data.kind, c));
  const [, dy, dx] = spacing ?? [1, 1, 1];
  const found: Enclosed = { area: lines.reduce((sum, line) => sum + Math.abs(polygonArea(line)), 0) * dy * dx, mean: null, deviation: 0 };
  const pixels = colour ? undefined : stack.frames.get(k);
  if (pixels) {
    const bitmap = new Uint8Array(rows * columns);
    fillPolygons(bitmap, columns, rows, lines);
    const { slope, intercept } = stack.scale(k);
    let [count, sum, squares] = [0, 0, 0];
    for (let p = 0; p < bitmap.length; p++) {
      if (!bitmap[p]) continue;
      const value = pixels[p]! * slope + intercept;
      count++;
      sum += value;
      squares += value * value;
    }
    if (count) [found.mean, found.deviation] = [sum / count, Math.sqrt(Math.max(0, squares / count - (sum / count) ** 2))];
  }
  there.set(k, found);
  return found;
}

/** In words, such as "3.1 cm²  45 ± 12 HU". */
export function enclosedWords(stack: Stack, mark: Mark, k: number): string {
  const found = enclosed(stack, mark, k);
  if (!found) return "";
  const size = stack.info.spacing ? (found.area >= 100 ? `${(found.area / 100).toPrecision(3)} cm²` : `${found.area.toPrecision(3)} mm²`) : `${Math.round(found.area)} px`;
  return found.mean === null ? size : `${size}  ${short(found.mean)} ± ${short(found.deviation)} ${unit(stack.info.unit)}`.trimEnd();
}

const short = (value: number) => String(Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3)));
