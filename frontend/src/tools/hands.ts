/** Tools by name: what a press, a drag and a release mean. */

import { zoomAt } from "../core/camera";
import { angle, wayLength } from "../core/geometry";
import { grow2d, grow3d } from "../core/grow";
import { awayFrom, fillPolygons, inside, simplify, stroke, type Point } from "../core/raster";
import { encode, union, type Rect } from "../core/rle";
import { bare } from "../data/annotations";
import type { Annotation, Kind, SliceRuns } from "../data/types";
import { toast } from "../ui/dom";
import { drawLine, label as words, OPACITY, outline } from "../ui/overlay";
import type { Hand, Spot, Viewport } from "../ui/viewport";
import { colourOf } from "../ui/words";
import type { Desk } from "./desk";

const MOST_VOXELS = 20_000_000;

/** Moves the image or its window. */
function mover(act: (view: Viewport, dx: number, dy: number, start: Spot) => void): Hand {
  let last: Spot | null = null;
  let start: Spot | null = null;
  return {
    down: (_, spot) => void (last = start = spot),
    move: (view, spot, pressed) => {
      if (pressed && last && start) act(view, spot.x - last.x, spot.y - last.y, start);
      last = spot;
    },
    up: () => void (last = null),
  };
}

/** A brush, or what takes away; gated by values where asked. */
export class Brush implements Hand {
  private bitmap: Uint8Array | null = null;
  private last: Spot | null = null;
  private id = "";
  private at: Spot | null = null;

  constructor(
    private readonly desk: Desk,
    private readonly erase: boolean,
    private readonly gated: boolean,
  ) {}

  down(view: Viewport, spot: Spot): void {
    const { desk } = this;
    if (desk.readOnly) return toast("This archive is open for reading only.");
    if (desk.shown.locked.has(desk.label.name)) return toast(`“${desk.label.name}” is locked.`);
    this.id = desk.target(view.stack);
    this.bitmap = view.plane.bitmap(this.id).slice();
    this.last = spot;
    this.move(view, spot, true);
  }

  move(view: Viewport, spot: Spot, pressed: boolean): void {
    this.at = spot;
    if (!pressed || !this.bitmap || !this.last) return view.redraw();
    const { plane } = view;
    const rect = stroke(this.bitmap, plane.width, plane.height, [this.last.v, this.last.u], [spot.v, spot.u], this.desk.radius, this.erase ? 0 : 1, plane.stretch, this.gate(view));
    this.last = spot;
    if (rect) view.repaint(wider(rect, plane.width, plane.height), { bitmap: this.bitmap, color: colourOf(this.desk.label), opacity: this.desk.shown.opacity.get(this.desk.label.name) ?? OPACITY, over: this.id });
  }

  up(view: Viewport): void {
    if (!this.bitmap) return;
    commit(view, this.id, this.bitmap, this.desk, this.erase ? "eraser" : this.gated ? "threshold brush" : "brush");
    this.bitmap = this.last = null;
  }

  draw(view: Viewport, context: CanvasRenderingContext2D): void {
    if (!this.at) return;
    const { x, y } = view.spotAt(this.at.u, this.at.v);
    context.strokeStyle = this.erase ? "#fff" : colourOf(this.desk.label);
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(x, y, this.desk.radius * view.camera.zoom, 0, 7);
    context.stroke();
  }

  /** Pixels that may be written: within the values, and of no locked label. */
  private gate(view: Viewport): ((pixel: number) => boolean) | undefined {
    const locked = view.stack.annotations.of("mask").filter((m) => this.desk.shown.locked.has(m.data.label.name)).map((m) => view.plane.bitmap(m.data.id));
    const pixels = this.gated ? view.plane.pixels() : null;
    if (!pixels && !locked.length) return undefined;
    const { slope, intercept } = view.plane.native ? view.stack.scale(view.plane.index) : view.stack.info;
    const { low, high } = this.desk;
    return (pixel) => {
      if (locked.some((bitmap) => bitmap[pixel])) return false;
      const value = pixels ? pixels[pixel]! * slope + intercept : low;
      return value >= low && value <= high;
    };
  }
}

