/** The annotations of a stack: changed here at once, told to the server, and set right by what it answers. */

import { area, decode, type Runs } from "../core/rle";
import { api, request, type ApiError } from "./api";
import { Emitter } from "./emitter";
import type { Entry, Outbox } from "./outbox";
import type { Action, Annotation, Contour, Kind, Label, Reply, SliceRuns, Status } from "./types";

/** An annotation as it is drawn: the mask by slice. */
export interface Mark {
  data: Annotation;
  runs: Map<number, Runs>;
}

/** 32 hexadecimal digits. */
export function newId(): string {
  return crypto.randomUUID().replaceAll("-", "");
}

export class Annotations extends Emitter<{ changed: Set<string>; notice: string; loaded: null; gone: { entry: Entry; now: string | null } }> {
  readonly marks = new Map<string, Mark>();
  head: string | null = null;
  /** Where set, only this reader's annotations are seen. */
  blind = false;
  private bitmaps = new Map<string, Uint8Array>();
  private ends: (() => void)[];
  private again = 0;
  /** Counts what the server answered to own changes: a list that was asked for before that is too old. */
  private answers = 0;

  constructor(
    readonly stack: string,
    private readonly outbox: Outbox,
    public author: string,
    private readonly size: number,
  ) {
    super();
    this.ends = [
      outbox.on("done", ({ entry, reply }) => entry.stack === stack && (this.answers++, this.take(reply))),
      outbox.on("refused", ({ entry, error }) => entry.stack === stack && this.refused(entry, error)),
    ];
  }

  stop(): void {
    this.ends.forEach((end) => end());
    clearTimeout(this.again);
  }

  /** Reads all from the server; what is still to be sent stays as it is here. */
  async load(): Promise<void> {
    const filter = this.blind ? `?${new URLSearchParams({ author: this.author })}` : "";
    const before = this.answers;
    const response = await request(`${api.of(this.stack)}/annotations${filter}`);
    const reply = (await response.json()) as { head: string | null; annotations: Annotation[] };
    if (before !== this.answers) return this.refresh(null);
    const there = new Set(reply.annotations.map((a) => a.id));
    const removed = [...this.marks.keys()].filter((id) => !there.has(id));
    this.outbox.read(this.stack);
    this.take({ ...reply, removed });
    this.emit("loaded", null);
  }

  /** Reads again after others changed something; waits for what is on its way. */
  refresh(head: string | null): void {
    clearTimeout(this.again);
    this.again = window.setTimeout(() => {
      if (head !== null && head === this.head) return;
      if (this.outbox.pending(this.stack)) this.refresh(head);
      else this.load().catch(() => undefined);
    }, 120);
  }

  /** Marks of a kind, in the order they were made. */
  of(kind?: Kind): Mark[] {
    return [...this.marks.values()].filter((mark) => !kind || mark.data.kind === kind);
  }

  /** The bitmap of a mask on a slice; not to be written to, but by `edit`. */
  bitmap(id: string, k: number): Uint8Array {
    const key = `${id} ${k}`;
    let there = this.bitmaps.get(key);
    if (!there) {
      there = decode(this.marks.get(id)?.runs.get(k) ?? [], this.size);
      this.bitmaps.set(key, there);
      if (this.bitmaps.size > 24) this.bitmaps.delete(this.bitmaps.keys().next().value!);
    }
    return there;
  }

  add(given: Partial<Annotation> & { kind: Kind; label: Annotation["label"] }): string {
    const id = given.id ?? newId();
    const data: Annotation = {
      level: given.kind === "mask" ? "volume" : "region", slice: null, contours: [], mask: null, value: null, unit: "",
      text: "", author: this.author, tool: "", time: new Date().toISOString(), status: "draft", comment: "",
      derived_from: [], ...given, id,
    };
    this.marks.set(id, { data, runs: runsOf(data) });
    const { author, time, comment, status, ...told } = data;
    this.send([{ type: "add", annotation: told }], [id]);
    return id;
  }

  /** Sets slices of a mask, or adds the mask where there is none of this id. */
  setSlices(id: string, slices: SliceRuns[], label: Label, tool: string): void {
    const mark = this.marks.get(id);
    if (!mark) {
      const full = slices.filter((s) => s.runs.length);
      if (full.length) this.add({ id, kind: "mask", label: bare(label), mask: { slices: full }, tool, slice: full[0]!.k });
      return;
    }
    for (const { k, runs } of slices) {
      if (runs.length) mark.runs.set(k, runs);
      else mark.runs.delete(k);
      this.bitmaps.delete(`${id} ${k}`);
    }
    if (mark.runs.size === 0) return this.remove(id);
    this.send([{ type: "change", annotation: { id, mask: { slices, partial: true }, tool } }], [id]);
  }

