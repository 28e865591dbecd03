/** Prompts for an assistant, and what it proposes: looked at in all planes, and only kept when it is accepted. */

import type { Vec3 } from "../core/geometry";
import { area, subtract, union, type Runs } from "../core/rle";
import { api, send } from "../data/api";
import type { Stack } from "../data/stack";
import type { Label, SliceRuns } from "../data/types";
import { toast } from "../ui/dom";
import { drawLine } from "../ui/overlay";
import type { Hand, Spot, Viewport } from "../ui/viewport";
import { colourOf } from "../ui/words";
import type { Desk } from "./desk";

export interface Proposal {
  stack: Stack;
  label: Label;
  runs: ReadonlyMap<number, Runs>;
  voxels: number;
}

type Voxel = [number, number, number];

/** A press marks what belongs to it, Shift and a press what does not, a drag on a slice a box around it. */
export class Assist implements Hand {
  /** Of those that are installed. */
  name = "";
  busy = false;
  private foreground: Voxel[] = [];
  private background: Voxel[] = [];
  private box: [Voxel, Voxel] | null = null;
  private stack: Stack | null = null;
  private from: Spot | null = null;
  private to: Spot | null = null;
  private asked = 0;

  constructor(private readonly desk: Desk) {}

  get prompts(): number {
    return this.foreground.length + this.background.length + Number(this.box !== null);
  }

  down(view: Viewport, spot: Spot): void {
    if (this.desk.readOnly) return toast("This archive is open for reading only.");
    if (this.stack !== view.stack) this.cancel();
    this.stack = view.stack;
    this.from = this.to = spot;
  }

  move(view: Viewport, spot: Spot, pressed: boolean): void {
    if (!pressed || !this.from) return;
    this.to = spot;
    view.redraw();
  }

  up(view: Viewport, spot: Spot): void {
    const { from } = this;
    this.from = this.to = null;
    if (!from) return;
    const [a, b] = [voxelAt(view, from), voxelAt(view, spot)];
    if (Math.hypot(spot.x - from.x, spot.y - from.y) > 6) this.box = [0, 1].map((end) => a.map((v, n) => (end ? Math.max(v, b[n]!) : Math.min(v, b[n]!)))) as [Voxel, Voxel];
    else (from.shift ? this.background : this.foreground).push(a);
    void this.ask(view.stack);
  }

  /** The proposal becomes a mask of its own. */
  finish(): string | null {
    const { desk } = this;
    const found = desk.shown.proposal;
    if (!found) return null;
    desk.label = found.label;
    desk.begin();
    const id = desk.target(found.stack);
    const slices = desk.spare(found.stack, [...found.runs].map(([k, runs]) => ({ k, runs })), id);
    this.cancel();
    found.stack.annotations.setSlices(id, slices, found.label, `assist ${this.name}`);
    desk.shown.chosen = id;
    desk.say();
    return id;
  }

  /** Prompts and proposal are let go. */
  cancel(): void {
    this.asked++;
    this.busy = false;
    this.foreground = [];
    this.background = [];
    this.box = null;
    this.from = this.to = this.stack = null;
    if (this.desk.shown.proposal) {
      this.desk.shown.proposal = null;
      this.desk.say();
    }
  }

  private async ask(stack: Stack): Promise<void> {
    const turn = ++this.asked;
    const { box } = this;
    if (!this.foreground.length && !box) {
      toast("Press on what you look for, too.");
      return this.desk.say();
    }
    // What lies in the middle of a box is taken to belong to it.
    const foreground = this.foreground.length ? this.foreground : [box![0].map((v, n) => Math.round((v + box![1][n]!) / 2)) as Voxel];
    this.busy = true;
    this.desk.say();
    try {
      const body = { prompts: { foreground, background: this.background, box: box && [...box[0], ...box[1]] } };
      const mask = await send<{ slices: SliceRuns[] }>(`${api.of(stack.info.id)}/assist/${encodeURIComponent(this.name)}`, body);
      if (turn !== this.asked) return;
      const runs = new Map(mask.slices.map((slice) => [slice.k, slice.runs]));
      const voxels = [...runs.values()].reduce((sum, one) => sum + area(one), 0);
      this.desk.shown.proposal = voxels ? { stack, label: this.desk.label, runs, voxels } : null;
      if (!voxels) toast("Nothing was found there.");
    } catch (error) {
      if (turn === this.asked) toast(error instanceof Error ? error.message : String(error), "bad");
    }
    if (turn === this.asked) this.busy = false;
    this.desk.say();
  }

  draw(view: Viewport, context: CanvasRenderingContext2D): void {
    if (view.stack !== this.stack) return;
    const { plane } = view;
    const here = (voxel: Voxel): [number, number] | null => {
      const place: Vec3 = [voxel[2], voxel[1], voxel[0]];
      return place[plane.axis] === plane.index ? plane.flat(place) : null;
    };
    for (const [voxels, sign] of [[this.foreground, "+"], [this.background, "−"]] as const) {
      for (const at of voxels.map(here)) if (at) prompt(view, context, at, sign, sign === "+" ? colourOf(this.desk.label) : "#c8ced6");
    }
    const [p, q] = this.from && this.to ? [[this.from.u, this.from.v], [this.to.u, this.to.v]] : this.box ? this.box.map(here) : [];
    if (!p || !q) return;
    const corners = [[p[0], p[1]], [q[0], p[1]], [q[0], q[1]], [p[0], q[1]]].map(([u, v]): [number, number] => {
      const { x, y } = view.spotAt(u!, v!);
      return [x, y];
    });
    context.lineWidth = 1.5;
    context.setLineDash([5, 4]);
    drawLine(context, corners, colourOf(this.desk.label), true);
    context.setLineDash([]);
  }
}

/** (slice, row, column) under a spot, within the stack. */
function voxelAt(view: Viewport, spot: Spot): Voxel {
  const { width, height } = view.plane;
  const inside = (value: number, most: number) => Math.min(most - 1, Math.max(0, Math.round(value)));
  const [i, j, k] = view.plane.voxel(inside(spot.u, width), inside(spot.v, height));
  return [k, j, i];
}

function prompt(view: Viewport, context: CanvasRenderingContext2D, [u, v]: [number, number], sign: string, color: string): void {
  const { x, y } = view.spotAt(u, v);
  context.beginPath();
  context.arc(x, y, 8, 0, 7);
  context.fillStyle = "rgb(0 0 0 / .7)";
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = context.fillStyle = color;
  context.stroke();
  context.font = "600 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(sign, x, y + 0.5);
}

/** Slices without the pixels of masks whose label is locked. */
export function without(stack: Stack, slices: SliceRuns[], locked: ReadonlySet<string>, but: string): SliceRuns[] {
  const held = stack.annotations.of("mask").filter((m) => m.data.id !== but && locked.has(m.data.label.name));
  if (!held.length) return slices;
  return slices.map(({ k, runs }) => ({ k, runs: subtract(runs, held.reduce<Runs>((all, m) => union(all, m.runs.get(k) ?? []), [])) }));
}