function wider(r: Rect, width: number, height: number): Rect {
  return { x0: Math.max(0, r.x0 - 1), y0: Math.max(0, r.y0 - 1), x1: Math.min(width, r.x1 + 1), y1: Math.min(height, r.y1 + 1) };
}

/** Stores what a plane of a mask became; of a plane across slices, its line in each of them. */
export function commit(view: Viewport, id: string, bitmap: Uint8Array, desk: Desk, tool: string): void {
  const { plane, stack } = view;
  const slices: SliceRuns[] = [];
  if (plane.native) slices.push({ k: plane.index, runs: encode(bitmap) });
  else {
    const before = plane.bitmap(id);
    for (let k = 0; k < plane.height; k++) {
      let changed = false;
      for (let u = 0; u < plane.width && !changed; u++) changed = before[k * plane.width + u] !== bitmap[k * plane.width + u];
      if (!changed) continue;
      const slice = stack.annotations.bitmap(id, k).slice();
      for (let u = 0; u < plane.width; u++) {
        const [i, j] = plane.voxel(u, k);
        slice[j * stack.info.columns + i] = bitmap[k * plane.width + u]!;
      }
      slices.push({ k, runs: encode(slice) });
    }
  }
  if (slices.length && (stack.annotations.marks.has(id) || slices.some((s) => s.runs.length))) stack.annotations.setSlices(id, slices, desk.label, tool);
}

/** Grows a region from a press, by values within the tolerance of the one there. */
class Grow implements Hand {
  constructor(private readonly desk: Desk) {}
  move(): void {}
  up(): void {}

  down(view: Viewport, spot: Spot): void {
    void this.grow(view, Math.round(spot.u), Math.round(spot.v));
  }

  private async grow(view: Viewport, u: number, v: number): Promise<void> {
    const { desk } = this;
    const { stack, plane } = view;
    if (u < 0 || v < 0 || u >= plane.width || v >= plane.height) return;
    const [i, j, k] = plane.voxel(u, v);
    const value = stack.value([i, j, k]);
    if (desk.readOnly || value === undefined) return;
    if (desk.shown.locked.has(desk.label.name)) return toast(`“${desk.label.name}” is locked.`);
    const id = desk.target(stack);
    const bounds = (at: number) => {
      const { slope, intercept } = stack.scale(at);
      const ends = [(value - desk.tolerance - intercept) / slope, (value + desk.tolerance - intercept) / slope];
      return [Math.min(...ends), Math.max(...ends)] as const;
    };
    const { columns, rows, frames } = stack.info;
    const runsAt = (at: number) => stack.annotations.marks.get(id)?.runs.get(at) ?? [];
    if (!desk.deep) {
      const found = encode(grow2d(stack.frames.get(k)!, columns, rows, j * columns + i, ...bounds(k)));
      if (!found.length) return toast("Nothing to grow from there.");
      return stack.annotations.setSlices(id, desk.spare(stack, [{ k, runs: union(runsAt(k), found) }], id), desk.label, "region grow");
    }
    toast("Growing…");
    const found = await grow3d((at) => stack.frames.load(at), [frames, rows, columns], [k, j * columns + i], bounds, MOST_VOXELS, () => new Promise((go) => setTimeout(go)));
    if (found.cut) return toast("The region leaks: lower the tolerance.", "bad");
    const slices = desk.spare(stack, [...found.slices].map(([at, bitmap]) => ({ k: at, runs: union(runsAt(at), encode(bitmap)) })), id);
    stack.annotations.setSlices(id, slices, desk.label, "region grow 3-D");
  }
}

/** Draws points, lines, boxes, ellipses, polygons, freehand contours and measures. */
class Shape implements Hand {
  points: Point[] = [];
  private at: Point | null = null;
  private from: Spot | null = null;

  constructor(
    private readonly desk: Desk,
    readonly name: "point" | "line" | "box" | "ellipse" | "polygon" | "freehand" | "ruler" | "angle",
  ) {}

  down(view: Viewport, spot: Spot): void {
    if (this.desk.readOnly) return toast("This archive is open for reading only.");
    if (!view.plane.native) return toast("Contours are drawn on slices as they were acquired.");
    this.from = spot;
    this.points.push([spot.v, spot.u]);
    this.at = [spot.v, spot.u];
    const wanted = { point: 1, angle: 3 }[this.name as string];
    if (wanted && this.points.length === wanted) this.finish(view);
  }

