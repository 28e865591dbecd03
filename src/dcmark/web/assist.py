"""Assistants: from a few marks to a mask that is looked at before it counts.

Entry-point group ``dcmark.assist``: a function ``segment(volume, prompts) -> mask``. It is given the values and may
answer for a part of them; what it gives is a proposal that the page shows, never an annotation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark import plugins
from dcmark.errors import LimitError, MissingExtraError, UsageError
from dcmark.web.wire import runs_of_box

if TYPE_CHECKING:
    from dcmark.web.stacks import Stack

GROUP = "dcmark.assist"
MOST_PROMPTS = 10_000
MOST_VOXELS = 1 << 20
"""Of the box that the built-in assistant works on: some seconds."""
BETA = 130.0
"""How much a step between voxels counts; scikit-image's own choice."""

Mask = NDArray[np.bool_]
Voxel = tuple[int, int, int]
Box = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a person marked: voxels as (slice, row, column).

    Attributes:
        foreground: inside of what is looked for.
        background: outside of it.
        box: first and last voxel of a box around it, (k0, j0, i0, k1, j1, i1), both inside; None for none.
    """

    foreground: tuple[Voxel, ...]
    background: tuple[Voxel, ...] = ()
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class AssistVolume:
    """What an assistant sees.

    Attributes:
        shape: (slices, rows, columns).
        spacing: mm between slices, rows and columns; ones where not known.
        unit: of the values, UCUM.
        values: gives a part by its first and last slice, row and column (last ones excluded), float32.
    """

    shape: Voxel
    spacing: tuple[float, float, float]
    unit: str
    values: Callable[[slice, slice, slice], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A mask for a part of a volume.

    Attributes:
        origin: first (slice, row, column) of the part.
        mask: (slices, rows, columns) of the part, bool.
    """

    origin: Voxel
    mask: Mask


