/** Elements by function call. Text becomes text nodes and nothing else, wherever it came from. */

type Child = Node | string | number | null | undefined | false;
type Props = { [name: string]: unknown };

/**
 * An element: `on…` are listeners, `class` and `aria-…` attributes, the rest properties where there is one of the name.
 */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value as EventListener);
    else if (name === "class") node.className = String(value);
    else if (name.includes("-") || name === "role" || name === "for" || name === "list") node.setAttribute(name, String(value));
    else if (name in node) (node as unknown as Props)[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  add(node, children);
  return node;
}

export function add(node: Node, children: Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    node.appendChild(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Puts other children into a node. */
export function fill(node: HTMLElement, ...children: Child[]): void {
  node.textContent = "";
  add(node, children);
}

const SVG = "http://www.w3.org/2000/svg";

/** Line drawings on a field of 20 by 20. */
const PATHS: Record<string, string> = {
  select: "M5 3l10 7-4.5 1L8 15.5z",
  window: "M10 3a7 7 0 100 14zM10 3a7 7 0 110 14",
  pan: "M10 2v16M2 10h16M8 4l2-2 2 2M8 16l2 2 2-2M4 8l-2 2 2 2M16 8l2 2-2 2",
  zoom: "M8.5 3a5.5 5.5 0 100 11 5.5 5.5 0 000-11zM12.5 12.5L17 17M6 8.5h5M8.5 6v5",
  probe: "M10 2v5M10 13v5M2 10h5M13 10h5M10 9.5v1",
  ruler: "M3 14L14 3l3 3L6 17zM6 11l1.5 1.5M9 8l1.5 1.5M12 5l1.5 1.5",
  angle: "M4 16L14 4M4 16h13M10.5 16a7 7 0 00-2-5.2",
  point: "M10 7.5a2.5 2.5 0 100 5 2.5 2.5 0 000-5zM10 2v3M10 15v3M2 10h3M15 10h3",
  line: "M4 15l4-7 4 3 4-7",
  box: "M3.5 5h13v10h-13z",
  ellipse: "M10 5c4 0 7 2.2 7 5s-3 5-7 5-7-2.2-7-5 3-5 7-5z",
  polygon: "M10 3l7 5-3 8H6L3 8z",
  freehand: "M4 13c0-5 4-9 7-8s5 5 3 8-5 4-7 3-2-3-3-3z",
  brush: "M16.5 3.5c-3 .5-6.500 4-8 6.500l1.500 1.500c2.500-1.500 6-5 6.500-8zM7.500 11c-2 0-2.500 1.500-2.500 3-.3 1-1 1.500-2 1.500 1 1 2.500 1.500 4 1.500 2 0 3-1.500 3-3z",
  eraser: "M8 16.500L3.500 12l7-8 6 5.500-6.500 7zM7 8l6 5.500M8 16.500h9",
  threshold: "M3 15.500h3.500v-5H10v-6h3.500v8H17M3 8h14",
  grow: "M10 6.500a3.500 3.500 0 100 7 3.500 3.500 0 000-7zM10 1.500v3M10 15.500v3M1.500 10h3M15.500 10h3M4 4l2 2M14 14l2 2M4 16l2-2M14 6l2-2",
  assist: "M10 3l1.600 4.900L16.500 9.500l-4.900 1.600L10 16l-1.600-4.900L3.500 9.500l4.900-1.600zM16 14v3M14.500 15.500h3",
  undo: "M7 4L3.500 7.500 7 11M4 7.500h8a4 4 0 010 8H8",
  redo: "M13 4l3.500 3.500L13 11M16 7.500H8a4 4 0 000 8h4",
  play: "M6 4l10 6-10 6z",
  stop: "M6 5h3v10H6zM11 5h3v10h-3z",
  eye: "M2 10c2-4 5-5.500 8-5.500s6 1.500 8 5.500c-2 4-5 5.500-8 5.500S4 14 2 10zM10 7.500a2.500 2.500 0 100 5 2.500 2.500 0 000-5z",
  hidden: "M3 3l14 14M6 6C4.500 7 3 8.500 2 10c2 4 5 5.500 8 5.500 1.500 0 3-.4 4.300-1.200M9 4.600c4-.4 7 1.400 9 5.400-.5 1-1.200 2-2 2.700",
  lock: "M5 9h10v8H5zM7 9V6.500a3 3 0 016 0V9",
  open: "M5 9h10v8H5zM7 9V6.500a3 3 0 015.800-1",
  remove: "M4 6h12M8 6V4h4v2M6 6l.7 11h6.600L14 6",
  check: "M4 10.500l4 4 8-9",
  cross: "M5 5l10 10M15 5L5 15",
  fit: "M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4",
  turn: "M15 6a6.500 6.500 0 101.500 4M16.500 3v4h-4",
  flip: "M10 2v16M8 5L3 15h5zM12 5l5 10h-5z",
  invert: "M3 3h14v14H3zM3 17L17 3v14z",
  stack: "M4 4h12v12H4z",
  planes: "M3 3h14v14H3zM10 3v14M3 10h14",
  cube: "M10 2.500l6.500 3.700v7.600L10 17.500l-6.500-3.700V6.200zM3.500 6.200L10 10l6.500-3.800M10 10v7.500",
  beside: "M3 4h14v12H3zM10 4v12",
  back: "M12 4l-6 6 6 6",
  next: "M8 4l6 6-6 6",
  help: "M7.500 7.500a2.500 2.500 0 113.500 2.300c-.7.3-1 .8-1 1.700v.5M10 15v.5",
  menu: "M3 6h14M3 10h14M3 14h14",
  search: "M9 3.500a5.500 5.500 0 100 11 5.500 5.500 0 000-11zM13 13l4 4",
};

export function icon(name: string): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name] ?? "");
  svg.appendChild(path);
  return svg;
}

