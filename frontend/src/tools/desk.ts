/** What is in the hand: the label, the brush, the tool; shared by all viewports. */

import { Emitter } from "../data/emitter";
import { newId } from "../data/annotations";
import type { Stack } from "../data/stack";
import type { Label, LabelSet, SliceRuns } from "../data/types";
import type { Shown } from "../ui/overlay";
import { Assist, without } from "./assist";

export class Desk extends Emitter<{ changed: null }> {
  sets: LabelSet[] = [];
  label: Label = { name: "Finding", color: "#e2b45f", key: "1", code: null };
  tool = "window";
  radius = 8;
  low = 0;
  high = 300;
  tolerance = 60;
  deep = false;
  readOnly = false;
  readonly shown: Shown = { hidden: new Set(), locked: new Set(), opacity: new Map(), chosen: null, heat: null, proposal: null };
  readonly assist = new Assist(this);
  private fresh = "";
  private unused = false;

  say(): void {
    this.emit("changed", null);
  }

  get labels(): Label[] {
    return this.sets.flatMap((set) => set.labels);
  }

  /** Slices of a mask without what no stroke may touch: pixels of labels that are locked. */
  spare(stack: Stack, slices: SliceRuns[], id: string): SliceRuns[] {
    return without(stack, slices, this.shown.locked, id);
  }

  /** The mask that strokes go to: the chosen one, else the first of the label, else a new one. */
  target(stack: Stack): string {
    const chosen = this.shown.chosen && stack.annotations.marks.get(this.shown.chosen);
    if (chosen && chosen.data.kind === "mask" && chosen.data.label.name === this.label.name) return chosen.data.id;
    if (this.unused) {
      this.unused = false;
      return this.fresh;
    }
    if (this.fresh && stack.annotations.marks.get(this.fresh)?.data.label.name === this.label.name) return this.fresh;
    const first = stack.annotations.of("mask").find((m) => m.data.label.name === this.label.name && m.data.author === stack.annotations.author);
    return first?.data.id ?? newId();
  }

  /** The next stroke begins a mask of its own. */
  begin(): void {
    this.fresh = newId();
    this.unused = true;
    this.shown.chosen = null;
  }
}
