/** What all pages share: the archive, the outbox, the line above. */

import type { Outbox, Saving } from "../data/outbox";
import { api } from "../data/api";
import type { Live } from "../data/live";
import type { Archive, Ingest } from "../data/types";
import type { Desk } from "../tools/desk";
import { dialog, el, fill, icon, iconButton, toast } from "../ui/dom";

export interface App {
  archive: Archive;
  outbox: Outbox;
  live: Live;
  desk: Desk;
  author: string;
  go(hash: string): void;
}

const WORDS: Record<Saving, string> = { saved: "Saved", saving: "Saving…", offline: "Offline, kept here", stopped: "Not signed in" };

/** The bar above a page. */
export function bar(app: App, title: HTMLElement, ...more: HTMLElement[]): HTMLElement {
  const saving = el("span", { class: "saving", role: "status", "aria-live": "polite" });
  const show = () => {
    saving.dataset["state"] = app.outbox.state;
    const left = app.outbox.size > 1 ? ` (${app.outbox.size})` : "";
    saving.textContent = WORDS[app.outbox.state] + (app.outbox.state === "offline" ? left : "");
  };
  app.outbox.on("state", show);
  show();
  const ingest = el("span", { class: "soft" });
  const progress = (now: Ingest | null) => fill(ingest, now && `${now.phase || "Reading"} ${now.done} of ${now.total || "?"}`);
  app.live.on("ingest", progress);
  progress(app.archive.ingest);
  return el("header", { class: "bar" },
    el("a", { class: "brand", href: "#/", title: "To the worklist" }, icon("probe"), "dcmark"),
    title, ingest, ...more, saving, menu(app));
}

function menu(app: App): HTMLElement {
  const list = el("div", { class: "menu", hidden: true });
  const button = iconButton("menu", "More", () => {
    list.hidden = !list.hidden;
    button.setAttribute("aria-expanded", String(!list.hidden));
  });
  button.setAttribute("aria-expanded", "false");
  const shut = (event: Event) => {
    if (!button.isConnected) return document.removeEventListener("pointerdown", shut, true);
    if (list.hidden || (event.target instanceof Node && (list.contains(event.target) || button.contains(event.target)))) return;
    list.hidden = true;
    button.setAttribute("aria-expanded", "false");
  };
  document.addEventListener("pointerdown", shut, true);
  const item = (text: string, act: () => void) => el("button", { type: "button", class: "choice", onclick: () => ((list.hidden = true), act()) }, text);
  const stack = /^#\/stack\/([^?]+)/.exec(location.hash)?.[1];
  if (stack) {
    for (const [format, name] of [["seg", "DICOM SEG"], ["nifti", "NIfTI"], ["rtstruct", "RTSTRUCT"], ["coco", "COCO"]]) {
      list.append(el("a", { class: "choice", href: `${api.of(stack)}/export?format=${format}`, download: "" }, `Export as ${name}`));
    }
  }
  if (!app.archive.read_only) list.append(item("Import annotations…", () => importing(app)));
  list.append(el("a", { class: "choice", href: "/api/report", download: "report.html" }, "Report of the archive"));
  list.append(item(`Author: ${app.author || "unnamed"}…`, () => naming(app)), item("Keys (?)", () => document.dispatchEvent(new Event("dcmark-help"))));
  return el("div", { class: "menu-host" }, button, list);
}

function importing(app: App): void {
  const format = el("select", { "aria-label": "Format" }, ...["seg", "rtstruct", "nifti", "coco", "sr", "gsps", "labelme", "yolo"].map((name) => el("option", { value: name }, name)));
  const file = el("input", { type: "file", "aria-label": "File" });
  const result = el("p", { class: "soft", role: "status" });
  const act = async () => {
    const chosen = file.files?.[0];
    if (!chosen) return;
    result.textContent = "Reading…";
    try {
      const { added, findings } = await api.upload(format.value, chosen);
      fill(result, `${added} added. `, ...findings.map((finding) => el("span", { class: "note" }, finding.message)));
    } catch (error) {
      result.textContent = error instanceof Error ? error.message : String(error);
    }
  };
  dialog("Import annotations", el("div", { class: "row" }, format, file, el("button", { type: "button", class: "button primary", onclick: () => void act() }, "Import")), result);
  void app;
}

function naming(app: App): void {
  const name = el("input", { type: "text", value: app.author, maxLength: 64, "aria-label": "Author" });
  const box = dialog("Who annotates?", el("p", { class: "soft" }, "Written with each annotation of yours."), el("form", { class: "row", onsubmit: (event: Event) => {
    event.preventDefault();
    app.author = name.value.trim();
    try {
      localStorage.setItem("dcmark.author", app.author);
    } catch {
      toast("This browser keeps nothing: the name holds until the page is closed.");
    }
    box.close();
    app.go(location.hash);
  } }, name, el("button", { class: "button primary" }, "Keep")));
}
