/** A stack that is open: viewports, tools, panel, and all their keys. */

import { fit } from "../core/camera";
import { CT_PRESETS } from "../core/lut";
import { api, ApiError } from "../data/api";
import type { Action } from "../data/types";
import { carried, renumbered } from "../data/regrown";
import { Stack, type Axis } from "../data/stack";
import { Cube } from "../gl/cube";
import { copyToNext, fillRegion, interpolate } from "../tools/edits";
import { makeHands } from "../tools/hands";
import { el, fill, icon, iconButton, toast } from "../ui/dom";
import { Viewport } from "../ui/viewport";
import { person } from "../ui/words";
import { bar, type App } from "./app";
import { chooseBeside, joined, link } from "./beside";
import type { Command } from "./commands";
import { panel } from "./panel";

const TOOLS: [string, string, string][] = [
  ["select", "Select", "s"], ["window", "Window", "w"], ["pan", "Pan", "p"], ["zoom", "Zoom", "z"], ["probe", "Probe and crosshair", "q"], ["", "", ""],
  ["ruler", "Ruler", "m"], ["angle", "Angle", "a"], ["", "", ""],
  ["point", "Point", "t"], ["line", "Line", "l"], ["box", "Box", "x"], ["ellipse", "Ellipse", "c"], ["polygon", "Polygon", "g"], ["freehand", "Freehand", "d"], ["", "", ""],
  ["brush", "Brush", "b"], ["eraser", "Eraser", "e"], ["threshold", "Threshold brush", "k"], ["grow", "Region grow", "u"], ["assist", "Assist", "Shift+s"],
];
type Layout = "stack" | "planes" | "cube" | "beside";

