/** Beside the image: labels, what is annotated, review, tags. */

import { api } from "../data/api";
import { bare, volumeOf, type Mark } from "../data/annotations";
import type { Stack } from "../data/stack";
import type { Label, Level, Review, TagElement } from "../data/types";
import { dialog, el, fill, iconButton, toast } from "../ui/dom";
import type { Viewport } from "../ui/viewport";
import type { App } from "./app";

const COLOURS = ["#e2b45f", "#6fb1d6", "#d9735e", "#8fbf6a", "#b694d1", "#e08aa8", "#5cc3a0", "#c9c08a"];

export function panel(app: App, stack: Stack, view: () => Viewport, assist: (name: string) => Promise<void>): { root: HTMLElement; stop: () => void } {
  const { desk } = app;
  const marks = stack.annotations;
  const body = el("div", { class: "tabpanel", role: "tabpanel", id: "panel", tabindex: "0" });
  let tab = "Labels";
  let names: string[] = [];
  let review: Review | null = null;
  let elements: TagElement[] = [];

  const swatch = (color: string) => {
    const node = el("span", { class: "swatch" });
    node.style.background = color || "#5cc3c2";
    return node;
  };
  const toggle = (set: Set<string>, name: string) => {
    if (!set.delete(name)) set.add(name);
    desk.say();
  };
  const number = (words: string, key: "radius" | "low" | "high" | "tolerance", unit = "") => {
    const id = `set-${key}`;
    return [el("label", { for: id, class: "soft" }, words), el("div", { class: "row" }, el("input", { id, type: "number", class: "grow", step: "any", value: String(Math.round(desk[key] * 10) / 10), onchange: (e: Event) => ((desk[key] = Number((e.target as HTMLInputElement).value)), desk.say()) }), el("span", { class: "soft" }, unit))];
  };
  const options = () => {
    const unit = stack.info.unit;
    const rows = ["brush", "eraser", "threshold"].includes(desk.tool) ? number("Radius", "radius", "px") : [];
    if (desk.tool === "threshold") rows.push(...number("From", "low", unit), ...number("To", "high", unit));
    if (desk.tool === "grow") rows.push(...number("Tolerance", "tolerance", unit), el("label", { for: "deep", class: "soft" }, "Through slices"), el("input", { id: "deep", type: "checkbox", checked: desk.deep, onchange: () => void (desk.deep = !desk.deep) }));
    const slide = el("input", { id: "opacity", type: "range", min: 0, max: 1, step: 0.05, value: String(desk.shown.opacity), oninput: () => ((desk.shown.opacity = Number(slide.value)), view().refresh()) });
    rows.push(el("label", { for: "opacity", class: "soft" }, "Opacity"), slide);
    return el("div", { class: "fields" }, ...rows);
  };
  const labelRow = (label: Label, n: number) =>
    el("li", { class: label.name === desk.label.name ? "chosen" : "" },
      el("button", { type: "button", class: "pick", "aria-pressed": String(label.name === desk.label.name), onclick: () => { desk.label = label; desk.shown.chosen = null; desk.say(); } }, swatch(label.color), el("span", { class: "grow cut" }, label.name), el("kbd", {}, (label.key || String(n + 1)).toUpperCase())),
      small(desk.shown.hidden.has(label.name) ? "hidden" : "eye", `${desk.shown.hidden.has(label.name) ? "Show" : "Hide"} ${label.name}`, () => toggle(desk.shown.hidden, label.name)),
      small(desk.shown.locked.has(label.name) ? "lock" : "open", `${desk.shown.locked.has(label.name) ? "Unlock" : "Lock"} ${label.name}`, () => toggle(desk.shown.locked, label.name)));
  const size = (mark: Mark) => {
    const spacing = stack.info.spacing;
    if (mark.data.kind === "mask") {
      const voxels = volumeOf(mark);
      return spacing ? `${((voxels * spacing[0] * spacing[1] * spacing[2]) / 1000).toFixed(2)} ml` : `${voxels} px`;
    }
    return mark.data.value === null ? mark.data.kind : `${Number(mark.data.value.toPrecision(4))} ${mark.data.unit}`;
  };
  const choose = (mark: Mark) => {
    desk.shown.chosen = mark.data.id;
    const k = mark.data.kind === "mask" ? [...mark.runs.keys()].sort((a, b) => a - b)[mark.runs.size >> 1] : (mark.data.contours[0]?.slice ?? mark.data.slice);
    if (k !== null && k !== undefined) stack.go([stack.place[0], stack.place[1], k]);
    desk.say();
  };
  const markRow = (mark: Mark) => {
    const { data } = mark;
    const state = { draft: "", reviewed: "accepted", rejected: "rejected" }[data.status];
    return el("li", { class: data.id === desk.shown.chosen ? "chosen" : "" },
      el("button", { type: "button", class: "pick", onclick: () => choose(mark) }, swatch(data.label.color), el("span", { class: "grow cut" }, data.label.name || data.text), el("span", { class: "soft" }, state || size(mark))),
      !desk.readOnly && tab === "Review" && small("check", `Accept ${data.label.name}`, () => marks.review(data.id, "reviewed", comment.value)),
      !desk.readOnly && tab === "Review" && small("cross", `Reject ${data.label.name}`, () => marks.review(data.id, "rejected", comment.value)),
      !desk.readOnly && tab === "Labels" && small("remove", `Remove ${data.label.name}`, () => (desk.shown.locked.has(data.label.name) ? toast(`“${data.label.name}” is locked.`) : marks.remove(data.id))));
  };
  const comment = el("textarea", { rows: 2, placeholder: "Comment", "aria-label": "Comment", maxLength: 2000 });
  const classes = () => {
    const level = el("select", { "aria-label": "Level" }, ...["volume", "frame", "series", "study", "patient"].map((name) => el("option", { value: name }, name)));
    return el("div", { class: "row" }, level, el("button", { type: "button", class: "button grow", disabled: desk.readOnly, onclick: () => marks.add({ kind: "label", level: level.value as Level, label: bare(desk.label), slice: level.value === "frame" ? stack.place[2] : null, tool: "class" }) }, `is ${desk.label.name}`));
  };
  const labels = () => [
    el("section", {}, el("div", { class: "row" }, el("h2", { class: "caption grow" }, desk.sets[0]?.name || "Labels"), !desk.readOnly && el("button", { type: "button", class: "button small", onclick: () => editing(app) }, "Edit")), el("ul", { class: "labels" }, ...(desk.labels.length ? desk.labels : [desk.label]).map(labelRow))),
    options(),
    el("section", {}, el("h2", { class: "caption" }, "Whole images"), classes()),
    names.length > 0 && !desk.readOnly && el("section", {}, el("h2", { class: "caption" }, "Assist"), el("div", { class: "row" }, ...names.map((name) => el("button", { type: "button", class: "button", onclick: () => void assist(name).catch((error: unknown) => toast(error instanceof Error ? error.message : String(error), "bad")) }, name)))),
    el("section", {}, el("h2", { class: "caption" }, `Annotations (${marks.marks.size})`), el("ul", { class: "marks" }, ...marks.of().slice(0, 300).map(markRow))),
  ];
  const heat = async (on: boolean) => {
    review = on ? await api.review(stack.info.id, desk.label.name) : null;
    const by = new Map(review?.slices.map((slice) => [slice.k, slice.levels]) ?? []);
    view().heat = on ? (k) => by.get(k) ?? [] : null;
    view().refresh();
    draw();
  };
  const reviewing = () => [
    el("section", {}, el("h2", { class: "caption" }, "This stack"), comment, el("div", { class: "row" },
      el("button", { type: "button", class: "button grow", disabled: desk.readOnly, onclick: () => marks.review(undefined, "reviewed", comment.value) }, "Accept all"), el("button", { type: "button", class: "button grow", disabled: desk.readOnly, onclick: () => marks.review(undefined, "rejected", comment.value) }, "Reject all"))),
    el("label", { class: "row" }, el("input", { type: "checkbox", checked: marks.blind, onchange: () => { marks.blind = !marks.blind; void marks.load().then(draw); } }), `Blind: only what ${app.author || "I"} drew`),
    el("label", { class: "row" }, el("input", { type: "checkbox", checked: review !== null, onchange: (e: Event) => void heat((e.target as HTMLInputElement).checked).catch((error: unknown) => toast(String(error), "bad")) }), `Where readers differ on ${desk.label.name}`),
    review && el("p", { class: "soft" }, review.authors.length > 1 ? review.authors.join(", ") : "One reader only so far."),
    el("section", {}, el("h2", { class: "caption" }, "Annotations"), el("ul", { class: "marks" }, ...marks.of().slice(0, 300).map(markRow))),
    ...marks.of().filter((m) => m.data.comment).map((m) => el("div", { class: "note" }, `${m.data.label.name}: ${m.data.comment}`)),
  ];
  const tagRows = el("tbody");
  const search = el("input", { type: "search", placeholder: "Search tags", "aria-label": "Search tags", oninput: () => rows() });
  const rows = () => {
    const wanted = search.value.toLowerCase();
    const fits = elements.filter((e) => !wanted || `${e.tag} ${e.keyword} ${e.name} ${e.value}`.toLowerCase().includes(wanted));
    fill(tagRows, ...fits.slice(0, 600).map((e) => el("tr", {}, el("th", { scope: "row" }, e.name || e.keyword, el("br"), el("code", {}, `${e.tag} ${e.vr}`)), el("td", {}, e.value))));
  };
  const tags = () => {
    api.tags(stack.info.id, stack.place[2]).then((found) => { elements = found.elements; rows(); }, (error: unknown) => toast(String(error), "bad"));
    return [search, ...stack.info.findings.map((f) => el("div", { class: "note" }, f.message)), el("table", { class: "tags" }, tagRows)];
  };
  const draw = () => {
    if (tab === "Tags" || body.contains(document.activeElement) && document.activeElement instanceof HTMLInputElement && document.activeElement.type !== "checkbox") return;
    const at = [...body.querySelectorAll("button")].indexOf(document.activeElement as HTMLButtonElement);
    fill(body, ...(tab === "Labels" ? labels() : reviewing()));
    if (at >= 0) body.querySelectorAll("button")[at]?.focus();
  };
  const tabs = ["Labels", "Review", "Tags"].map((name) => el("button", { type: "button", role: "tab", class: "tab", "aria-controls": "panel", "aria-selected": String(name === tab), onclick: () => {
    tab = name;
    tabs.forEach((button, n) => button.setAttribute("aria-selected", String(n === ["Labels", "Review", "Tags"].indexOf(name))));
    if (name === "Tags") fill(body, ...tags());
    else draw();
  } }, name));
  const root = el("aside", { class: "panel", "aria-label": "Annotations" }, el("div", { class: "tabs", role: "tablist", "aria-label": "Panel" }, ...tabs), body);
  const ends = [desk.on("changed", draw), marks.on("changed", draw), marks.on("loaded", () => { root.dataset["loaded"] = "true"; draw(); })];
  api.assists().then((found) => { names = found.names; draw(); }, () => undefined);
  draw();
  return { root, stop: () => ends.forEach((end) => end()) };
}

