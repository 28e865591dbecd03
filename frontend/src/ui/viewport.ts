/** One image on the screen: the slice below, marks and the tool's lines above, each on a canvas of its own. */

import * as cam from "../core/camera";
import { letters, opposite, type Vec3 } from "../core/geometry";
import { applyLut, applyRgb, buildLut } from "../core/lut";
import type { Rect } from "../core/rle";
import { Plane, type Axis, type Stack } from "../data/stack";
import { el } from "./dom";
import { drawMarks, drawScale, paintMasks, type Shown, type Stroke } from "./overlay";
import { unit } from "./words";

/** A place on a viewport: pixels of the plane, and of the screen. */
export interface Spot {
  u: number;
  v: number;
  x: number;
  y: number;
  shift: boolean;
}

export interface Hand {
  down(view: Viewport, spot: Spot): void;
  move(view: Viewport, spot: Spot, pressed: boolean): void;
  up(view: Viewport, spot: Spot): void;
  draw?(view: Viewport, context: CanvasRenderingContext2D): void;
}

export class Viewport {
  readonly root = el("div", { class: "view", tabindex: "0", role: "application", "aria-roledescription": "image" });
  readonly plane: Plane;
  camera: cam.Camera = cam.START;
  matrix: cam.Matrix = [1, 0, 0, 1, 0, 0];
  /** The cursor of the keyboard; null while the mouse leads. */
  cursor: [number, number] | null = null;
  smooth = true;
  private readonly base = el("canvas");
  private readonly top = el("canvas");
  private readonly corners = ["tl", "tr", "bl", "br"].map((name) => el("div", { class: `corner ${name}` }));
  private readonly slice = document.createElement("canvas");
  private readonly masks = document.createElement("canvas");
  private image: ImageData;
  private colours: ImageData;
  private lut = new Uint32Array(65536);
  private lutKey = "";
  private due = 0;
  private stale = { image: true, masks: true };
  private ends: (() => void)[] = [];
  private readonly watch: ResizeObserver;
  private fitted = false;
  private pressed: "tool" | "window" | "pan" | null = null;
  private last = { x: 0, y: 0 };
  private probe = "";

  constructor(
    readonly stack: Stack,
    axis: Axis,
    private readonly shown: Shown,
    private readonly hand: () => Hand,
    readonly crosshair: boolean,
  ) {
    this.plane = new Plane(stack, axis);
    const { width, height } = this.plane;
    this.slice.width = this.masks.width = width;
    this.slice.height = this.masks.height = height;
    this.image = new ImageData(width, height);
    this.colours = new ImageData(width, height);
    this.root.append(this.base, this.top, ...this.corners);
    this.root.setAttribute("aria-label", `${this.plane.name || "Image"} of ${stack.info.description}`);
    const ways = this.plane.ways;
    // DICOM slices are shown as they were acquired; planes across them, and files that know no such custom, upright.
    if (ways && (axis !== 2 || !stack.info.slices[0]?.sop_instance_uid)) this.camera = { ...this.camera, ...cam.upright(ways) };
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(this.root);
    this.ends.push(
      stack.on("place", () => this.refresh()),
      stack.on("window", () => this.refresh()),
      stack.frames.on("frame", (k) => (axis !== 2 || k === this.plane.index) && this.refresh()),
      stack.annotations.on("changed", () => this.refresh()),
    );
    this.listen();
  }

  stop(): void {
    this.ends.forEach((end) => end());
    this.watch.disconnect();
    cancelAnimationFrame(this.due);
  }

  get screen(): cam.Size {
    return { width: this.root.clientWidth, height: this.root.clientHeight };
  }

  /** Draws all again, once, before the next picture. */
  refresh(): void {
    this.stale = { image: true, masks: true };
    this.redraw();
  }

  redraw(): void {
    if (!this.due) this.due = requestAnimationFrame(() => this.draw());
  }

  setCamera(camera: cam.Camera): void {
    this.camera = camera;
    this.redraw();
  }

  /** A view that was there before: it is not fitted anew. */
  keep(camera: cam.Camera): void {
    this.fitted = true;
    this.setCamera(camera);
  }

  fit(): void {
    this.setCamera(cam.fit(this.camera, this.plane, this.plane.stretch, this.screen));
  }

  spot(event: { offsetX: number; offsetY: number; shiftKey?: boolean }): Spot {
    const [u, v] = cam.toImage(this.matrix, event.offsetX, event.offsetY);
    return { u, v, x: event.offsetX, y: event.offsetY, shift: Boolean(event.shiftKey) };
  }

