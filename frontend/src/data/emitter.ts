/** Those who want to know, told. */

export class Emitter<Events extends { [name: string]: unknown }> {
  private listeners = new Map<keyof Events, Set<(value: never) => void>>();

  /** @returns a function that ends it. */
  on<K extends keyof Events>(name: K, listener: (value: Events[K]) => void): () => void {
    const all = this.listeners.get(name) ?? new Set();
    this.listeners.set(name, all.add(listener as (value: never) => void));
    return () => all.delete(listener as (value: never) => void);
  }

  emit<K extends keyof Events>(name: K, value: Events[K]): void {
    this.listeners.get(name)?.forEach((listener) => (listener as (value: Events[K]) => void)(value));
  }
}