export async function viewer(app: App, id: string, besideId?: string): Promise<{ root: HTMLElement; stop: () => void; commands: Command[] }> {
  const { desk } = app;
  const stacks = [new Stack(await api.stack(id), app.outbox, app.author)];
  const [stack] = stacks as [Stack];
  stack.go(stack.place);
  if (besideId) {
    stacks.push(new Stack(await api.stack(besideId), app.outbox, app.author));
    stacks[1]!.go(stacks[1]!.place);
  }
  const hands = makeHands(desk);
  const hand = () => hands[desk.tool] ?? hands["window"]!;
  const ends: (() => void)[] = [];
  let views: Viewport[] = [];
  let cube: Cube | null = null;
  let active!: Viewport;
  let layout: Layout = besideId ? "beside" : "stack";
  let playing = 0;
  let down = false;
  let checked = 0;

  const grid = el("div", { class: "grid" });
  const slider = el("input", { type: "range", min: 0, step: 1, "aria-label": "Slice", oninput: () => active.scroll(Number(slider.value) - active.plane.index) });
  const loaded = el("span", { class: "soft" });
  const besideWords = el("span", { class: "soft" });
  const bad = (error: unknown) => toast(error instanceof Error ? error.message : String(error), "bad");
  const play = iconButton("play", "Play", () => cine(), "Space");
  const preset = el("select", { "aria-label": "Window preset", onchange: () => choose(Number(preset.value)) });
  const presets = [...stack.info.windows.map((w, n) => ({ ...w, name: w.name || `Window ${n + 1}` })), ...(stack.info.modality === "CT" ? CT_PRESETS.filter((p) => !stack.info.windows.some((w) => w.name === p.name)) : [])];
  fill(preset, el("option", { value: "-1" }, "Window…"), ...presets.map((p, n) => el("option", { value: String(n) }, p.name)));
  const choose = (n: number) => presets[n] && active.stack.setWindow({ center: presets[n].center, width: presets[n].width });

  const put = (axis: Axis, of = stack, crosshair = false) => {
    const view = new Viewport(of, axis, desk.shown, hand, crosshair);
    view.root.addEventListener("focus", () => activate(view));
    view.root.addEventListener("pointerdown", () => activate(view), true);
    views.push(view);
    return view;
  };
  const activate = (view: Viewport) => {
    active = view;
    for (const one of views) one.root.classList.toggle("active", one === view);
    slider.max = String(view.plane.count - 1);
    show();
  };
  const show = () => {
    if (!views.length) return;
    slider.value = String(active.plane.index);
    const { count, info } = active.stack.frames;
    loaded.textContent = count < info.frames && active.stack.frames.whole ? `${Math.round((100 * count) / info.frames)} %` : "";
  };
  const arrange = (next: Layout) => {
    if (next === "beside" && (stacks.length < 2 || (views.length && layout === "beside"))) return void chooseBeside(app, id).catch(bad);
    views.forEach((view) => view.stop());
    cube?.stop();
    cube = null;
    views = [];
    layout = next;
    grid.className = `grid ${next}`;
    if (next === "stack") put(2);
    else if (next === "planes") for (const axis of [2, 1, 0] as const) put(axis, stack, true);
    else if (next === "beside") stacks.forEach((one) => put(2, one, joined(stack, stacks[1]!)));
    if (next === "cube" || next === "planes") cube = new Cube(stack, desk.shown);
    if (next === "cube") put(2);
    fill(grid, ...(next === "cube" ? [] : views.map((view) => view.root)), cube?.root);
    activate(views[0]!);
    layoutButtons.forEach((button, name) => button.setAttribute("aria-pressed", String(name === next)));
    besideWords.textContent = next !== "beside" ? "" : joined(stack, stacks[1]!) ? "Linked by position" : "Linked by slice";
    if (next !== "cube") if (document.activeElement === document.body || grid.contains(document.activeElement)) active.root.focus({ preventScroll: true });
  };
  const cine = () => {
    if (playing) {
      clearInterval(playing);
      playing = 0;
    } else {
      playing = window.setInterval(() => {
        const next = (active.plane.index + 1) % active.plane.count;
        if (!active.plane.native || active.stack.frames.get(next)) active.scroll(next - active.plane.index);
      }, 1000 / (stack.info.fps ?? 20));
    }
    fill(play, icon(playing ? "stop" : "play"));
  };
  const turn = (change: (camera: Viewport["camera"]) => Viewport["camera"]) => active.setCamera(fit(change(active.camera), active.plane, active.plane.stretch, active.screen));
  const finish = () => void hand().finish?.(active);
  const remove = () => {
    const chosen = desk.shown.chosen;
    const mark = chosen ? stack.annotations.marks.get(chosen) : undefined;
    if (!mark || desk.readOnly) return;
    if (desk.shown.locked.has(mark.data.label.name)) return toast(`“${mark.data.label.name}” is locked.`);
    desk.shown.chosen = null;
    stack.annotations.remove(mark.data.id);
  };
  const moved = async (now: string | null, actions: Action[]) => {
    if (!now) return toast("Not saved: this stack is not in the archive any more.", "bad");
    const { slices } = await api.stack(now);
    const numbers = renumbered(stack.info.slices, slices);
    const again = carried(actions, numbers);
    if (!again) return toast("Not saved: a slice is not in the archive any more.", "bad");
    if (again.length) app.outbox.push(now, app.author, null, again);
    if (!location.hash.startsWith(`#/stack/${id}`)) return;
    app.kept = { id: now, slice: stack.info.slices[stack.place[2]], place: stack.place, window: stack.window, inverted: stack.inverted, layout, camera: active.camera };
    location.replace(`#/stack/${now}${besideId ? `/beside/${besideId}` : ""}`);
  };
  const take = (tool: string) => {
    hand().cancel?.();
    desk.tool = tool;
    desk.say();
  };
  const marksOf = () => [...stack.annotations.marks.values()].flatMap((m) => (m.data.kind === "mask" ? [...m.runs.keys()] : m.data.contours.map((c) => c.slice ?? -1))).filter((k) => k >= 0).sort((a, b) => a - b);
  const jump = (step: 1 | -1) => {
    const k = step > 0 ? marksOf().find((at) => at > stack.place[2]) : marksOf().findLast((at) => at < stack.place[2]);
    if (k !== undefined) stack.go([stack.place[0], stack.place[1], k]);
  };
  /** The keyboard's cursor: moves as the mouse would, pressed or not. */
  const nudge = (du: number, dv: number) => {
    const [u, v] = active.cursor ?? active.plane.flat(active.stack.place);
    const at: [number, number] = [Math.min(active.plane.width - 1, Math.max(0, u + du)), Math.min(active.plane.height - 1, Math.max(0, v + dv))];
    active.cursor = at;
    hand().move(active, active.spotAt(...at), down);
    active.redraw();
  };
  const press = () => {
    if (!active.cursor) return nudge(0, 0);
    const spot = active.spotAt(...active.cursor);
    const held = ["brush", "eraser", "threshold", "freehand"].includes(desk.tool);
    if (!down) hand().down(active, spot);
    if (down || !held) hand().up(active, spot);
    down = held && !down;
    active.redraw();
  };

  const c = (group: string, words: string, keys: string, act: () => void): Command => ({ group, words, keys, act });
  const go = (steps: number) => () => active.scroll(steps);
  const commands: Command[] = [
    c("Slices", "Next, previous slice", "ArrowDown|ArrowUp", () => undefined),
    c("Slices", "Ten slices on, back", "PageDown|PageUp", () => undefined),
    c("Slices", "First, last", "Home|End", () => undefined),
    c("Slices", "Next, previous annotated", ".|,", () => undefined),
    c("Slices", "Play", "Space", cine),
    ...TOOLS.filter(([name]) => name).map(([name, words, key]) => c("Tools", words, key, () => take(name))),
    c("View", "Fit", "f", () => active.fit()), c("View", "Turn", "r", () => turn((x) => ({ ...x, turn: (x.turn + 1) % 4 }))),
    c("View", "Mirror left and right", "h", () => turn((x) => ({ ...x, flipX: !x.flipX }))), c("View", "Mirror up and down", "v", () => turn((x) => ({ ...x, flipY: !x.flipY }))),
    c("View", "Invert", "i", () => { active.stack.inverted = !active.stack.inverted; views.forEach((view) => view.refresh()); }),
    c("View", "Larger, smaller", "+|-", () => undefined),
    c("View", "Window preset 1 to 9", "Shift+1", () => choose(0)),
    c("View", "Smooth pixels", "o", () => { views.forEach((view) => { view.smooth = !view.smooth; view.redraw(); }); }),
    c("Layout", "Stack", "Alt+1", () => arrange("stack")), c("Layout", "Three planes", "Alt+2", () => arrange("planes")), c("Layout", "3-D", "Alt+3", () => arrange("cube")), c("Layout", "Side by side", "Alt+4", () => arrange("beside")),
    c("Annotate", "Undo", "Ctrl+z", () => desk.readOnly || stack.annotations.undo()), c("Annotate", "Redo", "Ctrl+Shift+z|Ctrl+y", () => desk.readOnly || stack.annotations.redo()),
    c("Annotate", "Brush smaller, larger", "[|]", () => undefined),
    c("Annotate", "Finish contour", "Shift+Enter", finish), c("Annotate", "Let go", "Escape", () => { hand().cancel?.(); down = false; active.cursor = null; desk.shown.chosen = null; desk.say(); views.forEach((view) => view.refresh()); }),
    c("Annotate", "Remove chosen", "Delete|Backspace", remove), c("Annotate", "Fill holes, or contour", "Shift+f", () => fillRegion(active, desk)),
    c("Annotate", "Copy to next, previous slice", "y|Shift+y", () => copyToNext(active, desk, 1)), c("Annotate", "Interpolate", "j", () => interpolate(active, desk)),
    c("Annotate", "Begin a new mask", "Shift+n", () => { desk.begin(); desk.say(); }),
    c("Review", "Accept", "Shift+a", () => desk.readOnly || stack.annotations.review(desk.shown.chosen ?? undefined, "reviewed")), c("Review", "Reject", "Shift+x", () => desk.readOnly || stack.annotations.review(desk.shown.chosen ?? undefined, "rejected")),
    c("Review", "Next unfinished", "n", () => void api.worklist({}).then((list) => app.go(list.next ? `#/stack/${list.next}` : "#/"))),
    c("Keyboard alone", "Move the cursor", "Shift+ArrowUp|Shift+ArrowDown", () => undefined), c("Keyboard alone", "Press, lift", "Enter", press),
  ];
  const hidden: Command[] = [
    c("", "", "ArrowDown|ArrowRight", go(1)), c("", "", "ArrowUp|ArrowLeft", go(-1)), c("", "", "PageDown", go(10)), c("", "", "PageUp", go(-10)), c("", "", "Home", go(-1e6)), c("", "", "End", go(1e6)),
    c("", "", ".", () => jump(1)), c("", "", ",", () => jump(-1)), c("", "", "Shift+y", () => copyToNext(active, desk, -1)),
    c("", "", "+|=", () => active.setCamera({ ...active.camera, zoom: active.camera.zoom * 1.2 })), c("", "", "-", () => active.setCamera({ ...active.camera, zoom: active.camera.zoom / 1.2 })),
    c("", "", "[", () => { desk.radius = Math.max(0.5, desk.radius * 0.8); desk.say(); }), c("", "", "]", () => { desk.radius = Math.min(200, desk.radius * 1.25); desk.say(); }),
    ...([["Up", 0, -1], ["Down", 0, 1], ["Left", -1, 0], ["Right", 1, 0]] as const).flatMap(([name, u, v]) => [c("", "", `Shift+Arrow${name}`, () => nudge(4 * u, 4 * v)), c("", "", `Ctrl+Shift+Arrow${name}`, () => nudge(u, v))]),
    ...presets.slice(0, 9).map((_, n) => c("", "", `Shift+${n + 1}`, () => choose(n))),
    ...desk.labels.map((label, n) => c("", "", (label.key || String(n + 1)).toLowerCase(), () => { desk.label = label; desk.shown.chosen = null; desk.say(); })),
  ];

  const tools = new Map<string, HTMLButtonElement>();
  const rail = el("div", { class: "rail", role: "toolbar", "aria-label": "Tools", "aria-orientation": "vertical" });
  for (const [name, words, key] of TOOLS) {
    const button = name ? iconButton(name, words, () => take(name), key.toUpperCase()) : null;
    if (button) tools.set(name, button);
    rail.append(button ?? el("hr"));
  }
  const layoutButtons = new Map<Layout, HTMLButtonElement>();
  for (const [name, words, key, drawn] of [["stack", "Stack", "1", "stack"], ["planes", "Three planes", "2", "planes"], ["cube", "3-D", "3", "cube"], ["beside", "Side by side", "4", "beside"]] as const) {
    const button = iconButton(drawn, words, () => arrange(name), `Alt+${key}`);
    if ((name === "planes" || name === "cube") && (stack.info.frames < 2 || stack.info.colour)) button.disabled = true;
    layoutButtons.set(name, button);
  }
  const act = (name: string, words: string, key: string, keys: string) => iconButton(name, words, () => commands.find((x) => x.keys.split("|").includes(keys))!.act(), key);
  const transport = el("div", { class: "transport" }, play, slider, loaded, besideWords, preset,
    act("fit", "Fit", "F", "f"), act("turn", "Turn", "R", "r"), act("flip", "Mirror", "H", "h"), act("invert", "Invert", "I", "i"));
  const side = panel(app, stack, take);
  const title = el("h1", { class: "grow cut" }, el("span", {}, person(stack.info.patient) || "No name"), el("span", { class: "soft subtitle" }, `   ${stack.info.modality}  ${stack.info.description}`));
  const line = bar(app, title, ...layoutButtons.values(), el("hr"), act("undo", "Undo", "Ctrl+Z", "Ctrl+z"), act("redo", "Redo", "Ctrl+Y", "Ctrl+y"), iconButton("help", "Keys", () => document.dispatchEvent(new Event("dcmark-help")), "?"));
  const root = el("div", { class: "shell" }, line, el("main", { class: "viewer", "aria-label": "Viewer" }, rail, el("div", { class: "stage" }, grid, transport), side.root));

  const mark = () => tools.forEach((button, name) => button.setAttribute("aria-pressed", String(name === desk.tool)));
  ends.push(desk.on("changed", () => { mark(); views.forEach((view) => view.refresh()); }));
  ends.push(app.live.on("change", ({ head, stacks: ids }) => stacks.forEach((one) => ids.includes(one.info.id) && one.annotations.refresh(head))));
  for (const one of stacks) {
    ends.push(one.on("place", show), one.frames.on("frame", show), one.frames.on("failed", (text) => toast(text, "bad")), one.annotations.on("notice", (text) => toast(text)));
    one.annotations.load().catch(bad);
  }
  // A stack that files are still added to becomes another: the view moves on to it, with what was drawn meanwhile.
  ends.push(stack.annotations.on("gone", ({ entry, now }) => void moved(now, entry.actions).catch(bad)));
  ends.push(app.live.on("ingest", () => {
    if (checked || down) return;
    checked = window.setTimeout(() => void api.stack(id).catch(async (error: unknown) => {
      const now = error instanceof ApiError && error.code === "gone" ? error.more["now"] : null;
      if (typeof now === "string" && !app.outbox.pending(id)) await moved(now, []);
    }).finally(() => (checked = 0)).catch(bad), 1500);
  }));
  if (stacks[1]) ends.push(...link(stack, stacks[1]));
  mark();
  const kept = app.kept?.id === id ? app.kept : null;
  app.kept = null;
  if (kept) {
    [stack.window, stack.inverted] = [kept.window, kept.inverted];
    const k = stack.info.slices.findIndex((slice) => slice.file === kept.slice?.file && slice.frame === kept.slice.frame);
    stack.go([kept.place[0], kept.place[1], k < 0 ? kept.place[2] : k]);
  }
  arrange(kept && (kept.layout !== "beside" || besideId) ? (kept.layout as Layout) : layout);
  if (kept) active.keep(kept.camera);
  const stop = () => {
    ends.forEach((end) => end());
    views.forEach((view) => view.stop());
    cube?.stop();
    side.stop();
    clearInterval(playing);
    clearTimeout(checked);
    desk.assist.cancel();
    desk.shown.heat = null;
    desk.shown.chosen = null;
    stacks.forEach((one) => one.stop());
  };
  return { root, stop, commands: Object.assign([...commands], { find: (test: (x: Command) => boolean) => hidden.find(test) ?? commands.find(test) }) };
}
