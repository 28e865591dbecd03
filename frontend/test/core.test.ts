import { describe, expect, test } from "vitest";
import { fit, matrix, seen, START, toImage, toScreen, zoomAt } from "../src/core/camera";
import * as geometry from "../src/core/geometry";
import { fillHoles, grow2d, grow3d } from "../src/core/grow";
import { betweenContours, betweenMasks, distances } from "../src/core/interpolate";
import { applyLut, autoWindow, buildLut } from "../src/core/lut";
import { box, ellipse, fillPolygons, inside, polygonArea, simplify, stroke, type Point } from "../src/core/raster";
import * as rle from "../src/core/rle";

/** A generator that gives the same numbers each time (xorshift), so that a failure can be seen again. */
function random(seed: number): () => number {
  let s = seed | 1;
  return () => {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    return (s >>> 0) / 4294967296;
  };
}

function noise(size: number, seed: number, part = 0.5): Uint8Array {
  const next = random(seed);
  return Uint8Array.from({ length: size }, () => (next() < part ? 1 : 0));
}

describe("runs", () => {
  test("decode undoes encode, for any bitmap", () => {
    for (let seed = 1; seed < 60; seed++) {
      const bitmap = noise(1 + seed * 7, seed * 7919, (seed % 10) / 9);
      expect(rle.decode(rle.encode(bitmap), bitmap.length)).toEqual(bitmap);
      expect(rle.area(rle.encode(bitmap))).toBe(bitmap.reduce((a, b) => a + b, 0));
    }
  });

  test("union, difference and membership are those of the pixels", () => {
    for (let seed = 1; seed < 40; seed++) {
      const [a, b] = [noise(120, seed * 31), noise(120, seed * 77)];
      const [ra, rb] = [rle.encode(a), rle.encode(b)];
      expect(rle.union(ra, rb)).toEqual(rle.encode(a.map((v, i) => v | b[i]!)));
      expect(rle.subtract(ra, rb)).toEqual(rle.encode(a.map((v, i) => v & (1 - b[i]!))));
      a.forEach((v, i) => expect(rle.has(ra, i)).toBe(v === 1));
    }
  });

  test("rows, columns and bounds are cut as from the bitmap", () => {
    const [w, h] = [13, 9];
    for (let seed = 1; seed < 30; seed++) {
      const bitmap = noise(w * h, seed * 101, 0.2 + (seed % 3) / 3);
      const runs = rle.encode(bitmap);
      for (let y = 0; y < h; y++) {
        const out = new Uint8Array(w);
        rle.writeRow(runs, w, y, out, 0);
        expect(out).toEqual(bitmap.slice(y * w, (y + 1) * w));
      }
      for (let x = 0; x < w; x++) {
        const out = new Uint8Array(h);
        rle.writeColumn(runs, w, x, out, 0);
        expect([...out]).toEqual(Array.from({ length: h }, (_, y) => bitmap[y * w + x]));
      }
      const r = rle.bounds(runs, w)!;
      bitmap.forEach((v, i) => {
        if (!v) return;
        const [x, y] = [i % w, Math.floor(i / w)];
        expect(x >= r.x0 && x < r.x1 && y >= r.y0 && y < r.y1).toBe(true);
      });
    }
    expect(rle.bounds([], 4)).toBeNull();
  });
});

describe("shapes", () => {
  test("a stroke takes the pixels within its radius and no others", () => {
    const [w, h] = [30, 24];
    const bitmap = new Uint8Array(w * h);
    stroke(bitmap, w, h, [5, 6], [15, 20], 3, 1);
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        const t = Math.min(1, Math.max(0, ((x - 6) * 14 + (y - 5) * 10) / (14 * 14 + 10 * 10)));
        const away = Math.hypot(x - 6 - 14 * t, y - 5 - 10 * t);
        expect(bitmap[y * w + x]).toBe(away <= 3 ? 1 : 0);
      }
    }
    expect(stroke(bitmap, w, h, [-20, -20], [-20, -20], 3, 1)).toBeNull();
  });

  test("a brush is round in mm where pixels are not square, and keeps to its gate", () => {
    const bitmap = new Uint8Array(41 * 41);
    stroke(bitmap, 41, 41, [20, 20], [20, 20], 8, 1, 2, (pixel) => pixel % 41 >= 20);
    const b = rle.bounds(rle.encode(bitmap), 41)!;
    expect(b).toEqual({ x0: 20, x1: 29, y0: 16, y1: 25 });
  });

  test("polygons are filled by the odd rule, so that an inner one is a hole", () => {
    const bitmap = new Uint8Array(100);
    fillPolygons(bitmap, 10, 10, [box([[0.5, 0.5], [8.5, 8.5]]), box([[2.5, 2.5], [5.5, 5.5]])]);
    expect(rle.area(rle.encode(bitmap))).toBe(64 - 9);
    expect(bitmap[33]).toBe(0);
    expect(bitmap[11]).toBe(1);
  });

  test("an ellipse has the area it should", () => {
    const points: Point[] = [[50, 10], [50, 90], [30, 50], [70, 50]];
    expect(polygonArea(ellipse(points, 360))).toBeCloseTo(Math.PI * 40 * 20, -1);
    expect(inside([50, 50], ellipse(points))).toBe(true);
    expect(inside([31, 12], ellipse(points))).toBe(false);
  });

  test("simplify keeps corners and drops what lies on the way", () => {
    const line: Point[] = Array.from({ length: 11 }, (_, i) => [i, 0]);
    expect(simplify([...line, [10, 10]], 0.5)).toEqual([[0, 0], [10, 0], [10, 10]]);
  });
});

