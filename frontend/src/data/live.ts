/** What others do, and how far an ingest got, as it happens. */

import { Emitter } from "./emitter";
import type { Ingest } from "./types";

export class Live extends Emitter<{ change: { head: string | null; stacks: string[] }; ingest: Ingest | null; up: boolean }> {
  private source: EventSource | null = null;

  start(): void {
    const source = new EventSource("/api/events");
    this.source = source;
    source.onopen = () => this.emit("up", true);
    source.onmessage = (event) => this.emit("change", JSON.parse(String(event.data)) as never);
    source.addEventListener("ingest", (event) => this.emit("ingest", JSON.parse(String(event.data)) as Ingest | null));
    source.onerror = () => {
      this.emit("up", false);
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      source.close();
      if (this.source === source) setTimeout(() => this.source === source && this.start(), 3000);
    };
  }
}