  spotAt(u: number, v: number): Spot {
    const [x, y] = cam.toScreen(this.matrix, u, v);
    return { u, v, x, y, shift: false };
  }

  /** To another slice of this plane. */
  scroll(steps: number): void {
    const place: Vec3 = [...this.stack.place];
    place[this.plane.axis] += steps;
    this.stack.go(place);
  }

  /** Masks of a rectangle are painted again at once: the answer to a stroke. */
  repaint(rect: Rect | null, brush?: Stroke): void {
    paintMasks(this.plane, this.shown, this.colours, rect, brush);
    const r = rect ?? { x0: 0, y0: 0, x1: this.plane.width, y1: this.plane.height };
    this.masks.getContext("2d")!.putImageData(this.colours, 0, 0, r.x0, r.y0, r.x1 - r.x0, r.y1 - r.y0);
    this.stale.masks = false;
    this.redraw();
  }

  private resize(): void {
    const scale = Math.min(2, devicePixelRatio || 1);
    for (const canvas of [this.base, this.top]) {
      canvas.width = Math.max(1, Math.round(this.root.clientWidth * scale));
      canvas.height = Math.max(1, Math.round(this.root.clientHeight * scale));
    }
    if (!this.fitted && this.root.clientWidth) {
      this.fitted = true;
      this.fit();
    }
    this.redraw();
  }

  private draw(): void {
    this.due = 0;
    const begun = performance.now();
    if (this.stale.image) this.drawSlice();
    if (this.stale.masks) this.repaint(null);
    cancelAnimationFrame(this.due);
    this.due = 0;
    this.matrix = cam.matrix(this.camera, this.plane, this.plane.stretch, this.screen);
    const scale = this.base.width / Math.max(1, this.root.clientWidth);
    const below = this.base.getContext("2d", { alpha: false })!;
    below.setTransform(1, 0, 0, 1, 0, 0);
    below.fillStyle = "#000";
    below.fillRect(0, 0, this.base.width, this.base.height);
    const [a, b, c, d, e, f] = this.matrix;
    below.setTransform(a * scale, b * scale, c * scale, d * scale, e * scale, f * scale);
    below.imageSmoothingEnabled = this.smooth && this.camera.zoom < 12;
    below.drawImage(this.slice, 0, 0);
    below.drawImage(this.masks, 0, 0);
    const above = this.top.getContext("2d")!;
    above.setTransform(scale, 0, 0, scale, 0, 0);
    above.clearRect(0, 0, this.root.clientWidth, this.root.clientHeight);
    if (this.crosshair) this.drawCross(above);
    drawMarks(this, this.shown, above);
    this.hand().draw?.(this, above);
    if (this.cursor) {
      const { x, y } = this.spotAt(...this.cursor);
      above.strokeStyle = "#fff";
      above.lineWidth = 1;
      above.strokeRect(x - 7.5, y - 7.5, 15, 15);
      above.strokeRect(x - 0.5, y - 0.5, 1, 1);
    }
    drawScale(this, above);
    this.drawText(above);
    this.root.dataset["ms"] = (performance.now() - begun).toFixed(1);
  }

  private drawSlice(): void {
    this.stale.image = false;
    const { stack, plane } = this;
    const pixels = plane.pixels();
    if (!pixels) return;
    const words = new Uint32Array(this.image.data.buffer);
    if (stack.info.colour) applyRgb(pixels as Uint8Array, plane.width * plane.height, words);
    else {
      const window = stack.window ?? { center: 0, width: 1 };
      const { slope, intercept } = plane.native ? stack.scale(plane.index) : stack.info;
      const key = `${slope} ${intercept} ${window.center} ${window.width} ${stack.inverted}`;
      if (key !== this.lutKey) buildLut(stack.info.signed, slope, intercept, window, stack.inverted, this.lut);
      this.lutKey = key;
      applyLut(new Uint16Array(pixels.buffer, pixels.byteOffset, pixels.length), plane.width, plane.height, this.lut, words);
    }
    this.slice.getContext("2d")!.putImageData(this.image, 0, 0);
    this.root.dataset["slice"] = String(plane.index);
    this.root.dataset["ready"] = "true";
  }