describe("regions", () => {
  test("grow takes what is joined and within bounds", () => {
    const pixels = Int16Array.from([1, 1, 9, 1, 1, 9, 9, 9, 1, 1, 1, 1]);
    expect([...grow2d(pixels, 4, 3, 0, 0, 5)]).toEqual([1, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1].map((v, i) => (i === 3 ? 0 : v)));
    expect(rle.encode(grow2d(pixels, 4, 3, 2, 0, 5))).toEqual([]);
  });

  test("grow in three dimensions goes round corners through other slices, and stops where it is told", async () => {
    const open = noise(6 * 8 * 8, 4242, 0.6);
    const truth = new Set<number>([0]);
    open[0] = 1;
    const queue = [0];
    while (queue.length) {
      const at = queue.pop()!;
      const [k, j, i] = [Math.floor(at / 64), Math.floor((at % 64) / 8), at % 8];
      for (const [dk, dj, di] of [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]] as const) {
        const [a, b, c] = [k + dk, j + dj, i + di];
        const next = a * 64 + b * 8 + c;
        if (a < 0 || b < 0 || c < 0 || a > 5 || b > 7 || c > 7 || truth.has(next) || !open[next]) continue;
        truth.add(next);
        queue.push(next);
      }
    }
    const slice = (k: number) => Promise.resolve(open.subarray(k * 64, (k + 1) * 64));
    const found = await grow3d(slice, [6, 8, 8], [0, 0], () => [1, 1], 1e6, () => Promise.resolve());
    const got = [...found.slices].flatMap(([k, b]) => [...b].flatMap((v, i) => (v ? [k * 64 + i] : [])));
    expect(new Set(got)).toEqual(truth);
    expect(found.voxels).toBe(truth.size);
    const cut = await grow3d(slice, [6, 8, 8], [0, 0], () => [1, 1], 3, () => Promise.resolve());
    expect(cut.cut).toBe(true);
  });

  test("holes are filled, bays are not", () => {
    const rows = ["......", ".####.", ".#..#.", ".####.", ".#...."];
    const bitmap = Uint8Array.from(rows.join(""), (c) => (c === "#" ? 1 : 0));
    expect(rle.area(rle.encode(fillHoles(bitmap, 6, 5)))).toBe(13);
    const bay = ["###", "#..", "###"];
    expect(rle.area(rle.encode(fillHoles(Uint8Array.from(bay.join(""), (c) => (c === "#" ? 1 : 0)), 3, 3)))).toBe(7);
  });
});

describe("between slices", () => {
  test("distances are those of the nearest pixel", () => {
    const bitmap = noise(15 * 11, 99, 0.05);
    bitmap[40] = 1;
    const got = distances(bitmap, 15, 11, 1);
    got.forEach((value, i) => {
      let best = Infinity;
      bitmap.forEach((v, j) => {
        if (v) best = Math.min(best, (i % 15 - j % 15) ** 2 + (Math.floor(i / 15) - Math.floor(j / 15)) ** 2);
      });
      expect(value).toBe(best);
    });
  });

  test("a disc that grows is halfway in the middle; one that moves is moved", () => {
    const disc = (x: number, r: number) => {
      const b = new Uint8Array(64 * 64);
      stroke(b, 64, 64, [32, x], [32, x], r, 1);
      return b;
    };
    const [middle] = betweenMasks(disc(32, 6), disc(32, 14), 64, 64, 1);
    expect(rle.area(rle.encode(middle!))).toBeGreaterThan(Math.PI * 9 * 9);
    expect(rle.area(rle.encode(middle!))).toBeLessThan(Math.PI * 11 * 11);
    const [moved] = betweenMasks(disc(12, 5), disc(52, 5), 64, 64, 1);
    expect(moved).toEqual(disc(32, 5));
    expect(betweenMasks(disc(32, 6), disc(32, 14), 64, 64, 4)).toHaveLength(4);
  });

  test("contours are met point by point, whatever their start and sense", () => {
    const circle = (r: number, start: number, sense: number): Point[] =>
      Array.from({ length: 60 }, (_, i) => {
        const a = start + (sense * 2 * Math.PI * i) / 60;
        return [20 + r * Math.sin(a), 20 + r * Math.cos(a)];
      });
    const [middle] = betweenContours(circle(4, 0, 1), circle(8, 2, -1), 1);
    for (const p of middle!) expect(Math.hypot(p[0] - 20, p[1] - 20)).toBeCloseTo(6, 0);
  });
});

