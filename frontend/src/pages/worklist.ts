/** What there is to do: patients, their stacks, and how far each is. */

import { api } from "../data/api";
import type { Item, Worklist } from "../data/types";
import { date, el, fill, iconButton } from "../ui/dom";
import { bar, type App } from "./app";

const STATES: [string, string][] = [["", "All"], ["todo", "To do"], ["draft", "Begun"], ["reviewed", "Reviewed"]];

export async function worklist(app: App): Promise<{ root: HTMLElement; stop: () => void; next: () => void }> {
  const filter = { search: "", modality: "", state: "" };
  const list = el("main", { class: "list", "aria-label": "Worklist", tabindex: "-1" });
  const side = el("nav", { class: "side", "aria-label": "Filters" });
  const search = el("input", { type: "search", placeholder: "Search  /", "aria-label": "Search", oninput: () => later() });
  let now: Worklist = { items: [], next: null };
  let all: Item[] = [];
  let timer = 0;
  const next = () => now.next && app.go(`#/stack/${now.next}`);
  const button = iconButton("next", "Next unfinished", next, "N", "Next unfinished");
  button.classList.add("primary");

  const choices = (caption: string, key: "modality" | "state", options: [string, string][], count: (value: string) => number) =>
    el("fieldset", {}, el("legend", {}, caption), ...options.map(([value, name]) =>
      el("button", { type: "button", class: "choice", "aria-pressed": String(filter[key] === value), onclick: () => ((filter[key] = value), void load()) }, el("span", {}, name), el("span", {}, count(value)))));

  const draw = () => {
    const count = (state: string) => all.filter((item) => item.state === state).length;
    const share = (n: number) => `${all.length ? (100 * n) / all.length : 0}%`;
    const bars = el("div", { class: "progress", role: "progressbar", "aria-label": "Reviewed", "aria-valuemin": "0", "aria-valuemax": String(all.length), "aria-valuenow": String(count("reviewed")) }, el("i"), el("i", { class: "half" }));
    (bars.children[0] as HTMLElement).style.width = share(count("reviewed"));
    (bars.children[1] as HTMLElement).style.width = share(count("draft"));
    const kinds = [...new Set(all.map((item) => item.modality))].filter(Boolean).sort();
    const focus = document.activeElement === search;
    fill(side, search, el("div", {}, el("div", { class: "caption" }, `${count("reviewed")} of ${all.length} reviewed`), bars),
      choices("State", "state", STATES, (value) => (value ? count(value) : all.length)),
      choices("Modality", "modality", [["", "All"], ...kinds.map((m): [string, string] => [m, m])], (value) => all.filter((i) => !value || i.modality === value).length),
      el("div", { class: "soft" }, `${app.archive.counts["files"] ?? 0} files, ${app.archive.counts["frames"] ?? 0} frames`));
    if (focus) search.focus();
    button.disabled = !now.next;
    if (!now.items.length) return fill(list, el("div", { class: "empty" }, el("p", {}, all.length ? "Nothing fits these filters." : app.archive.ingest ? "Images appear here as they are read." : "There are no images in this archive.")));
    const groups = new Map<string, Item[]>();
    for (const item of now.items) groups.set(`${item.patient} ${item.patient_id}`, [...(groups.get(`${item.patient} ${item.patient_id}`) ?? []), item]);
    fill(list, ...[...groups.values()].map((items) => el("section", {},
      el("div", { class: "patient" }, el("h2", {}, items[0]!.patient || "No name"), el("span", { class: "soft" }, items[0]!.patient_id)),
      el("ul", { class: "cards" }, ...items.map(card)))));
  };
  const load = async () => {
    const asked = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
    now = await api.worklist(asked);
    if (!Object.keys(asked).length) all = now.items;
    draw();
  };
  const later = () => {
    filter.search = search.value;
    clearTimeout(timer);
    timer = window.setTimeout(() => void load().catch(() => undefined), 180);
  };
  const ends = [app.live.on("change", later), app.live.on("ingest", later)];
  await load();
  const title = el("h1", { class: "grow cut" }, app.archive.name);
  const root = el("div", { class: "shell" }, bar(app, title, button), el("div", { class: "worklist" }, side, list));
  return { root, stop: () => ends.forEach((end) => end()), next };
}

function card(item: Item): HTMLElement {
  const state = { todo: "To do", draft: "Begun", reviewed: "Reviewed" }[item.state];
  return el("li", {}, el("a", { class: "card", href: `#/stack/${item.id}` },
    el("img", { src: `${api.of(item.id)}/thumbnail.jpg`, alt: "", loading: "lazy", width: 76, height: 76 }),
    el("div", { class: "grow" },
      el("div", { class: "row" }, el("span", { class: "modality" }, item.modality || "?"), el("span", { class: "name cut" }, item.description || "No description")),
      el("div", { class: "soft cut" }, `${date(item.study_date) || "no date"} · ${item.columns} × ${item.rows}${item.frames > 1 ? ` × ${item.frames}` : ""}`),
      el("div", { class: "row" }, el("span", { class: `state ${item.state}` }, state), item.annotated > 0 && el("span", { class: "soft" }, `${item.annotated} annotated`)))));
}
