/** While files come in, a stack may grow into another: what was meant for its slices goes to the same files there. */

import type { Action, Slice } from "./types";

/** For each slice of the old stack its number in the new one; undefined where it is not there. */
export function renumbered(before: readonly Slice[], after: readonly Slice[]): (number | undefined)[] {
  const places = new Map(after.map((slice, k) => [`${slice.file} ${slice.frame}`, k]));
  return before.map((slice) => places.get(`${slice.file} ${slice.frame}`));
}

/** Actions with the slices of the new stack; null where one of them is not there. */
export function carried(actions: readonly Action[], slices: readonly (number | undefined)[]): Action[] | null {
  let whole = true;
  const at = (k: number | null) => {
    if (k === null) return null;
    const now = slices[k];
    whole &&= now !== undefined;
    return now ?? 0;
  };
  const found = actions.map((action) => {
    const given = action.annotation;
    if (!given) return action;
    const moved = { ...given };
    if (given.slice !== undefined) moved.slice = at(given.slice);
    if (given.contours) moved.contours = given.contours.map((contour) => ({ ...contour, slice: at(contour.slice) }));
    if (given.mask) moved.mask = { ...given.mask, slices: given.mask.slices.map((slice) => ({ ...slice, k: at(slice.k)! })) };
    return { ...action, annotation: moved };
  });
  return whole ? found : null;
}
