/** A server that keeps nothing: one made-up CT, and what the page does to it while it runs. */

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Plugin } from "vite";

const [ROWS, COLUMNS, FRAMES] = [512, 512, Number(process.env["FRAMES"] ?? 1000)];
type Annotation = { [name: string]: unknown; id: string };
type Change = [string, Annotation | undefined, Annotation | undefined];
const state = { head: 0, now: new Map<string, Annotation>(), done: [] as Change[][], undone: [] as Change[][] };
const listeners = new Set<ServerResponse>();
const noise = Int16Array.from({ length: 1 << 16 }, () => (Math.random() - 0.5) * 60);

/** A body with lungs, a spine, and a vessel that winds upward. */
function frame(k: number): Int16Array {
  const out = new Int16Array(ROWS * COLUMNS);
  const t = k / FRAMES;
  const lung = 0.18 * Math.sin(Math.PI * Math.min(1, t * 1.3)) + 0.01;
  for (let y = 0, at = 0; y < ROWS; y++) {
    for (let x = 0; x < COLUMNS; x++, at++) {
      const [u, v] = [x / COLUMNS - 0.5, y / ROWS - 0.5];
      let hu = -1000;
      if (u * u / 0.18 + v * v / 0.09 < 1) {
        hu = u * u / 0.16 + v * v / 0.075 < 1 ? 45 : -90;
        for (const side of [-0.2, 0.2]) if (((u - side) / (lung * 0.75)) ** 2 + ((v + 0.02) / lung) ** 2 < 1) hu = -830;
        if (u * u + (v - 0.19) ** 2 < 0.0022) hu = u * u + (v - 0.19) ** 2 < 0.0012 ? 260 : 700;
        if ((u - 0.04 * Math.sin(9 * t)) ** 2 + (v - 0.02) ** 2 < 0.0014) hu = 310;
        if ((u + 0.16) ** 2 + (v - 0.02) ** 2 < 0.0009 * Math.max(0, 1 - ((t - 0.5) * 12) ** 2)) hu = 90;
      }
      out[at] = hu + noise[(at * 7 + k * 7919) & 0xffff]!;
    }
  }
  return out;
}

const info = {
  id: "demo", kind: "volume", modality: "CT", patient: "Phantom, Chest", description: "Chest 0.5 mm", unit: "HU", quantity: "CT number",
  rows: ROWS, columns: COLUMNS, frames: FRAMES, bits: 16, signed: true, colour: false, slope: 1, intercept: 0,
  windows: [{ name: "Soft tissue", center: 40, width: 400 }], window: { center: 40, width: 400 },
  affine: [[0.7, 0, 0, -180], [0, 0.7, 0, -180], [0, 0, 0.5, -200], [0, 0, 0, 1]], spacing: [0.5, 0.7, 0.7],
  frame_of_reference: "1.2.3", fps: null, photometric: "MONOCHROME2", findings: [],
  slices: Array.from({ length: FRAMES }, (_, k) => ({ file: "0".repeat(64), frame: k, position: [-180, -180, -200 + k / 2], orientation: [1, 0, 0, 0, 1, 0], slope: 1, intercept: 0, sop_instance_uid: `1.2.3.${k}` })),
};
const archive = { id: "mock", name: "demo.dcmark", read_only: false, version: "dev", counts: { patients: 1, studies: 1, series: 1, volumes: 1, files: FRAMES, frames: FRAMES }, ingest: null, author: "dev" };
const labels = [{ name: "Chest", labels: [{ name: "Nodule", color: "#e2b45f", key: "1", code: null }, { name: "Artery", color: "#d9735e", key: "2", code: null }] }];

function act(actions: { type: string; id?: string; annotation?: Annotation; status?: string; comment?: string }[]): object | null {
  const step: Change[] = [];
  const put = (id: string, next: Annotation | undefined) => {
    step.push([id, state.now.get(id), next]);
    if (next) state.now.set(id, next);
    else state.now.delete(id);
  };
  for (const a of actions) {
    const given = a.annotation;
    if (a.type === "add") put(given!.id, { author: "dev", time: new Date().toISOString(), status: "draft", comment: "", contours: [], mask: null, ...given! });
    if (a.type === "remove") put(a.id!, undefined);
    if (a.type === "review") for (const id of a.id ? [a.id] : [...state.now.keys()]) put(id, { ...state.now.get(id)!, status: a.status, comment: a.comment ?? "" });
    if (a.type === "change") {
      const old = state.now.get(given!.id)!;
      const next = { ...old, ...given! } as Annotation & { mask: { partial?: boolean; slices: { k: number; runs: number[] }[] } };
      if (next.mask?.partial) {
        const slices = new Map((old["mask"] as typeof next.mask).slices.map((s) => [s.k, s.runs]));
        for (const s of next.mask.slices) slices.set(s.k, s.runs);
        next.mask = { slices: [...slices].filter(([, runs]) => runs.length).map(([k, runs]) => ({ k, runs })) };
      }
      put(next.id, next);
    }
    if (a.type === "undo" || a.type === "redo") {
      const back = a.type === "undo" ? state.done.pop() : state.undone.pop();
      if (!back) return null;
      for (const [id, before, after] of back) put(id, a.type === "undo" ? before : after);
      (a.type === "undo" ? state.undone : state.done).push(back);
    }
  }
  if (!["undo", "redo"].includes(actions[0]!.type)) {
    state.done.push([...step]);
    state.undone = [];
  }
  state.head++;
  for (const one of listeners) one.write(`data: ${JSON.stringify({ head: `h${state.head}`, stacks: ["demo"] })}\n\n`);
  const ids = [...new Set(step.map(([id]) => id))];
  return { head: `h${state.head}`, saved: true, annotations: ids.flatMap((id) => state.now.get(id) ?? []), removed: ids.filter((id) => !state.now.has(id)) };
}

