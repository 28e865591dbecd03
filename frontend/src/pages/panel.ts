/** Beside the image: labels, what is annotated, review, tags. */

import { api } from "../data/api";
import { area } from "../core/rle";
import { bare, volumeOf, type Mark } from "../data/annotations";
import type { Stack } from "../data/stack";
import type { Label, Level, Review, TagElement } from "../data/types";
import { dialog, el, fill, iconButton, toast } from "../ui/dom";
import { heatColour, OPACITY } from "../ui/overlay";
import { COLOURS, colourOf, unit as unitWord, volume } from "../ui/words";
import { enclosedWords } from "../tools/measure";
import type { App } from "./app";

const LEVELS: [Level, string][] = [["volume", "Volume"], ["frame", "This slice"], ["instance", "This file"], ["series", "Series"], ["study", "Study"], ["patient", "Patient"]];

export function panel(app: App, stack: Stack, take: (tool: string) => void): { root: HTMLElement; stop: () => void } {
  const { desk } = app;
  const marks = stack.annotations;
  const body = el("div", { class: "tabpanel", role: "tabpanel", id: "panel", tabindex: "0" });
  let tab = "Labels";
  let chosenLevel: Level = "volume";
  let names: string[] = [];
  let review: Review | null = null;
  let elements: TagElement[] = [];

  const swatch = (color: string) => {
    const node = el("span", { class: "swatch" });
    node.style.background = color;
    return node;
  };
  /** Labels of the sets, and those that only stand on this stack. */
  const segments = (): Label[] => {
    const found = new Map((desk.labels.length ? desk.labels : [desk.label]).map((label) => [label.name, label]));
    for (const { data } of marks.marks.values()) if (data.kind !== "measurement" && data.label.name && !found.has(data.label.name)) found.set(data.label.name, { ...data.label, key: "" });
    return [...found.values()];
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
    const unit = unitWord(stack.info.unit);
    const rows = ["brush", "eraser", "threshold"].includes(desk.tool) ? number("Radius", "radius", "px") : [];
    if (desk.tool === "threshold") rows.push(...number("From", "low", unit), ...number("To", "high", unit));
    if (desk.tool === "grow") rows.push(...number("Tolerance", "tolerance", unit), el("label", { for: "deep", class: "soft" }, "Through slices"), el("input", { id: "deep", type: "checkbox", checked: desk.deep, onchange: () => void (desk.deep = !desk.deep) }));
    const { name } = desk.label;
    const slide = el("input", { id: "opacity", type: "range", min: 0, max: 1, step: 0.05, value: String(desk.shown.opacity.get(name) ?? OPACITY), "aria-label": `Opacity of ${name}`, oninput: () => (desk.shown.opacity.set(name, Number(slide.value)), desk.say()) });
    rows.push(el("label", { for: "opacity", class: "soft" }, "Opacity"), slide);
    return el("div", { class: "fields" }, ...rows);
  };
  const keyOf = (label: Label, n: number) => {
    const key = label.key || (desk.labels.includes(label) && n < 9 ? String(n + 1) : "");
    return key && el("kbd", {}, key.toUpperCase());
  };
  const labelRow = (label: Label, n: number) =>
    el("li", { class: label.name === desk.label.name ? "chosen" : "" },
      el("button", { type: "button", class: "pick", "aria-pressed": String(label.name === desk.label.name), onclick: () => { desk.label = label; desk.shown.chosen = null; desk.say(); } }, swatch(colourOf(label)), el("span", { class: "grow cut" }, label.name), keyOf(label, n)),
      small(desk.shown.hidden.has(label.name) ? "hidden" : "eye", `${desk.shown.hidden.has(label.name) ? "Show" : "Hide"} ${label.name}`, () => toggle(desk.shown.hidden, label.name)),
      small(desk.shown.locked.has(label.name) ? "lock" : "open", `${desk.shown.locked.has(label.name) ? "Unlock" : "Lock"} ${label.name}`, () => toggle(desk.shown.locked, label.name)));
  const size = (mark: Mark) => {
    if (mark.data.kind === "mask") return volume(volumeOf(mark), stack.info.spacing);
    const { data } = mark;
    if (data.value !== null) return `${Number(data.value.toPrecision(4))} ${unitWord(data.unit)}`;
    if (data.kind === "label") return data.level;
    return (data.contours[0]?.closed && data.contours[0].slice !== null && enclosedWords(stack, mark, data.contours[0].slice).split("  ")[0]) || data.kind;
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
      el("button", { type: "button", class: "pick", onclick: () => choose(mark) }, swatch(colourOf(data.label)), el("span", { class: "grow cut" }, data.label.name || data.text), el("span", { class: "soft" }, state || size(mark))),
      !desk.readOnly && tab === "Review" && small("check", `Accept ${data.label.name}`, () => marks.review(data.id, "reviewed", comment.value)),
      !desk.readOnly && tab === "Review" && small("cross", `Reject ${data.label.name}`, () => marks.review(data.id, "rejected", comment.value)),
      !desk.readOnly && tab === "Labels" && small("remove", `Remove ${data.label.name}`, () => (desk.shown.locked.has(data.label.name) ? toast(`“${data.label.name}” is locked.`) : marks.remove(data.id))));
  };
  const comment = el("textarea", { rows: 2, placeholder: "Comment", "aria-label": "Comment", maxLength: 2000 });
  const classes = () => {
    const level = el("select", { "aria-label": "Level" }, ...LEVELS.map(([name, words]) => el("option", { value: name }, words)));
    level.value = chosenLevel;
    level.onchange = () => void (chosenLevel = level.value as Level);
    return el("div", { class: "row" }, level, el("button", { type: "button", class: "button grow", disabled: desk.readOnly, onclick: () => marks.add({ kind: "label", level: level.value as Level, label: bare(desk.label), slice: ["frame", "instance"].includes(level.value) ? stack.place[2] : null, tool: "class" }) }, `is ${desk.label.name}`));
  };
  const assisting = () => {
    const { assist, shown } = desk;
    if (desk.tool !== "assist") return null;
    const found = shown.proposal?.stack === stack ? shown.proposal : null;
    const which = names.length > 1 && el("select", { "aria-label": "Assistant", onchange: (e: Event) => void (assist.name = (e.target as HTMLSelectElement).value) }, ...names.map((name) => el("option", { value: name, selected: name === assist.name }, name)));
    const button = (words: string, primary: boolean, act: () => void) => el("button", { type: "button", class: `button small${primary ? " primary" : ""}`, onclick: act }, words);
    return el("section", { class: "proposal" }, el("h2", { class: "caption" }, "Assist"), which,
      !names.length && el("p", { class: "soft" }, "No assistant is installed."),
      found ? el("p", {}, `${found.label.name}: ${volume(found.voxels, stack.info.spacing)} on ${found.runs.size} ${found.runs.size > 1 ? "slices" : "slice"} proposed.`)
        : el("p", { class: "soft" }, assist.busy ? "Working…" : "Press on what you look for, with Shift on what it is not; or draw a box around it."),
      (found || assist.prompts > 0) && el("div", { class: "row" },
        found && button("Accept", true, () => assist.finish()), found && button("Edit", false, () => { assist.finish(); take("brush"); }), button("Discard", false, () => { assist.cancel(); desk.say(); })));
  };
  const labels = () => [
    el("section", {}, el("div", { class: "row" }, el("h2", { class: "caption grow" }, desk.sets[0]?.name || "Labels"), !desk.readOnly && el("button", { type: "button", class: "button small", onclick: () => editing(app) }, "Edit")), el("ul", { class: "labels" }, ...segments().map(labelRow))),
    options(),
    assisting(),
    el("section", {}, el("h2", { class: "caption" }, "Whole images"), classes()),
    el("section", {}, el("h2", { class: "caption" }, `Annotations (${marks.marks.size})`), el("ul", { class: "marks" }, ...marks.of().slice(0, 300).map(markRow))),
  ];
  const heatWords = ({ authors, slices }: Review) => {
    if (authors.length < 2) return el("p", { class: "soft" }, "One reader only so far.");
    const most = desk.shown.heat?.most ?? 1;
    const worst = slices.reduce<{ k: number; size: number } | null>((best, { k, levels }) => {
      const size = levels.reduce((sum, level) => sum + level.count * area(level.runs), 0);
      return best && best.size >= size ? best : { k, size };
    }, null);
    return el("section", {}, el("p", { class: "soft" }, `Readers: ${authors.join(", ")}`),
      slices.length ? el("div", { class: "row" }, ...Array.from({ length: most }, (_, n) => [swatch(heatColour(n + 1, most)), el("span", { class: "soft" }, n ? String(n + 1) : most > 1 ? "1" : "one differs")]).flat(), el("span", { class: "grow" }),
        worst && el("button", { type: "button", class: "button small", onclick: () => stack.go([stack.place[0], stack.place[1], worst.k]) }, "Go to the largest")) : el("p", { class: "soft" }, "They agree everywhere."));
  };
  const heat = async (on: boolean) => {
    review = on ? await api.review(stack.info.id, desk.label.name) : null;
    const levels = review?.slices.flatMap((slice) => slice.levels) ?? [];
    desk.shown.heat = review && { stack: stack.info.id, slices: new Map(review.slices.map((slice) => [slice.k, slice.levels])), most: Math.max(1, ...levels.map((level) => level.count)) };
    desk.say();
  };
  const reviewing = () => [
    el("section", {}, el("h2", { class: "caption" }, "This stack"), comment, el("div", { class: "row" },
      el("button", { type: "button", class: "button grow", disabled: desk.readOnly, onclick: () => marks.review(undefined, "reviewed", comment.value) }, "Accept all"), el("button", { type: "button", class: "button grow", disabled: desk.readOnly, onclick: () => marks.review(undefined, "rejected", comment.value) }, "Reject all"))),
    el("label", { class: "row" }, el("input", { type: "checkbox", checked: marks.blind, onchange: () => { marks.blind = !marks.blind; void marks.load().then(draw); } }), `Blind: only what ${app.author || "I"} drew`),
    el("label", { class: "row" }, el("input", { type: "checkbox", checked: review !== null, onchange: (e: Event) => void heat((e.target as HTMLInputElement).checked).catch((error: unknown) => toast(String(error), "bad")) }), `Where readers differ on ${desk.label.name}`),
    review && heatWords(review),
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
  let told = "";
  const read = () => {
    const k = stack.place[2];
    const { file } = stack.info.slices[k] ?? { file: "" };
    if (tab !== "Tags" || file === told) return;
    told = file;
    api.tags(stack.info.id, k).then((found) => { elements = found.elements; rows(); }, (error: unknown) => toast(error instanceof Error ? error.message : String(error), "bad"));
  };
  let timer = 0;
  const readSoon = () => {
    clearTimeout(timer);
    timer = window.setTimeout(read, 250);
  };
  const tags = () => {
    read();
    rows();
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
  const ends = [() => clearTimeout(timer), stack.on("place", readSoon), desk.on("changed", draw), marks.on("changed", draw), marks.on("loaded", () => { root.dataset["loaded"] = "true"; draw(); })];
  api.assists().then((found) => { names = found.names; desk.assist.name ||= names[0] ?? ""; draw(); }, () => undefined);
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
    return el("div", { class: "label-row" }, el("input", { type: "color", value: colourOf(label), "aria-label": "Colour", oninput: (e: Event) => void (label.color = (e.target as HTMLInputElement).value) }),
      text("Name", label.name, (v) => void (label.name = v)), text("Key", label.key, (v) => void (label.key = v.slice(0, 1))), text("Code", label.code?.value ?? "", code("value")), text("Scheme", label.code?.scheme ?? "", code("scheme")),
      small("remove", `Remove ${label.name}`, () => { set.labels.splice(n, 1); draw(); }));
  }));
  draw();
  const save = async () => {
    set.name = name.value.trim() || "Labels";
    set.labels = set.labels.filter((label) => label.name.trim());
    const keys = set.labels.map((label) => label.key).filter(Boolean);
    const twice = keys.find((key, n) => keys.indexOf(key) !== n);
    if (twice) throw new Error(`The key ${twice.toUpperCase()} is given to two labels.`);
    desk.sets = (await api.saveLabels(set)).sets;
    desk.label = desk.labels.find((label) => label.name === desk.label.name) ?? desk.labels[0] ?? desk.label;
    box.close();
    app.go(location.hash);
  };
  const box = dialog("Labels", name, list, el("div", { class: "row" },
    el("button", { type: "button", class: "button", onclick: () => { set.labels.push({ name: "", color: COLOURS[set.labels.length % COLOURS.length]!, key: String(set.labels.length + 1).slice(-1), code: null }); draw(); } }, "Add"), el("span", { class: "grow" }),
    el("button", { type: "button", class: "button primary", onclick: () => void save().catch((error: unknown) => toast(error instanceof Error ? error.message : String(error), "bad")) }, "Save")));
}
