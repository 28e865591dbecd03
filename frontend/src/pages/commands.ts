/** Everything that can be done, with its key: the help sheet is this list. */

import { dialog, el } from "../ui/dom";

export interface Command {
  group: string;
  words: string;
  /** As `keyName` gives it; several are told apart by a bar. */
  keys: string;
  act(): void;
}

/** "Ctrl+Shift+z" and the like; letters as they are written with Shift left out. */
export function keyName(event: { key: string; ctrlKey: boolean; metaKey: boolean; altKey: boolean; shiftKey: boolean; code: string }): string {
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code)?.[1];
  const key = digit && (event.shiftKey || event.altKey) ? digit : event.key === " " ? "Space" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const written = key.length > 1 || /[a-z0-9]/.test(key);
  return [event.ctrlKey || event.metaKey ? "Ctrl+" : "", event.altKey ? "Alt+" : "", event.shiftKey && written ? "Shift+" : "", key].join("");
}

export function run(commands: Command[], event: KeyboardEvent): boolean {
  const name = keyName(event);
  const found = commands.find((command) => command.keys.split("|").includes(name));
  if (!found) return false;
  event.preventDefault();
  found.act();
  return true;
}

/** The help sheet. */
export function help(commands: Command[], labels: { key: string; name: string }[]): void {
  const groups = new Map<string, [string, string][]>();
  for (const { group, words, keys } of commands) groups.set(group, [...(groups.get(group) ?? []), [words, keys]]);
  const keyed = labels.filter((label) => label.key);
  if (keyed.length) groups.set("Labels", keyed.map((label): [string, string] => [label.name, label.key]));
  groups.set("Mouse", [["Tool in the hand", "left"], ["Window", "right"], ["Pan", "middle"], ["Slices", "wheel"], ["Zoom", "Ctrl+wheel"]]);
  dialog("Keys", el("div", { class: "help" }, ...[...groups].map(([group, rows]) =>
    el("section", {}, el("h3", { class: "caption" }, group), el("dl", {}, ...rows.flatMap(([words, keys]) =>
      [el("dt", {}, words), el("dd", {}, ...keys.split("|").slice(0, 2).flatMap((key, i) => [i ? " " : null, el("kbd", {}, nice(key))]))]))))));
}

function nice(key: string): string {
  const arrows: Record<string, string> = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", PageUp: "Page ↑", PageDown: "Page ↓" };
  const parts = key === "+" ? [key] : key.split("+");
  return parts.map((part) => arrows[part] ?? (part.length === 1 ? part.toUpperCase() : part)).join(" ");
}
