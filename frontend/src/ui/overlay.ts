/** What is drawn over a slice: masks, contours, measures, the scale. */

import { toScreen } from "../core/camera";
import { roundLength } from "../core/geometry";
import { rgb } from "../core/lut";
import { box, ellipse, type Point } from "../core/raster";
import { decode, type Rect } from "../core/rle";
import type { Mark } from "../data/annotations";
import type { Plane } from "../data/stack";
import type { Contour } from "../data/types";
import { enclosedWords } from "../tools/measure";
import type { Proposal } from "../tools/assist";
import type { Viewport } from "./viewport";
import { colourOf, unit } from "./words";

/** How labels are shown; by name. */
export interface Shown {
  hidden: Set<string>;
  locked: Set<string>;
  /** From 0 to 1; `OPACITY` where it is not said. */
  opacity: Map<string, number>;
  chosen: string | null;
  /** Where readers differ on a stack: by slice, how many are in the minority on which pixels. */
  heat: { stack: string; slices: ReadonlyMap<number, { count: number; runs: number[] }[]>; most: number } | null;
  /** What an assistant proposes and nobody accepted yet. */
  proposal: Proposal | null;
}

export const OPACITY = 0.35;
const HEAT = ["#ffd166", "#ff9f4a", "#f8623f", "#e02f44"];

/** The colour of so many readers in the minority, of at most `most`. */
export function heatColour(count: number, most: number): string {
  return HEAT[most < 2 ? 1 : Math.round(((count - 1) * (HEAT.length - 1)) / (most - 1))]!;
}

/** A stroke under way: what it makes of the plane of a mask. */
export interface Stroke {
  bitmap: Uint8Array;
  color: string;
  opacity: number;
  over: string | null;
}

/** Paints the masks of a plane, or a rectangle of them: a veil within, a line at the edge. */
export function paintMasks(
  plane: Plane,
  shown: Shown,
  into: ImageData,
  rect: Rect | null,
  brush?: Stroke,
): void {
  const { width, height } = plane;
  const r = rect ?? { x0: 0, y0: 0, x1: width, y1: height };
  const out = into.data;
  for (let y = r.y0; y < r.y1; y++) out.fill(0, 4 * (y * width + r.x0), 4 * (y * width + r.x1));
  const paint = (bitmap: Uint8Array, color: string, opacity: number, hatched = false) => {
    const [red, green, blue] = rgb(color);
    for (let y = r.y0; y < r.y1; y++) {
      for (let x = r.x0; x < r.x1; x++) {
        const at = y * width + x;
        if (!bitmap[at]) continue;
        const edge = x === 0 || y === 0 || x === width - 1 || y === height - 1 || !bitmap[at - 1] || !bitmap[at + 1] || !bitmap[at - width] || !bitmap[at + width];
        out[4 * at] = red;
        out[4 * at + 1] = green;
        out[4 * at + 2] = blue;
        const veil = hatched && (x + y) % 6 > 1 ? opacity / 3 : opacity;
        out[4 * at + 3] = Math.max(out[4 * at + 3]!, 255 * (edge ? Math.min(1, opacity * 2 + 0.15) : veil));
      }
    }
  };
  for (const { data } of plane.stack.annotations.of("mask")) {
    if (shown.hidden.has(data.label.name) || data.id === brush?.over || !plane.touched(data.id)) continue;
    const opacity = shown.opacity.get(data.label.name) ?? OPACITY;
    paint(plane.bitmap(data.id), colourOf(data.label), data.status === "rejected" ? opacity / 3 : opacity);
  }
  if (brush) paint(brush.bitmap, brush.color, brush.opacity);
  const { proposal, heat } = shown;
  if (proposal?.stack === plane.stack) paint(plane.cut(proposal.runs), colourOf(proposal.label), 0.6, true);
  if (plane.native && heat?.stack === plane.stack.info.id) {
    for (const level of heat.slices.get(plane.index) ?? []) paint(decode(level.runs, width * height), heatColour(level.count, heat.most), 0.65);
  }
}

/** Corners of a contour as they are drawn. */
export function outline(kind: string, contour: Contour): Point[] {
  const points = contour.points as Point[];
  return kind === "box" && points.length === 2 ? box(points) : kind === "ellipse" && points.length === 4 ? ellipse(points) : points;
}

export function drawMarks(view: Viewport, shown: Shown, context: CanvasRenderingContext2D): void {
  if (!view.plane.native) return;
  for (const mark of view.stack.annotations.marks.values()) {
    if (mark.data.kind !== "mask" && !shown.hidden.has(mark.data.label.name)) drawMark(view, mark, mark.data.id === shown.chosen, context);
  }
}

function drawMark(view: Viewport, mark: Mark, chosen: boolean, context: CanvasRenderingContext2D): void {
  const { data } = mark;
  const color = colourOf(data.label);
  for (const contour of data.contours) {
    if (contour.slice !== view.plane.index) continue;
    const corners = outline(data.kind, contour).map(([row, column]) => toScreen(view.matrix, column, row));
    context.lineWidth = chosen ? 2 : 1.5;
    context.setLineDash(data.status === "rejected" ? [4, 4] : []);
    drawLine(context, corners, color, contour.closed);
    context.setLineDash([]);
    const ends = data.kind === "point" || chosen ? contour.points : [];
    for (const [row, column] of ends) {
      const [x, y] = toScreen(view.matrix, column!, row!);
      context.fillStyle = chosen ? "#fff" : color;
      context.beginPath();
      context.arc(x, y, data.kind === "point" ? 4.5 : 3.5, 0, 7);
      context.fill();
    }
    const last = corners[corners.length - 1]!;
    const value = data.value === null ? data.text : `${Number(data.value.toPrecision(4))} ${unit(data.unit)}`;
    const words = value || (chosen && contour.closed ? enclosedWords(view.stack, mark, view.plane.index) : "");
    if (words) label(context, words.slice(0, 80), last[0] + 9, last[1] - 4);
  }
}

export function drawLine(context: CanvasRenderingContext2D, points: [number, number][], color: string, closed: boolean): void {
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  if (closed) context.closePath();
  const width = context.lineWidth;
  context.lineJoin = "round";
  context.strokeStyle = "rgb(0 0 0 / .6)";
  context.lineWidth = width + 2;
  context.stroke();
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke();
}

export function label(context: CanvasRenderingContext2D, text: string, x: number, y: number): void {
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.shadowColor = "#000";
  context.shadowBlur = 4;
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
  context.shadowBlur = 0;
}

export function drawScale(view: Viewport, context: CanvasRenderingContext2D): void {
  if (!view.stack.info.spacing) return;
  const { width, height } = view.screen;
  if (width < 160) return;
  const perPixel = view.plane.spacing[1] / view.camera.zoom;
  const mm = roundLength(perPixel * Math.min(160, width / 4));
  const long = mm / perPixel;
  const [x, y] = [width / 2 - long / 2, height - 32];
  context.strokeStyle = "#e9ecef";
  context.lineWidth = 1.5;
  context.beginPath();
  context.moveTo(x, y - 4);
  context.lineTo(x, y);
  context.lineTo(x + long, y);
  context.lineTo(x + long, y - 4);
  context.stroke();
  label(context, mm >= 10 ? `${mm / 10} cm` : `${mm} mm`, x + long + 7, y - 2);
}