/** A button that shows an icon; its words and key are told to those who hover and to those who listen. */
export function iconButton(name: string, words: string, act: () => void, key = "", text = ""): HTMLButtonElement {
  const title = key ? `${words} (${key})` : words;
  return el("button", { type: "button", class: text ? "button" : "tool", title, "aria-label": words, onclick: act }, icon(name), text && el("span", {}, text));
}

/** Says something for some seconds, to the eye and to screen readers. */
export function toast(text: string, tone: "plain" | "bad" = "plain"): void {
  let host = document.getElementById("toasts");
  if (!host) {
    host = el("div", { id: "toasts", role: "status", "aria-live": "polite" });
    document.body.appendChild(host);
  }
  const note = el("div", { class: `toast ${tone}` }, text);
  host.appendChild(note);
  while (host.children.length > 3) host.firstChild?.remove();
  setTimeout(() => note.remove(), tone === "bad" ? 9000 : 4000);
}

/** A dialog over the page; closed with Escape, its button, or a press beside it. */
export function dialog(title: string, ...children: Child[]): HTMLDialogElement {
  const heading = el("h2", { id: `dialog-${Date.now()}` }, title);
  const shut = iconButton("cross", "Close", () => box.close(), "Esc");
  const box: HTMLDialogElement = el(
    "dialog",
    { "aria-labelledby": heading.id, onclose: () => box.remove(), onclick: (e: Event) => e.target === box && box.close() },
    el("div", { class: "dialog" }, el("header", {}, heading, shut), el("div", { class: "dialog-body" }, ...children)),
  );
  document.body.appendChild(box);
  box.showModal();
  return box;
}

/** "20261124" as "2026-11-24"; anything else as it is. */
export function date(text: string): string {
  return /^\d{8}$/.test(text) ? `${text.slice(0, 4)}-${text.slice(4, 6)}-${text.slice(6)}` : text;
}
