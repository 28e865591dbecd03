/** What is done to whole slices of annotations: fill, copy, interpolate, threshold to a mask. */

import { betweenContours, betweenMasks } from "../core/interpolate";
import { fillHoles } from "../core/grow";
import type { Point } from "../core/raster";
import { encode, union } from "../core/rle";
import type { Contour, SliceRuns } from "../data/types";
import { toast } from "../ui/dom";
import { outline } from "../ui/overlay";
import type { Viewport } from "../ui/viewport";
import type { Desk } from "./desk";
import { commit, toBitmap } from "./hands";

/** Whether something may be changed; says why not. */
function free(desk: Desk, name = desk.label.name): boolean {
  if (desk.readOnly) toast("This archive is open for reading only.");
  else if (desk.shown.locked.has(name)) toast(`“${name}” is locked.`);
  return !desk.readOnly && !desk.shown.locked.has(name);
}

/** Holes of the mask on this slice; or the inside of the chosen contour, as a mask. */
export function fillRegion(view: Viewport, desk: Desk): void {
  const chosen = desk.shown.chosen ? view.stack.annotations.marks.get(desk.shown.chosen) : undefined;
  if (!free(desk)) return;
  const id = desk.target(view.stack);
  if (chosen && chosen.data.kind !== "mask") {
    const runs = view.stack.annotations.marks.get(id)?.runs.get(view.plane.index) ?? [];
    const inside = encode(toBitmap(view, chosen.data));
    if (inside.length) view.stack.annotations.setSlices(id, desk.spare(view.stack, [{ k: view.plane.index, runs: union(runs, inside) }], id), desk.label, "fill");
    return;
  }
  if (view.plane.touched(id)) commit(view, id, fillHoles(view.plane.bitmap(id), view.plane.width, view.plane.height), desk, "fill");
}

/** Copies what is on this slice to the next one, in the sense given, and goes there. */
export function copyToNext(view: Viewport, desk: Desk, step: 1 | -1): void {
  const { stack, plane } = view;
  const [k, next] = [plane.index, plane.index + step];
  const chosen = desk.shown.chosen ? stack.annotations.marks.get(desk.shown.chosen) : undefined;
  if (!plane.native || next < 0 || next >= plane.count || !free(desk, chosen?.data.label.name)) return;
  if (chosen && chosen.data.kind !== "mask") {
    const there = chosen.data.contours.filter((c) => c.slice === k).map((c) => ({ ...c, slice: next }));
    if (there.length) stack.annotations.change(chosen.data.id, { contours: [...chosen.data.contours.filter((c) => c.slice !== next), ...there] });
  } else {
    const id = desk.target(stack);
    const runs = stack.annotations.marks.get(id)?.runs;
    if (runs?.has(k)) stack.annotations.setSlices(id, desk.spare(stack, [{ k: next, runs: union(runs.get(next) ?? [], runs.get(k)!) }], id), desk.label, "copy");
  }
  view.scroll(step);
}

/** Fills the slices between those that are annotated: of the chosen contour, else of the mask of the label. */
export function interpolate(view: Viewport, desk: Desk): void {
  const { annotations, info } = view.stack;
  const chosen = desk.shown.chosen ? annotations.marks.get(desk.shown.chosen) : undefined;
  if (!free(desk, chosen?.data.label.name)) return;
  if (chosen && ["polygon", "freehand", "ellipse", "box"].includes(chosen.data.kind)) {
    const { kind, contours } = chosen.data;
    const known = contours.filter((c) => c.slice !== null && c.closed).sort((a, b) => a.slice! - b.slice!);
    const made: Contour[] = [];
    for (let n = 1; n < known.length; n++) {
      const [a, b] = [known[n - 1]!, known[n]!];
      const count = b.slice! - a.slice! - 1;
      if (count < 1) continue;
      const exact = kind === "box" || kind === "ellipse";
      const steps = exact
        ? Array.from({ length: count }, (_, i) => a.points.map((p, m) => p.map((v, x) => v + ((i + 1) / (count + 1)) * (b.points[m]![x]! - v))))
        : betweenContours(outline(kind, a) as Point[], outline(kind, b) as Point[], count);
      steps.forEach((points, i) => made.push({ slice: a.slice! + i + 1, closed: true, points: points.map((p) => p.map((v) => Math.round(v * 100) / 100)) }));
    }
    if (!made.length) return toast("Draw it on two slices that lie apart first.");
    annotations.change(chosen.data.id, { contours: [...contours, ...made] });
    return toast(`${made.length} slices filled in.`);
  }
  const id = desk.target(view.stack);
  const runs = annotations.marks.get(id)?.runs;
  const known = [...(runs?.keys() ?? [])].sort((a, b) => a - b);
  const made: SliceRuns[] = [];
  for (let n = 1; n < known.length; n++) {
    const [a, b] = [known[n - 1]!, known[n]!];
    if (b - a < 2) continue;
    betweenMasks(annotations.bitmap(id, a), annotations.bitmap(id, b), info.columns, info.rows, b - a - 1).forEach((bitmap, i) => {
      const between = encode(bitmap);
      if (between.length) made.push({ k: a + i + 1, runs: between });
    });
  }
  if (!made.length) return toast("Paint it on two slices that lie apart first.");
  annotations.setSlices(id, desk.spare(view.stack, made, id), desk.label, "interpolate");
  toast(`${made.length} slices filled in.`);
}
