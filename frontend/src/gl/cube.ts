/** The stack in three dimensions, from a reduced copy: by WebGL 2, or projected by the processor where there is none. */

import { rgb } from "../core/lut";
import { request, api } from "../data/api";
import type { Stack } from "../data/stack";
import { el, toast } from "../ui/dom";
import type { Shown } from "../ui/overlay";
import { colourOf } from "../ui/words";

const VERTEX = `#version 300 es
out vec2 at; void main() { at = vec2((gl_VertexID << 1) & 2, gl_VertexID & 2) * 2.0 - 1.0; gl_Position = vec4(at, 0, 1); }`;
/* Rays through a box: the brightest grey, or grey as a cloud; masks as surfaces lit from the eye. */
const FRAGMENT = `#version 300 es
precision highp float; precision highp sampler3D;
in vec2 at; out vec4 colour;
uniform sampler3D grey, mask; uniform vec2 level; uniform mat3 turn; uniform vec3 size; uniform vec2 aspect; uniform float zoom; uniform int mode; uniform vec3 palette[16];
float label(vec3 p) { return texture(mask, p).r * 255.0; }
void main() {
  vec3 o = turn * vec3(at * aspect * zoom, -2.0), d = turn * vec3(0, 0, 1);
  vec3 a = (-size - o) / d, b = (size - o) / d; vec3 lo = min(a, b), hi = max(a, b);
  float t0 = max(max(lo.x, lo.y), lo.z), t1 = min(min(hi.x, hi.y), hi.z);
  colour = vec4(0, 0, 0, 1); if (t0 >= t1) return;
  float most = 0.0; vec4 sum = vec4(0); float dt = 0.006;
  for (float t = t0; t < t1; t += dt) {
    vec3 p = (o + d * t) / size * 0.5 + 0.5; float g = clamp(texture(grey, p).r * level.x + level.y, 0.0, 1.0); most = max(most, g);
    float l = label(p);
    if (l > 0.5 && sum.a < 0.97) {
      vec3 h = vec3(0.012); vec3 n = vec3(sign(label(p + h.xyy * vec3(1, 0, 0)) - 0.5) - sign(label(p - h * vec3(1, 0, 0)) - 0.5), sign(label(p + h * vec3(0, 1, 0)) - 0.5) - sign(label(p - h * vec3(0, 1, 0)) - 0.5), sign(label(p + h * vec3(0, 0, 1)) - 0.5) - sign(label(p - h * vec3(0, 0, 1)) - 0.5));
      float light = length(n) > 0.0 ? 0.35 + 0.65 * abs(dot(normalize(n), d)) : 0.7;
      sum += (1.0 - sum.a) * vec4(palette[int(l + 0.5) - 1] * light, 1.0) * 0.6;
    }
    if (mode == 1) { float k = smoothstep(0.45, 0.95, g) * 0.09; sum += (1.0 - sum.a) * vec4(vec3(0.55 + 0.45 * g, 0.5 * g + 0.4, 0.45 * g + 0.32), 1.0) * k; }
    if (sum.a > 0.98) break;
  }
  colour = vec4(mode == 0 ? mix(vec3(most), sum.rgb / max(sum.a, 0.001), sum.a * 0.85) : sum.rgb, 1);
}`;

interface Proxy {
  shape: [number, number, number];
  grey: Uint8Array;
  /** Half the extent in mm, largest 1. */
  size: [number, number, number];
}

export class Cube {
  readonly root = el("div", { class: "view", tabindex: "0", role: "img", "aria-label": "Projection in three dimensions; arrows turn it" });
  private readonly canvas = el("canvas");
  private readonly corner = el("div", { class: "corner tl" });
  private gl: WebGL2RenderingContext | null = null;
  private program: WebGLProgram | null = null;
  private proxy: Proxy | null = null;
  private mask = new Uint8Array(0);
  private palette = new Float32Array(48);
  private yaw = 0.5;
  private pitch = 0.15;
  private zoom = 1.15;
  /** 0 the brightest value along a ray, 1 a cloud: the better one where low values are air. */
  private mode: number;
  private due = 0;
  private stopped = false;
  private slow = false;
  private readonly ends: (() => void)[];
  private readonly watch = new ResizeObserver(() => this.redraw());

