/**
 * What was done and is not yet acknowledged. Each entry is written to IndexedDB before anything else can go wrong, sent
 * in order, and taken away when the server says that it is stored; so neither a closed page nor a dead server loses one.
 */

import { api, ApiError, send } from "./api";
import { Emitter } from "./emitter";
import type { Action, Reply } from "./types";

export interface Entry {
  client: string;
  archive: string;
  tab: string;
  n: number;
  stack: string;
  author: string;
  base: string | null;
  actions: Action[];
}

export type Saving = "saved" | "saving" | "offline" | "stopped";

export interface Store {
  put(entry: Entry): Promise<void>;
  remove(client: string): Promise<void>;
  all(): Promise<Entry[]>;
}

type Sender = (entry: Entry, base: string | null) => Promise<Reply>;

const post: Sender = (entry, base) =>
  send<Reply>(`${api.of(entry.stack)}/events`, {
    client: entry.client,
    based_on: base,
    actions: entry.actions,
    ...(entry.author ? { author: entry.author } : {}),
  });

export class Outbox extends Emitter<{
  state: Saving;
  done: { entry: Entry; reply: Reply };
  refused: { entry: Entry; error: ApiError };
}> {
  private queue: Entry[] = [];
  private heads = new Map<string, string | null>();
  private busy = false;
  private delay = 500;
  private count = 0;
  state: Saving = "saved";

  constructor(
    private readonly archive: string,
    private readonly tab: string,
    private readonly store: Store,
    private readonly sender: Sender = post,
  ) {
    super();
  }

  /** Takes up what an earlier page left behind. */
  async resume(dead: (tab: string) => Promise<boolean>): Promise<number> {
    const found: Entry[] = [];
    for (const entry of await this.store.all()) {
      if (entry.archive === this.archive && (entry.tab === this.tab || (await dead(entry.tab)))) found.push(entry);
    }
    found.sort((a, b) => a.n - b.n);
    this.queue.unshift(...found);
    void this.drain();
    return found.length;
  }

  /** Whether something of the annotation, or of any where none is named, is still to be sent. */
  pending(stack: string, id?: string): boolean {
    return this.queue.some(
      (e) => e.stack === stack && (!id || e.actions.some((a) => a.id === id || a.annotation?.id === id)),
    );
  }

  get size(): number {
    return this.queue.length;
  }

  push(stack: string, author: string, base: string | null, actions: Action[]): Entry {
    const client = crypto.randomUUID();
    const n = Date.now() * 1000 + (this.count++ % 1000);
    const entry = { client, archive: this.archive, tab: this.tab, n, stack, author, base, actions };
    // Where the browser keeps nothing (private windows), the entry still is sent.
    this.store.put(entry).catch(() => undefined);
    this.queue.push(entry);
    void this.drain();
    return entry;
  }

  /** Tries at once, as when the network came back. */
  retry(): void {
    this.delay = 500;
    void this.drain();
  }

  private say(state: Saving): void {
    this.state = state;
    this.emit("state", state);
  }

  private async drain(): Promise<void> {
    if (this.busy) return;
    this.busy = true;
    while (this.queue.length) {
      if (this.state === "saved") this.say("saving");
      const entry = this.queue[0]!;
      try {
        const reply = await this.sender(entry, this.heads.get(entry.stack) ?? entry.base);
        this.heads.set(entry.stack, reply.head);
        this.finish(entry);
        this.say(this.queue.length ? "saving" : "saved");
        this.delay = 500;
        this.emit("done", { entry, reply });
      } catch (error) {
        const failed = error instanceof ApiError ? error : new ApiError(0, "offline", String(error));
        if (failed.status === 401) {
          this.say("stopped");
          this.emit("refused", { entry, error: failed });
          break;
        }
        if (failed.status === 0 || failed.status >= 500 || failed.status === 429) {
          this.say("offline");
          setTimeout(() => void this.drain(), this.delay);
          this.delay = Math.min(8000, this.delay * 2);
          break;
        }
        this.heads.delete(entry.stack);
        this.finish(entry);
        this.say(this.queue.length ? "saving" : "saved");
        this.emit("refused", { entry, error: failed });
      }
    }
    this.busy = false;
  }

  private finish(entry: Entry): void {
    this.queue.shift();
    this.store.remove(entry.client).catch(() => undefined);
  }

  /** Forgets the head that followed from own changes, when a newer one was read. */
  read(stack: string): void {
    if (!this.pending(stack)) this.heads.delete(stack);
  }
}

/** The store of a browser. */
export function browserStore(): Store {
  const opened = new Promise<IDBDatabase>((resolve, reject) => {
    const opening = indexedDB.open("dcmark", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("outbox", { keyPath: "client" });
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(new Error("IndexedDB is not to be had."));
  });
  opened.catch(() => undefined);
  const act = async <T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> => {
    const transaction = (await opened).transaction("outbox", mode);
    const asked = work(transaction.objectStore("outbox"));
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(asked.result);
      transaction.onerror = () => reject(new Error("IndexedDB failed."));
    });
  };
  return {
    put: async (entry) => void (await act("readwrite", (store) => store.put(entry))),
    remove: async (client) => void (await act("readwrite", (store) => store.delete(client))),
    all: () => act<Entry[]>("readonly", (store) => store.getAll()),
  };
}

/** This tab's name, held for as long as it lives; and whether another's is held. */
export function tabName(): { name: string; dead: (tab: string) => Promise<boolean> } {
  const name = crypto.randomUUID();
  void navigator.locks?.request(`dcmark-${name}`, () => new Promise(() => undefined));
  const dead = async (tab: string) => {
    const held = await navigator.locks?.query();
    return !held?.held?.some((lock) => lock.name === `dcmark-${tab}`);
  };
  return { name, dead };
}
