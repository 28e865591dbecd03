import { beforeEach, describe, expect, test, vi } from "vitest";
import { Annotations, newId } from "../src/data/annotations";
import { ApiError } from "../src/data/api";
import { Outbox, type Entry, type Store } from "../src/data/outbox";
import type { Label, Reply } from "../src/data/types";

vi.stubGlobal("window", globalThis);

function memory(): Store & { entries: Map<string, Entry> } {
  const entries = new Map<string, Entry>();
  return {
    entries,
    put: (entry) => (entries.set(entry.client, structuredClone(entry)), Promise.resolve()),
    remove: (client) => (entries.delete(client), Promise.resolve()),
    all: () => Promise.resolve([...entries.values()]),
  };
}

const LABEL: Label = { name: "Liver", color: "#c08040", key: "1", code: null };
const settle = () => vi.advanceTimersByTimeAsync(20_000);

describe("the outbox", () => {
  beforeEach(() => void vi.useFakeTimers());

  test("keeps what the server did not acknowledge, in order, and sends it when it is back", async () => {
    const store = memory();
    const got: string[] = [];
    let up = false;
    const sender = (entry: Entry): Promise<Reply> => {
      if (!up) return Promise.reject(new ApiError(0, "offline", ""));
      got.push(entry.actions[0]!.id!);
      return Promise.resolve({ head: `h${got.length}`, annotations: [], removed: [] });
    };
    const box = new Outbox("a", "t", store, sender);
    for (const id of ["1", "2", "3"]) box.push("s", "", null, [{ type: "remove", id }]);
    await settle();
    expect(box.state).toBe("offline");
    expect(store.entries.size).toBe(3);
    up = true;
    await settle();
    expect(got).toEqual(["1", "2", "3"]);
    expect(box.state).toBe("saved");
    expect(store.entries.size).toBe(0);
  });

  test("takes up what a closed page left, but not what another page still sends", async () => {
    const store = memory();
    const never = new Outbox("a", "old", store, () => Promise.reject(new ApiError(0, "", "")));
    never.push("s", "", "h0", [{ type: "remove", id: "x" }]);
    const other = new Outbox("b", "old", store, () => Promise.reject(new ApiError(0, "", "")));
    other.push("s", "", null, [{ type: "remove", id: "of another archive" }]);
    const sent: [string, string | null][] = [];
    const sender = (entry: Entry, base: string | null): Promise<Reply> => {
      sent.push([entry.actions[0]!.id!, base]);
      return Promise.resolve({ head: "h1", annotations: [], removed: [] });
    };
    expect(await new Outbox("a", "new", store, sender).resume(() => Promise.resolve(false))).toBe(0);
    expect(await new Outbox("a", "new", store, sender).resume(() => Promise.resolve(true))).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(sent).toEqual([["x", "h0"]]);
    expect([...store.entries.values()].map((e) => e.archive)).toEqual(["b"]);
  });

  test("each request is based on the head the one before was given", async () => {
    const bases: (string | null)[] = [];
    const sender = (_: Entry, base: string | null): Promise<Reply> => {
      bases.push(base);
      return Promise.resolve({ head: `h${bases.length}`, annotations: [], removed: [] });
    };
    const box = new Outbox("a", "t", memory(), sender);
    for (let i = 0; i < 3; i++) box.push("s", "", "h0", [{ type: "undo" }]);
    await settle();
    expect(bases).toEqual(["h0", "h1", "h2"]);
  });

  test("what is refused is said, and does not hold up the rest", async () => {
    const refused: string[] = [];
    let first = true;
    const sender = (): Promise<Reply> => {
      if (!first) return Promise.resolve({ head: "h", annotations: [], removed: [] });
      first = false;
      return Promise.reject(new ApiError(400, "usage", "no"));
    };
    const box = new Outbox("a", "t", memory(), sender);
    box.on("refused", ({ error }) => refused.push(error.code));
    box.push("s", "", null, [{ type: "undo" }]);
    box.push("s", "", null, [{ type: "redo" }]);
    await settle();
    expect(refused).toEqual(["usage"]);
    expect(box.size).toBe(0);
  });
});