  constructor(
    private readonly stack: Stack,
    private readonly shown: Shown,
  ) {
    this.mode = Number(stack.info.modality === "CT");
    const kinds = el("button", { type: "button", class: "button small cube-mode", onclick: () => { this.mode = 1 - this.mode; kinds.textContent = ["Projection", "Volume"][this.mode]!; this.redraw(); } }, ["Projection", "Volume"][this.mode]!);
    Object.assign(kinds.style, { position: "absolute", right: "8px", top: "8px" });
    this.root.append(this.canvas, this.corner, kinds);
    this.gl = this.canvas.getContext("webgl2", { antialias: false, failIfMajorPerformanceCaveat: true });
    this.slow = !this.gl;
    // WebGL that is computed by the processor is still better than our own projection, but on fewer pixels.
    this.gl ??= this.canvas.getContext("webgl2", { antialias: false });
    kinds.hidden = !this.gl;
    this.corner.textContent = "3-D  loading…";
    this.ends = [stack.annotations.on("changed", () => { this.paintMask(); this.redraw(); }), stack.on("window", () => this.redraw())];
    this.watch.observe(this.root);
    this.root.addEventListener("pointerdown", (e) => { if (e.target !== kinds) this.root.setPointerCapture(e.pointerId); });
    this.root.addEventListener("pointermove", (e) => e.buttons && this.spin(e.movementX / 150, e.movementY / 150));
    this.root.addEventListener("wheel", (e) => { e.preventDefault(); this.zoom *= Math.exp(e.deltaY / 600); this.redraw(); }, { passive: false });
    this.root.addEventListener("keydown", (e) => {
      const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[e.key];
      if (!step || e.shiftKey) return;
      e.preventDefault();
      e.stopPropagation();
      this.spin(step[0]!, step[1]!);
    });
    this.load().catch((error: unknown) => { this.corner.textContent = "3-D"; toast(error instanceof Error ? error.message : String(error), "bad"); });
  }

  stop(): void {
    this.stopped = true;
    this.ends.forEach((end) => end());
    this.watch.disconnect();
    cancelAnimationFrame(this.due);
    this.gl?.getExtension("WEBGL_lose_context")?.loseContext();
  }

  private spin(x: number, y: number): void {
    this.yaw += x;
    this.pitch = Math.max(-1.5, Math.min(1.5, this.pitch + y));
    this.redraw();
  }

  private async load(): Promise<void> {
    const response = await request(`${api.of(this.stack.info.id)}/proxy?max=${this.gl ? 192 : 96}`);
    const shape = (response.headers.get("X-Dcmark-Shape") ?? "").split(",").map(Number) as [number, number, number];
    const grey = new Uint8Array(await response.arrayBuffer());
    if (this.stopped || grey.length !== shape[0] * shape[1] * shape[2]) return;
    const { spacing, rows, columns, frames } = this.stack.info;
    const [dz, dy, dx] = spacing ?? [1, 1, 1];
    const mm = [columns * dx, rows * dy, frames * dz];
    this.proxy = { shape, grey, size: mm.map((v) => v / Math.max(...mm)) as [number, number, number] };
    this.corner.textContent = this.gl ? "3-D" : "3-D  without WebGL";
    if (this.gl) this.prepare(this.gl);
    this.paintMask();
    this.redraw();
  }

