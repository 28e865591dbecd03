/** Requests to the server this page came from. */

import type { Archive, LabelSet, Review, StackInfo, TagElement, Worklist } from "./types";

/** An answer that is no success; `code` and `more` are the server's. Status 0: there was no answer. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly more: Record<string, unknown> = {},
  ) {
    super(message);
  }
}

/** Sends a request and gives the answer when it is a success. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (init.method && init.method !== "GET") headers.set("X-Dcmark", "1");
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, credentials: "same-origin" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, "offline", "The server does not answer.");
  }
  if (response.ok) return response;
  let body: Record<string, unknown> = {};
  try {
    body = (await response.json()) as Record<string, unknown>;
  } catch {
    // An error without JSON: the status says what there is to say.
  }
  throw new ApiError(
    response.status,
    String(body["code"] ?? response.status),
    String(body["message"] ?? `The server answered ${response.status}.`),
    body,
  );
}

async function json<T>(path: string, init?: RequestInit): Promise<T> {
  return (await (await request(path, init)).json()) as T;
}

export function send<T>(path: string, body: unknown, method = "POST"): Promise<T> {
  return json<T>(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
}

const of = (stack: string) => `/api/stacks/${encodeURIComponent(stack)}`;

export const api = {
  of,
  archive: () => json<Archive>("/api/archive"),
  worklist: (filter: Record<string, string>) => json<Worklist>(`/api/worklist?${new URLSearchParams(filter)}`),
  stack: (id: string) => json<StackInfo>(of(id)),
  tags: (id: string, frame: number) => json<{ elements: TagElement[] }>(`${of(id)}/tags?frame=${frame}`),
  labels: () => json<{ sets: LabelSet[] }>("/api/labels"),
  saveLabels: (set: LabelSet) => send<{ sets: LabelSet[] }>("/api/labels", set, "PUT"),
  assists: () => json<{ names: string[] }>("/api/assist"),
  review: (id: string, label: string) =>
    json<Review>(`/api/review/${encodeURIComponent(id)}?${new URLSearchParams({ label })}`),
  upload: async (format: string, file: Blob) => {
    const response = await request(`/api/import?${new URLSearchParams({ format })}`, {
      method: "POST",
      body: file,
      headers: { "Content-Type": "application/octet-stream" },
    });
    return (await response.json()) as { added: number; findings: { message: string }[] };
  },
};
