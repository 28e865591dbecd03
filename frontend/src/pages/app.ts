/** What all pages share: the archive, the outbox, the line above. */

import type { Camera } from "../core/camera";
import type { Vec3 } from "../core/geometry";
import type { Window } from "../core/lut";
import type { Outbox, Saving } from "../data/outbox";
import { api, request } from "../data/api";
import type { Live } from "../data/live";
import type { Archive, Ingest, Slice } from "../data/types";
import type { Desk } from "../tools/desk";
import { dialog, el, fill, icon, iconButton, toast } from "../ui/dom";

export interface App {
  archive: Archive;
  outbox: Outbox;
  live: Live;
  desk: Desk;
  author: string;
  /** How a stack was seen that grew into another while files came in. */
  kept: { id: string; slice: Slice | undefined; place: Vec3; window: Window | null; inverted: boolean; layout: string; camera: Camera } | null;
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
  const ingest = el("span", { class: "soft ingest" });
  const progress = (now: Ingest | null) => {
    const share = now && now.total ? Math.min(1, now.done / now.total) : 0;
    ingest.hidden = !now;
    if (!now) return;
    fill(ingest, el("span", { class: "progress" }, el("i")), el("span", {}, `Reading files${now.total ? `: ${now.done} of ${now.total}` : "…"}`));
    (ingest.querySelector("i") as HTMLElement).style.width = `${100 * share}%`;
  };
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
  const stack = /^#\/stack\/([^?/]+)/.exec(location.hash)?.[1];
  if (stack) {
    for (const [format, name] of [["seg", "DICOM SEG"], ["nifti", "NIfTI"], ["rtstruct", "RTSTRUCT"], ["sr", "DICOM SR"], ["coco", "COCO"], ["csv", "CSV"]]) {
      list.append(item(`Export as ${name}`, () => void save(`${api.of(stack)}/export?format=${format}`)));
    }
  }
  if (!app.archive.read_only) list.append(item("Import annotations…", () => importing(app)));
  list.append(item("Report of the archive", () => void save("/api/report")));
  list.append(item(`Author: ${app.author || "unnamed"}…`, () => naming(app)), item("Keys (?)", () => document.dispatchEvent(new Event("dcmark-help"))));
  return el("div", { class: "menu-host" }, button, list);
}

const IMPORTED = [["seg", "DICOM SEG"], ["rtstruct", "RTSTRUCT"], ["sr", "DICOM SR"], ["gsps", "DICOM GSPS"], ["ann", "DICOM ANN"], ["kos", "DICOM KOS"], ["nifti", "NIfTI"], ["nrrd", "NRRD"], ["mha", "MetaImage"], ["coco", "COCO"], ["cvat", "CVAT"], ["labelstudio", "Label Studio"], ["csv", "CSV"]];

/** Fetches a file and hands it to the browser to be saved; says why where there is none. */
export async function save(path: string): Promise<void> {
  try {
    const response = await request(path);
    const name = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? "dcmark";
    const url = URL.createObjectURL(await response.blob());
    const link = el("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    toast(error instanceof Error ? error.message : String(error), "bad");
  }
}

function importing(app: App): void {
  const format = el("select", { "aria-label": "Format" }, ...IMPORTED.map(([value, name]) => el("option", { value }, name)));
  const file = el("input", { type: "file", "aria-label": "File" });
  const result = el("p", { class: "soft", role: "status" });
  const act = async () => {
    const chosen = file.files?.[0];
    if (!chosen) return;
    result.textContent = "Reading…";
    try {
      const { added, findings } = await api.upload(format.value, chosen);
      fill(result, `${added} ${added === 1 ? "annotation" : "annotations"} added. `, ...findings.map((finding) => el("span", { class: "note" }, finding.message)));
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