  private drawCross(context: CanvasRenderingContext2D): void {
    const { x, y } = this.spotAt(...this.plane.flat(this.stack.place));
    const { width, height } = this.screen;
    context.strokeStyle = "rgb(92 195 194 / .6)";
    context.lineWidth = 1;
    context.beginPath();
    for (const [x0, y0, x1, y1] of [[0, y, x - 12, y], [x + 12, y, width, y], [x, 0, x, y - 12], [x, y + 12, x, height]] as const) {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
    }
    context.stroke();
  }

  private drawText(context: CanvasRenderingContext2D): void {
    const { stack, plane } = this;
    const place = stack.mm(stack.place);
    const window = stack.window && !stack.info.colour ? `C ${Math.round(stack.window.center)}  W ${Math.round(stack.window.width)}` : "";
    const away = place && plane.native ? `  ${place[2].toFixed(1)} mm` : "";
    const there = plane.native && !stack.frames.get(plane.index) ? "loading…" : "";
    const texts = [
      `${plane.name || stack.info.modality}\n${plane.index + 1} / ${plane.count}${away}`,
      there,
      this.probe,
      `${window}\n${Math.round(this.camera.zoom * 100)} %`,
    ];
    this.corners.forEach((corner, i) => corner.textContent !== texts[i] && (corner.textContent = texts[i]!));
    const ways = plane.ways;
    if (!ways) return;
    const { right, down } = cam.seen(this.camera);
    const say = ([axis, sense]: [0 | 1, 1 | -1]) => (sense > 0 ? letters(ways[axis]) : opposite(letters(ways[axis])));
    const { width, height } = this.screen;
    context.font = "600 13px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillStyle = "#e9ecef";
    context.shadowColor = "#000";
    context.shadowBlur = 4;
    context.fillText(opposite(say(right)), 14, height / 2);
    context.fillText(say(right), width - 14, height / 2);
    context.fillText(opposite(say(down)), width / 2, 14);
    context.fillText(say(down), width / 2, height - 14);
    context.shadowBlur = 0;
  }

  private look(spot: Spot): void {
    const [u, v] = [Math.round(spot.u), Math.round(spot.v)];
    const within = u >= 0 && v >= 0 && u < this.plane.width && v < this.plane.height;
    const value = within ? this.stack.value(this.plane.voxel(u, v)) : undefined;
    this.probe = !within ? "" : `${u}, ${v}${value === undefined ? "" : `   ${Number(value.toPrecision(5))} ${unit(this.stack.info.unit)}`}`;
    this.corners[2]!.textContent = this.probe;
  }

  private listen(): void {
    const { root } = this;
    root.addEventListener("contextmenu", (event) => event.preventDefault());
    root.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey) this.setCamera(cam.zoomAt(this.camera, Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY, this.screen));
      else this.scroll(Math.sign(event.deltaY));
    }, { passive: false });
    root.addEventListener("pointerdown", (event) => {
      root.focus();
      root.setPointerCapture(event.pointerId);
      this.cursor = null;
      this.last = { x: event.clientX, y: event.clientY };
      this.pressed = event.button === 2 ? "window" : event.button === 1 ? "pan" : "tool";
      if (this.pressed === "tool") this.hand().down(this, this.spot(event));
      event.preventDefault();
    });
    root.addEventListener("pointermove", (event) => {
      const spot = this.spot(event);
      this.look(spot);
      const [dx, dy] = [event.clientX - this.last.x, event.clientY - this.last.y];
      if (this.pressed === "window") this.dragWindow(dx, dy);
      else if (this.pressed === "pan") this.setCamera({ ...this.camera, x: this.camera.x + dx, y: this.camera.y + dy });
      else {
        const events = this.pressed && event.getCoalescedEvents ? event.getCoalescedEvents() : [];
        for (const one of events.length > 1 ? events.slice(0, -1) : []) this.hand().move(this, this.spot(one), true);
        this.hand().move(this, spot, this.pressed === "tool");
      }
      this.last = { x: event.clientX, y: event.clientY };
    });
    const end = (event: PointerEvent) => {
      if (this.pressed === "tool") this.hand().up(this, this.spot(event));
      this.pressed = null;
    };
    root.addEventListener("pointerup", end);
    root.addEventListener("pointercancel", end);
  }

  dragWindow(dx: number, dy: number): void {
    const { window, range } = this.stack;
    if (!window) return;
    const scale = range / 600;
    this.stack.setWindow({ center: window.center + dy * scale, width: Math.max(range / 65536, window.width + dx * scale) });
  }
}