  change(id: string, patch: Partial<Annotation>): void {
    const mark = this.marks.get(id);
    if (!mark) return;
    mark.data = { ...mark.data, ...patch };
    this.send([{ type: "change", annotation: { ...patch, id } }], [id]);
  }

  /** Only here: while the mouse is down; `change` follows. */
  preview(id: string, contours: Contour[]): void {
    const mark = this.marks.get(id);
    if (!mark) return;
    mark.data = { ...mark.data, contours };
    this.emit("changed", new Set([id]));
  }

  remove(id: string): void {
    if (!this.marks.delete(id)) return;
    this.forget(id);
    this.send([{ type: "remove", id }], [id]);
  }

  review(id: string | undefined, status: Status, comment?: string): void {
    const ids = id ? [id] : [...this.marks.keys()];
    for (const one of ids) {
      const mark = this.marks.get(one);
      if (mark) mark.data = { ...mark.data, status, comment: comment ?? mark.data.comment };
    }
    const told = { type: "review" as const, status, ...(comment ? { comment } : {}) };
    // Who reads blind judges only what is seen.
    if (id || !this.blind) this.send([{ ...told, ...(id ? { id } : {}) }], ids);
    else if (ids.length) this.send(ids.map((one) => ({ ...told, id: one })), ids);
  }

  undo(): void {
    this.send([{ type: "undo" }], []);
  }

  redo(): void {
    this.send([{ type: "redo" }], []);
  }

  private send(actions: Action[], ids: string[]): void {
    this.outbox.push(this.stack, this.author, this.head, actions);
    this.emit("changed", new Set(ids));
  }

  private take(reply: Reply): void {
    this.head = reply.head;
    const ids = new Set<string>();
    for (const data of reply.annotations) {
      // What was drawn since is newer than the answer.
      if (this.outbox.pending(this.stack, data.id)) continue;
      if (this.blind && data.author !== this.author) continue;
      this.marks.set(data.id, { data, runs: runsOf(data) });
      this.forget(data.id);
      ids.add(data.id);
    }
    for (const id of reply.removed) {
      if (this.outbox.pending(this.stack, id)) continue;
      if (this.marks.delete(id)) ids.add(id);
      this.forget(id);
    }
    if (ids.size) this.emit("changed", ids);
  }

  private forget(id: string): void {
    for (const key of this.bitmaps.keys()) if (key.startsWith(id)) this.bitmaps.delete(key);
  }

  /** The server did not take it. Of a conflict, what was drawn is kept as an annotation of its own. */
  private refused(entry: Entry, error: ApiError): void {
    if (error.code === "nothing") {
      this.emit("notice", entry.actions[0]?.type === "redo" ? "Nothing to redo." : "Nothing to undo.");
      return;
    }
    if (error.status === 401) return;
    if (error.code === "gone") {
      this.emit("gone", { entry, now: typeof error.more["now"] === "string" ? error.more["now"] : null });
      return;
    }
    if (error.code === "conflict") {
      const before = new Map(this.marks);
      this.take({ head: null, annotations: [], removed: [], ...error.more } as Reply);
      for (const action of entry.actions) this.keepBeside(action, before);
      this.load().catch(() => undefined);
      return;
    }
    this.emit("notice", `Not saved: ${error.message}`);
    this.load().catch(() => undefined);
  }

  private keepBeside(action: Action, before: Map<string, Mark>): void {
    const given = action.annotation;
    const mine = given?.id ? before.get(given.id) : undefined;
    if (action.type === "change" && mine && (given?.mask || given?.contours)) {
      const { partial: _, ...mask } = given.mask ?? { slices: [] };
      mask.slices = mask.slices.filter((s) => s.runs.length);
      if (!given.contours && !mask.slices.length) return;
      const { id, ...rest } = mine.data;
      this.add({ ...rest, ...given, id: newId(), mask: given.mask ? mask : null, derived_from: [id] });
      this.emit("notice", "Somebody changed this meanwhile: your version is kept beside theirs.");
    } else this.emit("notice", "Somebody changed this meanwhile. Look again before you go on.");
  }
}

/** What an annotation says of a label. */
export function bare(label: Label): Annotation["label"] {
  return { name: label.name, color: label.color, code: label.code };
}

export function runsOf(data: Annotation): Map<number, Runs> {
  return new Map((data.mask?.slices ?? []).filter((s) => s.runs.length).map((s) => [s.k, s.runs]));
}

/** Pixels of all slices. */
export function volumeOf(mark: Mark): number {
  let sum = 0;
  for (const runs of mark.runs.values()) sum += area(runs);
  return sum;
}
