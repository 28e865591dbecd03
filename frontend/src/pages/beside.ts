/** Two stacks side by side: which, and how they move together. */

import { apply, cross, nearest, type Vec3 } from "../core/geometry";
import { api } from "../data/api";
import type { Stack } from "../data/stack";
import { dialog, el, toast } from "../ui/dom";
import { person } from "../ui/words";
import type { App } from "./app";

/** Lets the user choose what is put beside a stack; those of the same patient first. */
export async function chooseBeside(app: App, id: string): Promise<void> {
  const { items } = await api.worklist({ limit: "2000" });
  const mine = items.find((item) => item.id === id);
  const kin = (item: (typeof items)[number]) => (item.study === mine?.study && item.study ? 0 : item.patient_id === mine?.patient_id && item.patient === mine?.patient ? 1 : 2);
  const others = items.filter((item) => item.id !== id).sort((a, b) => kin(a) - kin(b)).slice(0, 60);
  if (!others.length) return toast("There is no other stack to be put beside it.");
  const box = dialog("Side by side with", el("ul", { class: "cards narrow" }, ...others.map((item) =>
    el("li", {}, el("button", { type: "button", class: "card", onclick: () => { box.close(); app.go(`#/stack/${id}/beside/${item.id}`); } },
      el("img", { src: `${api.of(item.id)}/thumbnail.jpg`, alt: "", loading: "lazy", width: 76, height: 76 }),
      el("span", { class: "grow" }, el("span", { class: "row" }, el("span", { class: "modality" }, item.modality || "?"), el("span", { class: "name cut" }, item.description || "No description")), el("span", { class: "soft cut block" }, `${person(item.patient) || "No name"} · ${item.columns} × ${item.rows}${item.frames > 1 ? ` × ${item.frames}` : ""}`)))))));
}

/** Whether places in one stack mean places in the other: one frame of reference (PS3.3 C.7.4.1.1.1). */
export function joined(a: Stack, b: Stack): boolean {
  return a.info.frame_of_reference !== null && a.info.frame_of_reference === b.info.frame_of_reference;
}

/** Two stacks of one frame of reference move together, by the place in the patient; others by their share of the way. */
export function link(a: Stack, b: Stack): (() => void)[] {
  const same = joined(a, b);
  let busy = false;
  const follow = (from: Stack, to: Stack) => from.on("place", () => {
    if (busy) return;
    busy = true;
    to.go((same && placed(from, to)) || [to.place[0], to.place[1], Math.round((from.place[2] * (to.info.frames - 1)) / Math.max(1, from.info.frames - 1))]);
    busy = false;
  });
  const ends = [follow(a, b), follow(b, a)];
  a.go(a.place);
  return ends;
}

/** The voxel of a stack at the crosshair of another. */
function placed(from: Stack, to: Stack): Vec3 | null {
  const slice = from.info.slices[from.place[2]];
  const place = from.mm(from.place) ?? slice?.position;
  if (!place) return null;
  if (to.inverse) return apply(to.inverse, place);
  const o = to.info.slices[0]?.orientation;
  if (!o) return null;
  const k = nearest(to.info.slices.map((s) => s.position), place, cross([o[0]!, o[1]!, o[2]!], [o[3]!, o[4]!, o[5]!]));
  return k < 0 ? null : [to.place[0], to.place[1], k];
}