function small(name: string, words: string, act: () => void): HTMLButtonElement {
  const button = iconButton(name, words, act);
  button.classList.add("small");
  return button;
}

/** The label set as a table. */
function editing(app: App): void {
  const { desk } = app;
  const set = structuredClone(desk.sets[0] ?? { name: "Labels", labels: [desk.label] });
  const name = el("input", { type: "text", value: set.name, "aria-label": "Name of the set" });
  const list = el("div", { class: "dialog-rows" });
  const draw = () => fill(list, ...set.labels.map((label, n) => {
    const text = (words: string, value: string, put: (value: string) => void) => el("input", { type: "text", "aria-label": words, placeholder: words, value, oninput: (e: Event) => put((e.target as HTMLInputElement).value) });
    const code = (key: "value" | "scheme") => (value: string) => {
      const made = { value: "", scheme: "SCT", ...label.code, [key]: value, meaning: label.name };
      label.code = made.value ? made : null;
    };
    return el("div", { class: "label-row" }, el("input", { type: "color", value: label.color || COLOURS[n % 8], "aria-label": "Colour", oninput: (e: Event) => void (label.color = (e.target as HTMLInputElement).value) }),
      text("Name", label.name, (v) => void (label.name = v)), text("Key", label.key, (v) => void (label.key = v.slice(0, 1))), text("Code", label.code?.value ?? "", code("value")), text("Scheme", label.code?.scheme ?? "", code("scheme")),
      small("remove", `Remove ${label.name}`, () => { set.labels.splice(n, 1); draw(); }));
  }));
  draw();
  const save = async () => {
    set.name = name.value.trim() || "Labels";
    set.labels = set.labels.filter((label) => label.name.trim());
    desk.sets = (await api.saveLabels(set)).sets;
    desk.label = desk.labels.find((label) => label.name === desk.label.name) ?? desk.labels[0] ?? desk.label;
    box.close();
    app.go(location.hash);
  };
  const box = dialog("Labels", name, list, el("div", { class: "row" },
    el("button", { type: "button", class: "button", onclick: () => { set.labels.push({ name: "", color: COLOURS[set.labels.length % 8]!, key: String(set.labels.length + 1).slice(-1), code: null }); draw(); } }, "Add"), el("span", { class: "grow" }),
    el("button", { type: "button", class: "button primary", onclick: () => void save().catch((error: unknown) => toast(error instanceof Error ? error.message : String(error), "bad")) }, "Save")));
}