  move(view: Viewport, spot: Spot, pressed: boolean): void {
    this.at = [spot.v, spot.u];
    if (pressed && this.name === "freehand" && this.points.length) this.points.push(this.at);
    if (this.points.length) view.redraw();
  }

  up(view: Viewport, spot: Spot): void {
    const moved = this.from && Math.hypot(spot.x - this.from.x, spot.y - this.from.y) > 4;
    const pair = ["box", "ellipse", "ruler", "line"].includes(this.name);
    if (this.name === "freehand" && this.points.length) this.finish(view);
    else if (pair && moved && this.points.length === 1) {
      this.points.push([spot.v, spot.u]);
      this.finish(view);
    } else if (pair && this.name !== "line" && this.points.length === 2) this.finish(view);
    else if (this.name === "polygon" && this.points.length > 3 && !moved) {
      const first = view.spotAt(this.points[0]![1], this.points[0]![0]);
      if (Math.hypot(first.x - spot.x, first.y - spot.y) < 9) {
        this.points.pop();
        this.finish(view);
      }
    }
  }

  cancel(): void {
    this.points = [];
  }

  finish(view: Viewport): void {
    let points = this.points;
    this.points = [];
    const { name, desk } = this;
    const { stack, plane } = view;
    if (name === "freehand") points = simplify(points, 0.4);
    if (points.length < ({ polygon: 3, freehand: 3, point: 1, angle: 3 }[name as string] ?? 2)) return view.redraw();
    if (name === "ellipse") points = ends(points);
    const measured = name === "ruler" || name === "angle";
    const kind: Kind = measured ? "measurement" : (name as Kind);
    const closed = !measured && name !== "line" && name !== "point";
    const known = stack.info.spacing !== null;
    const value = name === "ruler" ? wayLength(points, plane.spacing) : name === "angle" ? angle(points, plane.spacing) : null;
    const label: Annotation["label"] = measured ? { name: name === "ruler" ? "Length" : "Angle", color: "#f2d479", code: null } : bare(desk.label);
    const contour = { slice: plane.index, closed, points: points.map(([r, c]) => [round(r), round(c)]) };
    const chosen = desk.shown.chosen && closed ? stack.annotations.marks.get(desk.shown.chosen)?.data : undefined;
    if (chosen && chosen.kind === kind && chosen.label.name === label.name && !chosen.contours.some((c) => c.slice === plane.index)) {
      // The chosen contour goes on through the slices, so that those between can be filled in.
      stack.annotations.change(chosen.id, { contours: [...chosen.contours, contour] });
      return desk.say();
    }
    desk.shown.chosen = stack.annotations.add({
      kind, label, value, unit: name === "angle" ? "deg" : value === null ? "" : known ? "mm" : "{pixel}", tool: name, slice: plane.index,
      contours: [contour],
    });
    desk.say();
  }

  draw(view: Viewport, context: CanvasRenderingContext2D): void {
    if (!this.points.length || !this.at) return;
    const open = this.name === "freehand" ? this.points : [...this.points, this.at];
    const kind = open.length === 2 ? this.name : "line";
    const corners = kind === "ellipse" ? outline(kind, { slice: 0, closed: true, points: ends(open) }) : outline(kind, { slice: 0, closed: true, points: open });
    const screen = corners.map(([r, c]): [number, number] => { const s = view.spotAt(c, r); return [s.x, s.y]; });
    context.lineWidth = 1.5;
    drawLine(context, screen, colourOf(this.desk.label), kind === "box" || kind === "ellipse");
    if (this.name === "ruler") words(context, `${wayLength(open, view.plane.spacing).toFixed(1)} ${view.stack.info.spacing ? "mm" : "px"}`, screen.at(-1)![0] + 10, screen.at(-1)![1]);
  }
}

/** Ends of the axes of the ellipse in a box. */
function ends([a, b]: Point[]): Point[] {
  const [row, column] = [(a![0] + b![0]) / 2, (a![1] + b![1]) / 2];
  return [[row, a![1]], [row, b![1]], [a![0], column], [b![0], column]];
}

const round = (value: number) => Math.round(value * 100) / 100;

/** Chooses what is pressed; drags its corners. */
class Select implements Hand {
  private held: { id: string; contour: number; point: number; moved: boolean } | null = null;