describe("grey", () => {
  test("the window maps its ends to black and white, and works on signed values with a slope", () => {
    const lut = buildLut(true, 2, -1000, { center: 40, width: 400 }, false);
    const grey = (stored: number) => lut[stored & 0xffff]! & 255;
    expect(grey((-160 + 1000) / 2)).toBe(0);
    expect(grey((240 + 1000) / 2)).toBe(255);
    expect(grey((40 + 1000) / 2)).toBe(128);
    expect(grey(-32768)).toBe(0);
    expect(buildLut(true, 2, -1000, { center: 40, width: 400 }, true)[0x8000]! & 255).toBe(255);
  });

  test("a slice is drawn through the table, whole or thinned", () => {
    const pixels = Uint16Array.from({ length: 6 * 4 }, (_, i) => i * 10);
    const lut = buildLut(false, 1, 0, { center: 128, width: 256 }, false);
    const out = new Uint32Array(24);
    applyLut(pixels, 6, 4, lut, out);
    expect([...out]).toEqual([...pixels].map((p) => lut[p]));
    const thin = new Uint32Array(6);
    applyLut(pixels, 6, 4, lut, thin, 2);
    expect([...thin]).toEqual([0, 20, 40, 120, 140, 160].map((p) => lut[p]));
  });

  test("without a window the middle of the values is taken", () => {
    const window = autoWindow(Int16Array.from({ length: 1001 }, (_, i) => i), 1, -500);
    expect(window.center).toBeCloseTo(0, 0);
    expect(window.width).toBeCloseTo(980, -1);
  });
});

describe("places", () => {
  const affine = [[0.7, 0, 0, -100], [0, 0.8, 0, -200], [0, 0, -1.5, 300], [0, 0, 0, 1]];
  test("the way back leads back", () => {
    const back = geometry.invert(affine)!;
    const voxel: geometry.Vec3 = [3, 17, 40];
    geometry.apply(back, geometry.apply(affine, voxel)).forEach((v, i) => expect(v).toBeCloseTo(voxel[i]!, 9));
    expect(geometry.invert([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])).toBeNull();
  });

  test("letters", () => {
    expect(geometry.letters([1, 0, 0])).toBe("L");
    expect(geometry.letters([0, -0.8, 0.6])).toBe("AH");
    expect(geometry.opposite("AH")).toBe("PF");
    expect(geometry.planeName([0, 0.1, -0.9])).toBe("Axial");
  });

  test("lengths and angles are in mm, so they do not change with the shape of pixels", () => {
    expect(geometry.wayLength([[0, 0], [3, 8]], [1, 0.5])).toBe(5);
    expect(geometry.angle([[0, 10], [0, 0], [5, 0]], [2, 1])).toBeCloseTo(90);
    expect(geometry.angle([[0, 1], [0, 0], [1, 2]], [2, 1])).toBeCloseTo(45);
    expect([7.3, 0.23, 190].map(geometry.roundLength)).toEqual([5, 0.2, 100]);
  });
});

describe("camera", () => {
  const image = { width: 512, height: 256 };
  const screen = { width: 800, height: 600 };
  test("to the screen and back, however it is turned, and zoom holds the point", () => {
    for (let turn = 0; turn < 4; turn++) {
      for (const flip of [false, true]) {
        const camera = { ...fit({ ...START, turn, flipX: flip, flipY: !flip }, image, 2, screen), x: 13, y: -7 };
        const m = matrix(camera, image, 2, screen);
        const [x, y] = toScreen(m, 100, 31);
        const [c, r] = toImage(m, x, y);
        expect(c).toBeCloseTo(100, 6);
        expect(r).toBeCloseTo(31, 6);
        const again = matrix(zoomAt(camera, 1.7, x, y, screen), image, 2, screen);
        toScreen(again, 100, 31).forEach((v, i) => expect(v).toBeCloseTo([x, y][i]!, 6));
      }
    }
  });

  test("what is seen to the right follows turns and mirrors", () => {
    expect(seen(START)).toEqual({ right: [0, 1], down: [1, 1] });
    expect(seen({ ...START, flipX: true }).right).toEqual([0, -1]);
    expect(seen({ ...START, turn: 1 })).toEqual({ right: [1, -1], down: [0, 1] });
  });
});