describe("annotations", () => {
  beforeEach(() => void vi.useFakeTimers());

  test("an answer does not overwrite what was drawn since", async () => {
    const waiting: ((reply: Reply) => void)[] = [];
    const box = new Outbox("a", "t", memory(), () => new Promise((resolve) => waiting.push(resolve)));
    const marks = new Annotations("s", box, "me", 100);
    const id = newId();
    marks.setSlices(id, [{ k: 4, runs: [10, 5] }], LABEL, "brush");
    const old = structuredClone(marks.marks.get(id)!.data);
    marks.setSlices(id, [{ k: 4, runs: [10, 9] }], LABEL, "brush");
    waiting[0]!({ head: "h1", annotations: [old], removed: [] });
    await vi.advanceTimersByTimeAsync(1);
    expect(marks.marks.get(id)!.runs.get(4)).toEqual([10, 9]);
    expect(marks.bitmap(id, 4).reduce((a, b) => a + b, 0)).toBe(9);
    expect(marks.head).toBe("h1");
  });

  test("a list that was asked for before a change does not bring back what the change took away", async () => {
    const box = new Outbox("a", "t", memory(), () => Promise.resolve({ head: "h2", annotations: [], removed: ["x".repeat(32)] }));
    const old = { id: "x".repeat(32), kind: "mask", label: LABEL, mask: { slices: [{ k: 1, runs: [0, 2] }] } };
    let answer!: (body: object) => void;
    const asked: string[] = [];
    vi.stubGlobal("fetch", (path: string) => (asked.push(path), new Promise((resolve) => (answer = (body) => resolve(new Response(JSON.stringify(body)))))));
    const marks = new Annotations("s", box, "me", 100);
    const loading = marks.load();
    marks.undo();
    await vi.advanceTimersByTimeAsync(1);
    answer({ head: "h1", annotations: [old] });
    await loading;
    expect(marks.marks.size).toBe(0);
    expect(marks.head).toBe("h2");
    await vi.advanceTimersByTimeAsync(500);
    expect(asked.length).toBe(2);
    marks.stop();
  });

  test("a mask that is emptied is removed", async () => {
    const told: string[] = [];
    const box = new Outbox("a", "t", memory(), (entry) => {
      told.push(entry.actions[0]!.type);
      return Promise.resolve({ head: null, annotations: [], removed: [] });
    });
    const marks = new Annotations("s", box, "me", 100);
    const id = newId();
    marks.setSlices(id, [{ k: 4, runs: [10, 5] }], LABEL, "brush");
    marks.setSlices(id, [{ k: 4, runs: [] }], LABEL, "eraser");
    await settle();
    expect(told).toEqual(["add", "remove"]);
    expect(marks.marks.size).toBe(0);
  });

  test("in a conflict the own stroke is kept beside the other's", async () => {
    const sent: Entry[] = [];
    const theirs = { label: { name: "Liver", color: "", code: null }, kind: "mask", mask: { slices: [{ k: 4, runs: [0, 50] }] } };
    const box = new Outbox("a", "t", memory(), (entry) => {
      sent.push(entry);
      if (sent.length === 2) {
        const id = entry.actions[0]!.annotation!.id;
        const more = { head: "h9", annotations: [{ ...theirs, id }], removed: [] };
        return Promise.reject(new ApiError(409, "conflict", "changed", more));
      }
      return Promise.resolve({ head: "h", annotations: [], removed: [] });
    });
    vi.stubGlobal("fetch", () => Promise.reject(new Error("not asked here")));
    const marks = new Annotations("s", box, "me", 100);
    const notices: string[] = [];
    marks.on("notice", (text) => notices.push(text));
    const id = newId();
    marks.setSlices(id, [{ k: 4, runs: [10, 5] }], LABEL, "brush");
    await settle();
    marks.setSlices(id, [{ k: 4, runs: [10, 7] }], LABEL, "brush");
    await settle();
    expect(marks.marks.get(id)!.runs.get(4)).toEqual([0, 50]);
    const beside = [...marks.marks.values()].find((mark) => mark.data.id !== id)!;
    expect(beside.runs.get(4)).toEqual([10, 7]);
    expect(beside.data.derived_from).toEqual([id]);
    expect(sent[2]!.actions[0]).toMatchObject({ type: "add", annotation: { derived_from: [id] } });
    expect(notices[0]).toContain("kept beside");
  });
});
