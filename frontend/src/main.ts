/** The way into the page: which archive, who, and which of its pages. */

import "./style.css";
import { api, ApiError } from "./data/api";
import { Live } from "./data/live";
import { browserStore, Outbox, tabName } from "./data/outbox";
import { help, run, type Command } from "./pages/commands";
import type { App } from "./pages/app";
import { viewer } from "./pages/viewer";
import { worklist } from "./pages/worklist";
import { Desk } from "./tools/desk";
import { el, fill, toast } from "./ui/dom";

interface Page {
  root: HTMLElement;
  stop(): void;
  commands: Command[];
}

const host = document.getElementById("page")!;
let page: Page | null = null;
let turn = 0;

function typing(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (/^(TEXTAREA|SELECT)$/.test(target.tagName) || (target instanceof HTMLInputElement && !["checkbox", "range"].includes(target.type)));
}

/** Enter and Space press the button that has the focus. */
function pressing({ key, target }: KeyboardEvent): boolean {
  return (key === "Enter" || key === " ") && target instanceof Element && target.closest("button, a, input, summary") !== null;
}

async function show(app: App): Promise<void> {
  const mine = ++turn;
  const [, id, beside] = /^#\/stack\/([^/?]+)(?:\/beside\/([^/?]+))?/.exec(location.hash) ?? [];
  try {
    if (location.hash === "#/next") {
      const { next } = await api.worklist({});
      location.replace(next ? `#/stack/${next}` : "#/");
      return;
    }
    let made: Page;
    if (id) made = await viewer(app, decodeURIComponent(id), beside && decodeURIComponent(beside));
    else {
      const list = await worklist(app);
      const find = () => document.querySelector<HTMLInputElement>("input[type=search]")?.focus();
      const keys = [{ group: "Worklist", words: "Next unfinished", keys: "n", act: list.next }, { group: "Worklist", words: "Search", keys: "/", act: find }];
      made = { ...list, commands: keys };
    }
    if (mine !== turn) return made.stop();
    document.querySelectorAll("dialog").forEach((open) => open.close());
    page?.stop();
    page = made;
    fill(host, made.root);
  } catch (error) {
    const gone = error instanceof ApiError && error.code === "gone";
    const now = gone ? error.more["now"] : null;
    if (typeof now === "string") {
      if (app.kept?.id === id) app.kept.id = now;
      return location.replace(`#/stack/${now}${beside ? `/beside/${beside}` : ""}`);
    }
    if (!id) return refuse(error);
    toast(gone ? "This stack is not in the archive any more." : error instanceof Error ? error.message : String(error), gone ? "plain" : "bad");
    location.replace("#/");
  }
}

function refuse(error: unknown): void {
  const unknown = error instanceof ApiError && error.status === 401;
  fill(host, el("main", { class: "empty" }, el("h1", {}, unknown ? "Open the link in the terminal" : "The archive does not answer"),
    el("p", {}, unknown ? "The link that dcmark printed signs this browser in. It prints a fresh one after each use." : error instanceof Error ? error.message : String(error))));
}

async function start(): Promise<void> {
  const archive = await api.archive();
  let author = archive.author;
  try {
    author = localStorage.getItem("dcmark.author") || author;
  } catch {
    // Nothing is kept in this browser.
  }
  const tab = tabName();
  const outbox = new Outbox(archive.id, tab.name, browserStore());
  const live = new Live();
  const desk = new Desk();
  desk.readOnly = archive.read_only;
  const app: App = { archive, outbox, live, desk, author, kept: null, go: (hash) => (location.hash === hash ? void show(app) : void (location.hash = hash)) };
  live.on("ingest", (now) => (archive.ingest = now));
  live.on("up", (up) => up && outbox.retry());
  window.addEventListener("online", () => outbox.retry());
  window.addEventListener("hashchange", () => void show(app));
  outbox.on("refused", ({ entry, error }) => {
    if (error.status !== 401 && !location.hash.startsWith(`#/stack/${entry.stack}`)) toast(`A change to another stack was not saved: ${error.message}`, "bad");
  });
  outbox.on("refused", ({ error }) => error.status === 401 && toast("Open the link in the terminal again; what you drew is kept.", "bad"));
  document.addEventListener("dcmark-help", () => help(page?.commands ?? [], desk.labels));
  document.addEventListener("keydown", (event) => {
    if (typing(event.target) || document.querySelector("dialog[open]") || pressing(event)) return;
    if (event.key === "?") help(page?.commands ?? [], desk.labels);
    else if (page) run(page.commands, event);
  });
  desk.sets = (await api.labels().catch(() => ({ sets: [] }))).sets;
  if (desk.labels[0]) desk.label = desk.labels[0];
  await show(app);
  live.start();
  const left = await outbox.resume(tab.dead).catch(() => 0);
  if (left) toast(`${left} changes that were not sent are sent now.`);
}

start().catch(refuse);