def random_walker(volume: AssistVolume, prompts: Prompts) -> Proposal:
    """Where a random walker that starts at a voxel meets foreground before background (Grady 2006).

    Works on a box around the prompts; its border counts as background where no background was marked.

    Raises:
        UsageError: no foreground. LimitError: the prompts lie too far apart.
        MissingExtraError: without scikit-image.
    """
    try:
        from skimage.measure import label
        from skimage.segmentation import random_walker as walk
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-image", "web", "the random walker") from error

    if not prompts.foreground:
        raise UsageError("expected a foreground mark or more, found none")
    low, high = around(volume, prompts)
    size = high - low
    if int(np.prod(size)) > MOST_VOXELS:
        raise LimitError(f"expected marks within {MOST_VOXELS} voxels, found {int(np.prod(size))}; mark a smaller part")
    part = volume.values(*(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
    seeds = np.zeros(part.shape, np.int8)
    if not prompts.background:
        for axis in range(3):
            if size[axis] > 2 or (axis > 0 and size[axis] > 1):
                border = np.moveaxis(seeds, axis, 0)
                border[0] = border[-1] = 2
    for marks, kind in ((prompts.background, 2), (prompts.foreground, 1)):
        if marks:
            places = np.array(marks) - low
            seeds[tuple(places[((places >= 0) & (places < size)).all(axis=1)].T)] = kind
    marked = seeds == 1
    data = np.nan_to_num(part, nan=float(np.nanmin(part)) if np.isfinite(part).any() else 0.0)
    _widen(data, seeds)
    origin = (int(low[0]), int(low[1]), int(low[2]))
    if not (seeds == 2).any() or not (seeds == 0).any():
        return Proposal(origin, seeds == 1)
    step = np.array(volume.spacing, np.float64) / min(volume.spacing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of probabilities that are off by the tolerance: only the larger one counts
        labels = walk(data, seeds, beta=BETA, mode="cg_j", tol=1e-2, spacing=tuple(step))
    # Specks that no mark lies in are noise that happens to look alike.
    parts = label(np.asarray(labels) == 1, connectivity=1)
    return Proposal(origin, np.isin(parts, np.unique(parts[marked & (parts > 0)])))


def _widen(data: NDArray[np.float32], seeds: NDArray[np.int8]) -> None:
    """Let the marks stand for what is surely like them, and what is surely unlike be background.

    From a few voxels alone a walker hardly ever comes back to them: what is left to it is the border between.
    """
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label

    smooth = gaussian(data, sigma=[0 if size < 3 else 1 for size in data.shape], preserve_range=True)
    unlike = np.abs(smooth - np.median(smooth[seeds == 1]))
    if not np.ptp(unlike):
        return
    limit = threshold_otsu(unlike)
    parts = label((unlike < limit / 2) | (seeds == 1), connectivity=1)
    grown = np.isin(parts, np.unique(parts[seeds == 1]))
    if not (grown & (seeds == 2)).any():  # else the background was marked in what looks the same: the marks decide
        seeds[grown] = 1
    seeds[(unlike > 1.5 * limit) & (seeds == 0)] = 2


def around(volume: AssistVolume, prompts: Prompts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The box to work on: first voxel, and the one behind the last."""
    shape = np.array(volume.shape)
    if prompts.box is not None:
        return np.array(prompts.box[:3]), np.array(prompts.box[3:]) + 1
    marks = np.array([*prompts.foreground, *prompts.background])
    low, high = marks.min(axis=0), marks.max(axis=0) + 1
    reach = np.maximum((high - low) // 2, 16 if prompts.background else 24)
    if low[0] + 1 == high[0] and prompts.background:
        reach[0] = 0  # marked on one slice: stays on it
    elif not prompts.background:
        reach[0] = min(int(reach[0]), max(2, round(24 * min(volume.spacing[1:]) / volume.spacing[0])))
    return np.maximum(low - reach, 0), np.minimum(high + reach, shape)


def proposed(name: str, stack: Stack, plain: object) -> dict[str, Any]:
    """The mask that an assistant proposes on a stack, as the page gets it.

    Raises:
        UsageError: prompts that are none. Others: as the assistant does.
    """
    shape = (len(stack.frames), stack.rows, stack.columns)
    prompts = _prompts(plain, shape)

    def values(k: slice, j: slice, i: slice) -> NDArray[np.float32]:
        return np.stack([stack.values(number)[j, i] for number in range(k.start, k.stop)])

    spacing = stack.item.spacing or (1.0, 1.0, 1.0)
    volume = AssistVolume(shape, (spacing[0], spacing[1], spacing[2]), stack.scale.unit, values)
    found = plugins.load(GROUP, name)(volume, prompts)
    if isinstance(found, Proposal):
        origin, mask = found.origin, np.asarray(found.mask, bool)
    else:
        origin, mask = (0, 0, 0), np.asarray(found, bool)
    slices = []
    for k, plane in enumerate(mask, origin[0]):
        runs = runs_of_box(plane, origin[1], origin[2], stack.columns)
        if runs:
            slices.append({"k": k, "runs": runs})
    return {"slices": slices}


def _prompts(plain: object, shape: Voxel) -> Prompts:
    if not isinstance(plain, dict):
        raise UsageError("expected prompts as an object, found something else")
    marks: dict[str, tuple[Voxel, ...]] = {}
    for name in ("foreground", "background"):
        given = plain.get(name) or []
        if not isinstance(given, list) or len(given) > MOST_PROMPTS:
            raise UsageError(f"expected a list of at most {MOST_PROMPTS} voxels for {name}, found something else")
        marks[name] = tuple(_voxel(one, shape) for one in given)
    box = plain.get("box")
    if box is not None:
        if not isinstance(box, list) or len(box) != 6:
            raise UsageError("expected six numbers for box, found something else")
        low, high = _voxel(box[:3], shape), _voxel(box[3:], shape)
        if any(a > b for a, b in zip(low, high, strict=True)):
            raise UsageError("expected the first voxel of a box before its last one, found otherwise")
        box = (*low, *high)
    return Prompts(marks["foreground"], marks["background"], box)


def _voxel(one: object, shape: Voxel) -> Voxel:
    if isinstance(one, list) and len(one) == 3 and all(type(x) is int for x in one):
        k, j, i = one
        if 0 <= k < shape[0] and 0 <= j < shape[1] and 0 <= i < shape[2]:
            return k, j, i
    raise UsageError("expected voxels as slice, row and column inside of the stack, found something else")
