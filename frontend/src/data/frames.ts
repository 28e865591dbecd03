/** The frames of a stack: what is looked at first, then its neighbours, within a budget of memory. */

import { api, request } from "./api";
import { Emitter } from "./emitter";
import type { StackInfo } from "./types";

const CHUNK_BYTES = 6 * 1024 * 1024;
const AT_ONCE = 2;

export type Pixels = Uint16Array | Int16Array | Uint8Array;

export class FrameStore extends Emitter<{ frame: number; failed: string }> {
  private held = new Map<number, Pixels>();
  private waiting = new Map<number, Promise<Pixels>>();
  private streaming = new Set<number>();
  private focus = 0;
  private way = 1;
  private lanes = 0;
  private stopped = false;
  private paused = 0;
  private readonly chunk: number;
  private readonly most: number;
  readonly frameBytes: number;

  /** @param budget bytes of frames that are kept. */
  constructor(
    readonly info: StackInfo,
    budget = 640 * 1024 * 1024,
  ) {
    super();
    this.frameBytes = info.rows * info.columns * (info.colour ? 3 : 2);
    this.chunk = Math.max(1, Math.min(32, Math.floor(CHUNK_BYTES / this.frameBytes)));
    this.most = Math.max(8, Math.floor(budget / this.frameBytes));
  }

  get(k: number): Pixels | undefined {
    return this.held.get(k);
  }

  get count(): number {
    return this.held.size;
  }

  /** Whether all frames can be held at once. */
  get whole(): boolean {
    return this.most >= this.info.frames;
  }

  /** Says which frame is looked at; it is fetched at once, its neighbours after it. */
  look(k: number): void {
    if (k !== this.focus) this.way = k > this.focus ? 1 : -1;
    this.focus = k;
    if (!this.held.has(k)) this.load(k).catch(() => undefined);
    this.stream();
  }

  /** The frame, fetched where it is not there. */
  load(k: number): Promise<Pixels> {
    const there = this.held.get(k);
    if (there) return Promise.resolve(there);
    const under = this.waiting.get(k);
    if (under) return under;
    const coming = request(`${api.of(this.info.id)}/frames/${k}`)
      .then(async (response) => this.keep(k, response.headers.get("X-Dcmark-Dtype"), await response.arrayBuffer(), 0))
      .finally(() => this.waiting.delete(k));
    this.waiting.set(k, coming);
    return coming;
  }

  stop(): void {
    this.stopped = true;
    this.held.clear();
  }

  private keep(k: number, type: string | null, buffer: ArrayBuffer, offset: number): Pixels {
    const size = this.info.rows * this.info.columns;
    if (buffer.byteLength < offset + this.frameBytes) throw new Error(`Frame ${k} came incomplete.`);
    const pixels =
      type === "uint8"
        ? new Uint8Array(buffer, offset, size * 3)
        : type === "int16"
          ? new Int16Array(buffer, offset, size)
          : new Uint16Array(buffer, offset, size);
    if (!this.stopped) {
      this.held.set(k, pixels);
      this.shrink();
      this.emit("frame", k);
    }
    return pixels;
  }

  private shrink(): void {
    while (this.held.size > this.most) {
      let far = -1;
      for (const k of this.held.keys()) if (far < 0 || this.distance(k) > this.distance(far)) far = k;
      this.held.delete(far);
    }
  }

  /** Frames ahead count half, so that more of them are fetched than behind. */
  private distance(k: number): number {
    const ahead = (k - this.focus) * this.way;
    return ahead >= 0 ? ahead : -2 * ahead;
  }

  private stream(): void {
    while (!this.stopped && this.lanes < AT_ONCE && Date.now() >= this.paused) {
      const range = this.nextRange();
      if (!range) return;
      this.lanes++;
      this.fetchRange(range[0], range[1])
        .then(() => true)
        .catch((error: unknown) => {
          this.paused = Date.now() + 2000;
          this.emit("failed", error instanceof Error ? error.message : String(error));
          setTimeout(() => this.stream(), 2100);
          return false;
        })
        .then((good) => {
          this.lanes--;
          if (good) this.stream();
        });
    }
  }

  /** The nearest frames that are neither held nor under way. */
  private nextRange(): [number, number] | null {
    const wanted = (k: number) =>
      k >= 0 && k < this.info.frames && !this.held.has(k) && !this.streaming.has(k) && !this.waiting.has(k);
    let best = -1;
    const room = Math.min(this.info.frames, this.most);
    for (let step = 0; step < this.info.frames && best < 0; step++) {
      for (const k of [this.focus + step * this.way, this.focus - step * this.way]) {
        if (best < 0 && wanted(k) && (this.held.size < room || this.distance(k) < room / 2)) best = k;
      }
    }
    if (best < 0) return null;
    const way = best >= this.focus ? 1 : -1;
    let last = best;
    while (Math.abs(last + way - best) < this.chunk && wanted(last + way)) last += way;
    return way > 0 ? [best, last + 1] : [last, best + 1];
  }

  private async fetchRange(from: number, to: number): Promise<void> {
    for (let k = from; k < to; k++) this.streaming.add(k);
    try {
      const response = await request(`${api.of(this.info.id)}/frames?from=${from}&to=${to}`);
      const type = response.headers.get("X-Dcmark-Dtype");
      const buffer = await response.arrayBuffer();
      for (let k = from; k < to; k++) if (!this.held.has(k)) this.keep(k, type, buffer, (k - from) * this.frameBytes);
    } finally {
      for (let k = from; k < to; k++) this.streaming.delete(k);
    }
  }
}
