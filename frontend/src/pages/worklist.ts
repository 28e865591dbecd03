/** What there is to do: patients, their stacks, and how far each is. */

import { api } from "../data/api";
import type { Item, Worklist } from "../data/types";
import { date, el, fill, iconButton } from "../ui/dom";
import { person } from "../ui/words";
import { bar, save, type App } from "./app";

const PAGE = 500;
const STATES: [string, string][] = [["", "All"], ["todo", "To do"], ["draft", "Begun"], ["reviewed", "Reviewed"]];

export async function worklist(app: App): Promise<{ root: HTMLElement; stop: () => void; next: () => void }> {
  const filter = { search: "", modality: "", state: "" };
  const list = el("main", { class: "list", "aria-label": "Worklist", tabindex: "-1" });
  const side = el("nav", { class: "side", "aria-label": "Filters" });
  const search = el("input", { type: "search", placeholder: "Search  /", "aria-label": "Search", oninput: () => later() });
  let now: Worklist = { items: [], next: null };
  let items: Item[] = [];
  const cards = new Map<string, HTMLElement>();
  let timer = 0;
  const next = () => now.next && app.go(`#/stack/${now.next}`);
  const button = iconButton("next", "Next unfinished", next, "N", "Next unfinished");
  button.classList.add("primary");

  const choices = (caption: string, key: "modality" | "state", options: [string, string][], count: (value: string) => number) =>
    el("fieldset", {}, el("legend", {}, caption), ...options.map(([value, name]) =>
      el("button", { type: "button", class: "choice", "aria-pressed": String(filter[key] === value), onclick: () => ((filter[key] = value), void load()) }, el("span", {}, name), el("span", {}, count(value)))));

  const draw = () => {
    const count = (state: string) => now.counts?.state[state] ?? 0;
    const total = Object.values(now.counts?.state ?? {}).reduce((sum, n) => sum + n, 0);
    const share = (n: number) => `${total ? (100 * n) / total : 0}%`;
    const bars = el("div", { class: "progress", role: "progressbar", "aria-label": "Reviewed", "aria-valuemin": "0", "aria-valuemax": String(total), "aria-valuenow": String(count("reviewed")) }, el("i"), el("i", { class: "half" }));
    (bars.children[0] as HTMLElement).style.width = share(count("reviewed"));
    (bars.children[1] as HTMLElement).style.width = share(count("draft"));
    const kinds = Object.keys(now.counts?.modality ?? {}).filter(Boolean).sort();
    const focus = document.activeElement === search;
    fill(side, search, el("div", {}, el("div", { class: "caption" }, `${count("reviewed")} of ${total} reviewed`), bars),
      choices("State", "state", STATES, (value) => (value ? count(value) : total)),
      choices("Modality", "modality", [["", "All"], ...kinds.map((m): [string, string] => [m, m])], (value) => (value ? (now.counts?.modality[value] ?? 0) : Object.values(now.counts?.modality ?? {}).reduce((sum, n) => sum + n, 0))),
      el("div", { class: "soft" }, `${app.archive.counts["files"] ?? 0} files, ${app.archive.counts["frames"] ?? 0} frames`));
    if (focus) search.focus();
    button.disabled = !now.next;
    if (!items.length) return fill(list, el("div", { class: "empty" }, el("p", {}, filter.search || filter.state || filter.modality ? "Nothing fits these filters." : app.archive.ingest ? "Images appear here as they are read." : "There are no images in this archive.")));
    const groups = new Map<string, Item[]>();
    for (const item of items) {
      const key = `${item.patient} ${item.patient_id}`;
      const there = groups.get(key);
      if (there) there.push(item);
      else groups.set(key, [item]);
    }
    const left = (now.total ?? items.length) - items.length;
    fill(list, ...[...groups.values()].map((items) => el("section", { class: items.length > 1 ? "many" : "" },
      el("div", { class: "patient" }, el("h2", {}, person(items[0]!.patient) || "No name"), el("span", { class: "soft" }, items[0]!.patient_id)),
      el("ul", { class: "cards" }, ...items.map(shown)))), left > 0 && el("button", { type: "button", class: "button more", onclick: () => void load(items.length).catch(() => undefined) }, `Show more (${left} left)`));
  };
  /** A card stays the same element for as long as it says the same, so that pictures do not flicker. */
  const shown = (item: Item) => {
    const key = JSON.stringify(item);
    const there = cards.get(key) ?? card(item);
    cards.set(key, there);
    return there;
  };
  let turn = 0;
  const load = async (offset = 0) => {
    const mine = ++turn;
    const asked = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
    const most = Math.max(PAGE, offset ? 0 : items.length);
    const found = await api.worklist({ ...asked, limit: String(Math.min(5000, most)), offset: String(offset) });
    if (mine !== turn) return;
    now = found;
    items = offset ? [...items, ...found.items] : found.items;
    draw();
  };
  const later = () => {
    filter.search = search.value;
    clearTimeout(timer);
    timer = window.setTimeout(() => void load().catch(() => undefined), 180);
  };
  /** What others do is shown at most once a second, however often it is told. */
  let due = 0;
  const soon = () => {
    if (due) return;
    due = window.setTimeout(() => {
      due = 0;
      void api.archive().then((archive) => (app.archive.counts = archive.counts)).then(() => load()).catch(() => undefined);
    }, 700);
  };
  const ends = [app.live.on("change", soon), app.live.on("ingest", soon), () => clearTimeout(due), () => clearTimeout(timer)];
  await load();
  const title = el("h1", { class: "grow cut" }, app.archive.name);
  const report = el("button", { type: "button", class: "button", onclick: () => void save("/api/report") }, "Report");
  const root = el("div", { class: "shell" }, bar(app, title, report, button), el("div", { class: "worklist" }, side, list));
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
