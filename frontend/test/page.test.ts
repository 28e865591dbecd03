import { describe, expect, test } from "vitest";
import { seen, START, upright } from "../src/core/camera";
import { carried, renumbered } from "../src/data/regrown";
import type { Action, Slice } from "../src/data/types";
import { colourOf, person, unit, volume } from "../src/ui/words";

describe("words", () => {
  test("names of people are read as they are written", () => {
    expect(person("Doe^Jane^Q")).toBe("Doe, Jane Q");
    expect(person("Yamada^Tarou=山田^太郎")).toBe("Yamada, Tarou");
    expect(person("OB^^^^")).toBe("OB");
    expect(person("")).toBe("");
    expect(person("<b>^x")).toBe("<b>, x");
  });

  test("units are those on a workstation", () => {
    expect(unit("[hnsf'U]")).toBe("HU");
    expect(unit("{SUVbw}g/ml")).toBe("SUV bw");
    expect(unit("1")).toBe("");
    expect(unit("mm")).toBe("mm");
    expect(volume(1000, [1, 1, 1])).toBe("1 ml");
    expect(volume(1_804_000, [1, 1, 1])).toBe("1.80 l");
    expect(volume(7, null)).toBe("7 px");
  });

  test("a label without a colour always has the same one, and its own where it has one", () => {
    expect(colourOf({ name: "Liver", color: "" })).toBe(colourOf({ name: "Liver", color: "" }));
    expect(colourOf({ name: "Liver", color: "#123456" })).toBe("#123456");
    expect(new Set(["Liver", "Spleen", "Kidney", "Lung", "Heart"].map((name) => colourOf({ name, color: "" }))).size).toBeGreaterThan(2);
  });
});

test("however the voxels lie, the patient is shown upright", () => {
  const axes = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  for (const [a, u] of axes.entries()) {
    for (const [b, v] of axes.entries()) {
      if (a === b) continue;
      for (const [su, sv] of [[1, 1], [1, -1], [-1, 1], [-1, -1]] as const) {
        const ways = [u.map((x) => x * su), v.map((x) => x * sv)] as [number[], number[]];
        const { right, down } = seen({ ...START, ...upright(ways) });
        const shown = [right, down].map(([way, sense]) => ways[way]!.map((x) => x * sense + 0));
        const normal = 3 - a - b;
        expect(shown).toEqual([normal === 0 ? [0, 1, 0] : [1, 0, 0], normal === 2 ? [0, 1, 0] : [0, 0, -1]]);
      }
    }
  }
});

test("what was drawn on a stack that grew goes to the same files of the new one", () => {
  const slice = (file: string, frame = 0): Slice => ({ file, frame, position: null, orientation: null, slope: 1, intercept: 0, sop_instance_uid: "" });
  const numbers = renumbered([slice("b"), slice("c"), slice("x")], [slice("a"), slice("b"), slice("b", 1), slice("c")]);
  expect(numbers).toEqual([1, 3, undefined]);
  const actions: Action[] = [
    { type: "add", annotation: { kind: "mask", slice: 0, mask: { slices: [{ k: 0, runs: [1, 2] }, { k: 1, runs: [3, 4] }] } } },
    { type: "change", annotation: { id: "1", contours: [{ slice: 1, closed: true, points: [] }, { slice: null, closed: true, points: [] }] } },
    { type: "undo" },
  ];
  const moved = carried(actions, numbers)!;
  expect(moved[0]!.annotation!.mask!.slices.map((s) => s.k)).toEqual([1, 3]);
  expect(moved[0]!.annotation!.slice).toBe(1);
  expect(moved[1]!.annotation!.contours!.map((c) => c.slice)).toEqual([3, null]);
  expect(moved[2]).toEqual({ type: "undo" });
  expect(carried([{ type: "add", annotation: { kind: "point", slice: 2 } }], numbers)).toBeNull();
});
