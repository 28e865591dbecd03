/** A stack that is open: its frames, annotations and how it is seen; and planes cut through it. */

import { apply, cross, direction, invert, planeName, type Affine, type Vec3 } from "../core/geometry";
import { autoWindow, type Window } from "../core/lut";
import { decode, writeColumn, writeRow } from "../core/rle";
import { Annotations } from "./annotations";
import { Emitter } from "./emitter";
import { FrameStore, type Pixels } from "./frames";
import type { Outbox } from "./outbox";
import type { StackInfo } from "./types";

/** The axis that stands still: 2 slices (as acquired), 1 rows, 0 columns. */
export type Axis = 0 | 1 | 2;

export class Stack extends Emitter<{ window: Window; place: Vec3 }> {
  readonly frames: FrameStore;
  readonly annotations: Annotations;
  readonly inverse: Affine | null;
  window: Window | null;
  inverted: boolean;
  /** Voxel (i, j, k) at the crosshair; its k is the slice that is shown. */
  place: Vec3;

  constructor(
    readonly info: StackInfo,
    outbox: Outbox,
    author: string,
  ) {
    super();
    this.frames = new FrameStore(info);
    this.annotations = new Annotations(info.id, outbox, author, info.rows * info.columns);
    this.window = info.window ?? info.windows[0] ?? null;
    this.inverted = info.inverted ?? false;
    this.place = [info.columns >> 1, info.rows >> 1, info.frames >> 1];
    this.inverse = info.affine && invert(info.affine);
    this.frames.on("frame", (k) => {
      if (this.window || info.colour) return;
      const { slope, intercept } = this.scale(k);
      this.setWindow(autoWindow(this.frames.get(k)!, slope, intercept));
    });
  }

  stop(): void {
    this.frames.stop();
    this.annotations.stop();
  }

  setWindow(window: Window): void {
    this.window = window;
    this.emit("window", window);
  }

  go(place: Vec3): void {
    const { columns, rows, frames } = this.info;
    const most = [columns - 1, rows - 1, frames - 1];
    this.place = place.map((v, axis) => Math.min(most[axis]!, Math.max(0, Math.round(v)))) as Vec3;
    this.frames.look(this.place[2]);
    this.emit("place", this.place);
  }

  scale(k: number): { slope: number; intercept: number } {
    const slice = this.info.slices[k];
    return { slope: slice?.slope ?? this.info.slope, intercept: slice?.intercept ?? this.info.intercept };
  }

  /** The value of a voxel in the unit of the stack; undefined where its frame is not there, and for colour. */
  value([i, j, k]: Vec3): number | undefined {
    const stored = this.info.colour ? undefined : this.frames.get(k)?.[j * this.info.columns + i];
    if (stored === undefined) return undefined;
    const { slope, intercept } = this.scale(k);
    return stored * slope + intercept;
  }

  mm(place: Vec3): Vec3 | null {
    return this.info.affine ? apply(this.info.affine, place) : null;
  }

  /** Span of values that a drag of the mouse runs over. */
  get range(): number {
    return this.info.modality === "CT" ? 2000 : Math.max(this.window?.width ?? 0, 1) * 1.5;
  }
}

/** A plane through a stack, as an image of (column u, row v). */
export class Plane {
  readonly width: number;
  readonly height: number;
  /** Of a pixel, in mm; 1 where it is not known. */
  readonly spacing: readonly [number, number];

  constructor(
    readonly stack: Stack,
    readonly axis: Axis,
  ) {
    const { columns, rows, frames, spacing } = stack.info;
    const [dz, dy, dx] = spacing ?? [1, 1, 1];
    [this.width, this.height] = axis === 2 ? [columns, rows] : axis === 1 ? [columns, frames] : [rows, frames];
    this.spacing = axis === 2 ? [dy, dx] : axis === 1 ? [dz, dx] : [dz, dy];
  }

  get index(): number {
    return this.stack.place[this.axis]!;
  }

  get count(): number {
    return [this.stack.info.columns, this.stack.info.rows, this.stack.info.frames][this.axis]!;
  }

  get native(): boolean {
    return this.axis === 2;
  }

  /** Height of a pixel in units of its width. */
  get stretch(): number {
    return this.spacing[0] / this.spacing[1];
  }

  voxel(u: number, v: number): Vec3 {
    return this.axis === 2 ? [u, v, this.index] : this.axis === 1 ? [u, this.index, v] : [this.index, u, v];
  }

  /** (u, v) of a voxel. */
  flat([i, j, k]: Vec3): [number, number] {
    return this.axis === 2 ? [i, j] : this.axis === 1 ? [i, k] : [j, k];
  }

  /** Directions in the patient of u and v; null where nothing is known. */
  get ways(): [Vec3, Vec3] | null {
    const { affine, slices } = this.stack.info;
    if (affine) {
      const [a, b] = this.axis === 2 ? [0, 1] : this.axis === 1 ? [0, 2] : [1, 2];
      return [direction(affine, a as Axis), direction(affine, b as Axis)];
    }
    const o = slices[this.index]?.orientation;
    return this.native && o ? [o.slice(0, 3) as Vec3, o.slice(3) as Vec3] : null;
  }

  get name(): string {
    const ways = this.ways;
    return ways ? planeName(cross(ways[0], ways[1])) : "";
  }

  /** Stored values, each with its own slope already made up for where slices differ; null while nothing is there. */
  pixels(): Pixels | null {
    const { frames, info } = this.stack;
    if (this.native) return frames.get(this.index) ?? null;
    if (info.colour) return null;
    const out = info.signed ? new Int16Array(this.width * this.height) : new Uint16Array(this.width * this.height);
    if (info.signed) out.fill(-1024);
    let any = false;
    for (let k = 0; k < this.height; k++) {
      const frame = frames.get(k);
      if (!frame) continue;
      any = true;
      const at = k * this.width;
      if (this.axis === 1) out.set(frame.subarray(this.index * info.columns, (this.index + 1) * info.columns), at);
      else for (let j = 0, from = this.index; j < info.rows; j++, from += info.columns) out[at + j] = frame[from]!;
      const { slope, intercept } = this.stack.scale(k);
      if (slope !== info.slope || intercept !== info.intercept) {
        for (let x = at; x < at + this.width; x++) out[x] = Math.round((out[x]! * slope + intercept - info.intercept) / info.slope);
      }
    }
    return any ? out : null;
  }

  /** What a mask covers of the plane. */
  bitmap(id: string): Uint8Array {
    const marks = this.stack.annotations;
    return this.native ? marks.bitmap(id, this.index) : this.cut(marks.marks.get(id)?.runs ?? new Map<number, number[]>());
  }

  /** What runs by slice cover of the plane. */
  cut(runs: ReadonlyMap<number, number[]>): Uint8Array {
    if (this.native) return decode(runs.get(this.index) ?? [], this.width * this.height);
    const out = new Uint8Array(this.width * this.height);
    for (const [k, slice] of runs) {
      if (this.axis === 1) writeRow(slice, this.stack.info.columns, this.index, out, k * this.width);
      else writeColumn(slice, this.stack.info.columns, this.index, out, k * this.width);
    }
    return out;
  }

  /** Whether a mask may have pixels here. */
  touched(id: string): boolean {
    const runs = this.stack.annotations.marks.get(id)?.runs;
    return Boolean(runs && (this.native ? runs.has(this.index) : runs.size));
  }
}