  constructor(private readonly desk: Desk) {}

  down(view: Viewport, spot: Spot): void {
    const p: Point = [spot.v, spot.u];
    const near = 8 / view.camera.zoom;
    this.held = null;
    let chosen: string | null = null;
    for (const { data } of view.stack.annotations.marks.values()) {
      if (this.desk.shown.hidden.has(data.label.name)) continue;
      if (data.kind === "mask") {
        if (!chosen && view.plane.bitmap(data.id)[Math.round(spot.v) * view.plane.width + Math.round(spot.u)]) chosen = data.id;
        continue;
      }
      data.contours.forEach((contour, c) => {
        if (contour.slice !== view.plane.index || !view.plane.native) return;
        contour.points.forEach((q, i) => {
          if (Math.hypot(q[0]! - p[0], q[1]! - p[1]) < near) this.held = { id: data.id, contour: c, point: i, moved: false };
        });
        const line = outline(data.kind, contour);
        const hit = line.some((q, i) => i + Number(contour.closed) > 0 && awayFrom(p, line.at(i - 1)!, q) < near);
        if (hit || (contour.closed && inside(p, line))) chosen = data.id;
      });
    }
    const held = this.held as { id: string } | null;
    if (held && this.desk.shown.locked.has(view.stack.annotations.marks.get(held.id)!.data.label.name)) this.held = null;
    this.desk.shown.chosen = held?.id ?? chosen;
    this.desk.say();
    view.redraw();
  }

  move(view: Viewport, spot: Spot, pressed: boolean): void {
    const mark = this.held && view.stack.annotations.marks.get(this.held.id);
    if (!pressed || !this.held || !mark || this.desk.readOnly) return;
    this.held.moved = true;
    const contours = mark.data.contours.map((c) => ({ ...c, points: c.points.map((p) => [...p]) }));
    contours[this.held.contour]!.points[this.held.point] = [round(spot.v), round(spot.u)];
    view.stack.annotations.preview(this.held.id, contours);
  }

  up(view: Viewport): void {
    const mark = this.held && view.stack.annotations.marks.get(this.held.id);
    if (!this.held?.moved || !mark) return;
    const { contours, tool } = mark.data;
    const points = contours[0]!.points;
    const value = tool === "ruler" ? wayLength(points, view.plane.spacing) : tool === "angle" ? angle(points, view.plane.spacing) : mark.data.value;
    view.stack.annotations.change(this.held.id, { contours, value });
    this.held = null;
  }
}

export type Hands = Record<string, Hand & { finish?(view: Viewport): unknown; cancel?(): void }>;

export function makeHands(desk: Desk): Hands {
  const cross = (view: Viewport, spot: Spot) => view.stack.go(view.plane.voxel(Math.round(spot.u), Math.round(spot.v)));
  const shape = (name: Shape["name"]) => new Shape(desk, name);
  return {
    select: new Select(desk),
    window: mover((view, dx, dy) => view.dragWindow(dx, dy)),
    pan: mover((view, dx, dy) => view.setCamera({ ...view.camera, x: view.camera.x + dx, y: view.camera.y + dy })),
    zoom: mover((view, _, dy, start) => view.setCamera(zoomAt(view.camera, Math.exp(-dy / 150), start.x, start.y, view.screen))),
    probe: { down: cross, move: (view, spot, pressed) => pressed && cross(view, spot), up: () => undefined },
    ruler: shape("ruler"), angle: shape("angle"), point: shape("point"), line: shape("line"), box: shape("box"),
    ellipse: shape("ellipse"), polygon: shape("polygon"), freehand: shape("freehand"),
    brush: new Brush(desk, false, false), eraser: new Brush(desk, true, false), threshold: new Brush(desk, false, true),
    grow: new Grow(desk), assist: desk.assist,
  };
}

/** A contour as a mask of its label. */
export function toBitmap(view: Viewport, data: Annotation): Uint8Array {
  const bitmap = new Uint8Array(view.plane.width * view.plane.height);
  fillPolygons(bitmap, view.plane.width, view.plane.height, data.contours.filter((c) => c.slice === view.plane.index && c.closed).map((c) => outline(data.kind, c)));
  return bitmap;
}