  private prepare(gl: WebGL2RenderingContext): void {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]] as const) {
      const shader = gl.createShader(kind)!;
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(`WebGL: ${gl.getProgramInfoLog(program) ?? "no program"}`);
    this.program = program;
    this.texture(gl, 0, this.proxy!.grey, gl.LINEAR);
  }

  private texture(gl: WebGL2RenderingContext, unit: number, data: Uint8Array, filter: number): void {
    const [k, j, i] = this.proxy!.shape;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_3D, gl.createTexture());
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    for (const [name, value] of [[gl.TEXTURE_MIN_FILTER, filter], [gl.TEXTURE_MAG_FILTER, filter], [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_R, gl.CLAMP_TO_EDGE]] as const) gl.texParameteri(gl.TEXTURE_3D, name, value);
    gl.texImage3D(gl.TEXTURE_3D, 0, gl.R8, i, j, k, 0, gl.RED, gl.UNSIGNED_BYTE, data);
  }

  /** Labels of the reduced voxels, from the runs. */
  private paintMask(): void {
    if (!this.proxy) return;
    const [depth, height, width] = this.proxy.shape;
    const { rows, columns, frames } = this.stack.info;
    this.mask = new Uint8Array(depth * height * width);
    this.stack.annotations.of("mask").filter((m) => !this.shown.hidden.has(m.data.label.name)).slice(0, 16).forEach((mark, n) => {
      rgb(colourOf(mark.data.label)).forEach((v, c) => (this.palette[3 * n + c] = v / 255));
      for (const [k, runs] of mark.runs) {
        const z = Math.floor((k * depth) / frames) * height * width;
        for (let r = 0; r < runs.length; r += 2) {
          for (let p = runs[r]!, end = p + runs[r + 1]!; p < end; p++) {
            const [y, x] = [Math.floor(p / columns), p % columns];
            this.mask[z + Math.floor((y * height) / rows) * width + Math.floor((x * width) / columns)] = n + 1;
          }
        }
      }
    });
    if (this.gl && this.program) this.texture(this.gl, 1, this.mask, this.gl.NEAREST);
  }

  private redraw(): void {
    if (!this.due) this.due = requestAnimationFrame(() => { this.due = 0; this.draw(); });
  }

  /** Columns of the turn: what lies to the right, down and away, in voxels; the head is up. */
  private turn(): number[] {
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    const up = (this.stack.info.affine?.[2]?.[2] ?? 1) < 0 ? -1 : 1;
    return [cy, sy, 0, -sy * sp, cy * sp, up * cp, -sy * cp, cy * cp, -up * sp];
  }

  private draw(): void {
    if (!this.proxy) return;
    const [width, height] = [this.root.clientWidth, this.root.clientHeight];
    const wide: [number, number] = width > height ? [width / height, 1] : [1, height / width];
    if (!this.gl || !this.program) return this.project(wide);
    const gl = this.gl;
    this.canvas.width = Math.min(width, this.slow ? 280 : 900);
    this.canvas.height = Math.round((this.canvas.width * height) / Math.max(1, width));
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.useProgram(this.program);
    const at = (name: string) => gl.getUniformLocation(this.program!, name);
    gl.uniform1i(at("grey"), 0);
    gl.uniform1i(at("mask"), 1);
    gl.uniform1i(at("mode"), this.mode);
    gl.uniform1f(at("zoom"), this.zoom);
    gl.uniform2f(at("level"), ...this.level);
    gl.uniform2f(at("aspect"), ...wide);
    gl.uniform3f(at("size"), ...this.proxy.size);
    gl.uniformMatrix3fv(at("turn"), false, this.turn());
    gl.uniform3fv(at("palette"), this.palette);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    this.root.dataset["ready"] = "webgl";
  }

  /** From the window the reduced copy was made with to the one that is chosen: factor, and what is added. */
  private get level(): [number, number] {
    const [made, now] = [this.stack.info.window, this.stack.window];
    if (!made || !now || !(now.width > 0)) return [1, 0];
    return [made.width / now.width, (made.center - made.width / 2 - now.center + now.width / 2) / now.width];
  }

  /** The brightest value along each ray, on a small canvas. */
  private project(wide: [number, number]): void {
    const { shape: [depth, height, width], grey, size } = this.proxy!;
    const side = 200;
    const [w, h] = [Math.round(side * wide[0]), Math.round(side * wide[1])];
    this.canvas.width = w;
    this.canvas.height = h;
    const context = this.canvas.getContext("2d")!;
    const image = context.createImageData(w, h);
    const words = new Uint32Array(image.data.buffer);
    const m = this.turn();
    const scale = [width / size[0] / 2, height / size[1] / 2, depth / size[2] / 2] as const;
    const steps = 150;
    const [factor, more] = this.level;
    for (let y = 0, pixel = 0; y < h; y++) {
      for (let x = 0; x < w; x++, pixel++) {
        const [px, py] = [((2 * x) / w - 1) * wide[0] * this.zoom, (1 - (2 * y) / h) * wide[1] * this.zoom];
        let [vx, vy, vz] = [0, 1, 2].map((r) => (m[r]! * px + m[3 + r]! * py - m[6 + r]! * 1.75 + size[r as 0 | 1 | 2]) * scale[r as 0 | 1 | 2]) as [number, number, number];
        const [dx, dy, dz] = [0, 1, 2].map((r) => ((m[6 + r]! * 3.5) / steps) * scale[r as 0 | 1 | 2]) as [number, number, number];
        let most = 0;
        let label = 0;
        for (let s = 0; s < steps; s++, vx += dx, vy += dy, vz += dz) {
          if (vx < 0 || vy < 0 || vz < 0 || vx >= width || vy >= height || vz >= depth) continue;
          const at = (Math.floor(vz) * height + Math.floor(vy)) * width + Math.floor(vx);
          if (grey[at]! > most) most = grey[at]!;
          if (!label) label = this.mask[at]!;
        }
        most = Math.min(255, Math.max(0, most * factor + 255 * more));
        const mix = (c: number) => (label ? Math.round(most * 0.3 + this.palette[3 * (label - 1) + c]! * 178) : most);
        words[pixel] = 0xff000000 | (mix(2) << 16) | (mix(1) << 8) | mix(0);
      }
    }
    context.putImageData(image, 0, 0);
    this.root.dataset["ready"] = "processor";
  }
}
