/** How an image lies on the screen: moved, enlarged, turned by quarters, mirrored. */

export interface Camera {
  /** Screen pixels a unit of the image (a pixel's width). */
  zoom: number;
  /** Centre of the image, from the centre of the screen, in screen pixels. */
  x: number;
  y: number;
  /** Quarter turns clockwise. */
  turn: number;
  flipX: boolean;
  flipY: boolean;
}

export interface Size {
  width: number;
  height: number;
}

/** [a, b, c, d, e, f] as `CanvasRenderingContext2D.setTransform` takes it. */
export type Matrix = [number, number, number, number, number, number];

export const START: Camera = { zoom: 1, x: 0, y: 0, turn: 0, flipX: false, flipY: false };

/** The image fits into the screen, with turns and mirrors kept. */
export function fit(camera: Camera, image: Size, stretch: number, screen: Size): Camera {
  const [w, h] = [image.width, image.height * stretch];
  const [across, down] = camera.turn % 2 ? [h, w] : [w, h];
  return { ...camera, zoom: Math.max(1e-3, Math.min(screen.width / across, screen.height / down)), x: 0, y: 0 };
}

/** From the image (left upper corner 0, 0; a pixel is 1 wide and high) to the screen. */
export function matrix(camera: Camera, image: Size, stretch: number, screen: Size): Matrix {
  const cos = [1, 0, -1, 0][camera.turn & 3]!;
  const sin = [0, 1, 0, -1][camera.turn & 3]!;
  const sx = camera.zoom * (camera.flipX ? -1 : 1);
  const sy = camera.zoom * stretch * (camera.flipY ? -1 : 1);
  const [a, b, c, d] = [cos * sx, sin * sx, -sin * sy, cos * sy];
  const [u, v] = [image.width / 2, image.height / 2];
  const e = screen.width / 2 + camera.x - a * u - c * v;
  const f = screen.height / 2 + camera.y - b * u - d * v;
  return [a, b, c, d, e, f];
}

/** (column, row), whole numbers at pixel centres, to the screen. */
export function toScreen([a, b, c, d, e, f]: Matrix, column: number, row: number): [number, number] {
  const [u, v] = [column + 0.5, row + 0.5];
  return [a * u + c * v + e, b * u + d * v + f];
}

/** The screen to (column, row), whole numbers at pixel centres. */
export function toImage([a, b, c, d, e, f]: Matrix, x: number, y: number): [number, number] {
  const det = a * d - b * c;
  const [p, q] = [x - e, y - f];
  return [(d * p - c * q) / det - 0.5, (a * q - b * p) / det - 0.5];
}

/** Enlarged by `factor` so that what lies under (x, y) on the screen stays there. */
export function zoomAt(camera: Camera, factor: number, x: number, y: number, screen: Size): Camera {
  const zoom = Math.min(64, Math.max(0.02, camera.zoom * factor));
  const real = zoom / camera.zoom;
  const [cx, cy] = [screen.width / 2, screen.height / 2];
  return { ...camera, zoom, x: (camera.x + cx - x) * real + x - cx, y: (camera.y + cy - y) * real + y - cy };
}

/**
 * The turn and mirrors that show a plane as it is held by custom: of its columns and rows, which lie along `ways` in the
 * patient (LPS), the left hand to the right, the back to the right where that is not seen, the head or the front on top.
 */
export function upright(ways: readonly [readonly number[], readonly number[]]): Pick<Camera, "turn" | "flipX" | "flipY"> {
  const [u, v] = ways;
  const normal = [0, 1, 2].map((a) => Math.abs(u[(a + 1) % 3]! * v[(a + 2) % 3]! - u[(a + 2) % 3]! * v[(a + 1) % 3]!));
  const axis = normal.indexOf(Math.max(...normal));
  const wanted = [axis === 0 ? [0, 1, 0] : [1, 0, 0], axis === 2 ? [0, 1, 0] : [0, 0, -1]];
  let best = { turn: 0, flipX: false, flipY: false };
  let most = -Infinity;
  for (const turn of [0, 1]) {
    for (const flipX of [false, true]) {
      for (const flipY of [false, true]) {
        const { right, down } = seen({ ...START, turn, flipX, flipY });
        const score = [right, down].reduce((sum, [way, sense], n) => sum + sense * wanted[n]!.reduce((dot, w, a) => dot + w * ways[way]![a]!, 0), 0);
        if (score > most + 1e-6) [most, best] = [score, { turn, flipX, flipY }];
      }
    }
  }
  return best;
}

/** What the eye sees to the right and downwards: axes of the image (0 columns, 1 rows) and their senses. */
export function seen(camera: Camera): { right: [0 | 1, 1 | -1]; down: [0 | 1, 1 | -1] } {
  const [a, b, c, d] = matrix({ ...camera, zoom: 1 }, { width: 0, height: 0 }, 1, { width: 0, height: 0 });
  return {
    right: Math.abs(a) > 0.5 ? [0, a > 0 ? 1 : -1] : [1, c > 0 ? 1 : -1],
    down: Math.abs(d) > 0.5 ? [1, d > 0 ? 1 : -1] : [0, b > 0 ? 1 : -1],
  };
}