async function answer(request: IncomingMessage, response: ServerResponse, next: () => void): Promise<void> {
  const url = new URL(request.url ?? "/", "http://x");
  const say = (body: unknown, status = 200) => {
    response.writeHead(status, { "Content-Type": "application/json" });
    response.end(JSON.stringify(body));
  };
  const chunks: Buffer[] = [];
  if (!url.pathname.startsWith("/api/")) return next();
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const body = () => JSON.parse(Buffer.concat(chunks).toString());
  const path = url.pathname.slice(5);
  const frames = /^stacks\/demo\/frames(?:\/(\d+))?$/.exec(path);
  if (frames) {
    const from = Number(frames[1] ?? url.searchParams.get("from"));
    const to = frames[1] ? from + 1 : Number(url.searchParams.get("to"));
    response.writeHead(200, { "X-Dcmark-Dtype": "int16", "X-Dcmark-Shape": `${ROWS},${COLUMNS}` });
    for (let k = from; k < to; k++) response.write(Buffer.from(frame(k).buffer));
    response.end();
  } else if (path === "archive") say(archive);
  else if (path === "worklist") say({ items: [{ ...info, slices: undefined, patient_id: "D1", study: "1.2", study_date: "20261124", series: "1.2.3", annotated: state.now.size, state: state.now.size ? "draft" : "todo" }], next: "demo", total: 1, counts: { state: { [state.now.size ? "draft" : "todo"]: 1 }, modality: { CT: 1 } } });
  else if (path === "stacks/demo/thumbnail.jpg") {
    response.writeHead(200, { "Content-Type": "image/bmp" });
    response.end(thumbnail());
  } else if (path === "labels") say({ sets: request.method === "PUT" ? ((labels[0] = body()), labels) : labels });
  else if (path === "assist") say({ names: [] });
  else if (path === "stacks/demo") say(info);
  else if (path === "stacks/demo/annotations") say({ head: `h${state.head}`, annotations: [...state.now.values()] });
  else if (path === "stacks/demo/events") {
    const done = act(body().actions);
    say(done ?? { code: "nothing", message: "nothing" }, done ? 201 : 409);
  } else if (path === "stacks/demo/tags") say({ elements: [{ tag: "(0010,0010)", keyword: "PatientName", name: "Patient's Name", vr: "PN", value: info.patient, depth: 0 }] });
  else if (path === "stacks/demo/proxy") {
    const [side, deep] = [96, 96];
    const out = new Uint8Array(deep * side * side);
    for (let k = 0; k < deep; k++) {
      const f = frame(Math.floor((k * FRAMES) / deep));
      for (let j = 0; j < side; j++) for (let i = 0; i < side; i++) out[(k * side + j) * side + i] = Math.max(0, Math.min(255, (f[Math.floor((j * 512) / side) * 512 + Math.floor((i * 512) / side)]! + 160) * 0.6375));
    }
    response.writeHead(200, { "X-Dcmark-Shape": `${deep},${side},${side}`, "X-Dcmark-Affine": JSON.stringify([[3.73, 0, 0, -180], [0, 3.73, 0, -180], [0, 0, (FRAMES * 0.5) / deep, -200], [0, 0, 0, 1]]) });
    response.end(Buffer.from(out.buffer));
  } else if (path === "events") {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write(": here\n\n");
    listeners.add(response);
    request.on("close", () => listeners.delete(response));
  } else if (path.startsWith("review/")) say({ authors: ["dev"], slices: [] });
  else say({ code: "unknown", message: "No such thing in the mock." }, 404);
}

/** The middle frame as a bitmap of 128 by 128 greys. */
function thumbnail(): Buffer {
  const [side, head] = [128, 54 + 1024];
  const out = Buffer.alloc(head + side * side);
  out.write("BM");
  for (const [at, value] of [[2, out.length], [10, head], [14, 40], [18, side], [22, side], [34, side * side]] as const) out.writeUInt32LE(value, at);
  out.writeUInt16LE(1, 26);
  out.writeUInt16LE(8, 28);
  for (let grey = 0; grey < 256; grey++) out.fill(grey, 54 + 4 * grey, 57 + 4 * grey);
  const pixels = frame(FRAMES >> 1);
  for (let y = 0; y < side; y++) for (let x = 0; x < side; x++) out[head + (side - 1 - y) * side + x] = Math.max(0, Math.min(255, (pixels[4 * y * COLUMNS + 4 * x]! + 160) * 0.6375));
  return out;
}

export function mock(): Plugin {
  return {
    name: "dcmark-mock",
    configurePreviewServer: (server) => void server.middlewares.use((request, response, next) => void answer(request, response, next)),
    configureServer: (server) => void server.middlewares.use((request, response, next) => void answer(request, response, next)),
  };
}
