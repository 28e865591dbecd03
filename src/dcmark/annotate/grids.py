"""Masks to volumes by where they stand in the patient, never by the order of an array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.masks import MaskPlane, boxed_plane
from dcmark.archive.volumes import StoredVolume
from dcmark.errors import UsageError
from dcmark.geometry import AffineLps, orientation_letters, spacing_mm
from dcmark.read.volume_model import FrameId

Array = NDArray[Any]
Floats = NDArray[np.float64]

TOLERANCE = 0.1
"""Voxels: how far a voxel of a mask may stand from one of the volume. Files hold rounded numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """How a mask lies in a volume.

    Attributes:
        volume: it.
        axes: of the mask, for slice, row and column of the volume.
        signs: 1, or -1 where that axis runs the other way.
        start: slice, row, column in the volume's index space of the voxel (0, 0, 0) of the mask.
        off: how far the voxels are off at most, voxels.
    """

    volume: StoredVolume
    axes: tuple[int, int, int]
    signs: tuple[int, int, int]
    start: tuple[float, int, int]
    off: float


def fit(affine: AffineLps, shape: Sequence[int], volume: StoredVolume) -> Fit | None:
    """How an array on a grid lies in a volume, voxel on voxel; None where it does not.

    Args:
        affine: of the array: index (a, b, c) to mm, LPS.
        shape: of the array.
    """
    if volume.affine is None or volume.tiles is not None:
        return None
    inside = np.linalg.inv(volume.affine) @ affine
    turn, start = inside[:3, :3], inside[:3, 3]
    axes, signs = _axes(turn, shape)
    if axes is None:
        return None
    wanted = np.zeros((3, 3))
    for own, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        wanted[own, axis] = sign
    last = np.asarray(shape, np.float64) - 1
    whole = np.rint(start)
    if volume.grid == "uneven" or len(volume.missing):
        whole[0] = start[0]  # looked up slice by slice
    ends = np.array(np.meshgrid(*([0.0, end] for end in last), indexing="ij")).reshape(3, -1)
    off = np.abs((turn @ ends + start[:, None]) - (wanted @ ends + whole[:, None]))
    if off.max() > TOLERANCE:
        return None
    return Fit(volume, axes, signs, (float(whole[0]), int(whole[1]), int(whole[2])), float(off.max()))


def _axes(
    turn: Floats, shape: Sequence[int]
) -> tuple[tuple[int, int, int] | None, tuple[int, int, int]]:  # fmt: skip
    """Which axis of the array runs along which of the volume. An axis of one voxel may be of any length."""
    size = np.where(np.asarray(shape) > 1, 1.0, 1e-6)
    strength = np.abs(turn) / np.maximum(np.linalg.norm(turn, axis=0), 1e-12) * size
    axes, signs = [-1, -1, -1], [1, 1, 1]
    for _ in range(3):
        own, axis = divmod(int(np.argmax(strength)), 3)
        axes[own] = int(axis)
        signs[own] = -1 if turn[own, axis] < 0 and shape[axis] > 1 else 1
        strength[own, :] = -1
        strength[:, axis] = -1
    if sorted(axes) != [0, 1, 2]:
        return None, (1, 1, 1)
    return (axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2])


def choose(
    affine: AffineLps,
    shape: Sequence[int],
    volumes: Sequence[StoredVolume],
    name: str,
    likeness: Callable[[StoredVolume], int] | None = None,
) -> Fit:
    """The volume that a mask lies in.

    Args:
        affine, shape: of the mask.
        volumes: it may lie in.
        name: of the mask, for the message.
        likeness: where several fit as well, the one for which this is largest is taken, if it is one.

    Raises:
        UsageError: none fits, with all grids printed; or several do.
    """
    fits = [found for found in (fit(affine, shape, volume) for volume in volumes) if found is not None]
    if not fits:
        grids = "\n".join(f"  volume {one.id}: {describe(one.affine, one.shape)}" for one in volumes[:20])
        more = f"\n  and {len(volumes) - 20} more" if len(volumes) > 20 else ""
        raise UsageError(
            f"{name}: expected a mask on the grid of a volume, found one that fits none.\n"
            f"  the mask: {describe(affine, shape)}\n{grids or '  no volume in the archive'}{more}\n"
            "Resample the mask onto the grid of a volume, or ingest the images it was drawn on."
        )
    best = min(found.off for found in fits)
    same = [found for found in fits if found.off <= max(best * 4, 1e-3)]
    whole = [found for found in same if tuple(found.volume.shape) == _in_order(shape, found.axes)]
    chosen = whole or same
    if len(chosen) > 1 and likeness is not None:
        scores = [likeness(found.volume) for found in chosen]
        chosen = [found for found, score in zip(chosen, scores, strict=True) if score == max(scores)]
    if len(chosen) > 1:
        ids = ", ".join(found.volume.id for found in chosen)
        raise UsageError(f"{name}: expected a mask that fits one volume, found {len(chosen)} it fits; name one: {ids}")
    return chosen[0]


def _in_order(shape: Sequence[int], axes: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in axes)


def describe(affine: AffineLps | None, shape: Sequence[int]) -> str:
    """A grid in words: size, spacing, first voxel and directions."""
    size = " x ".join(str(int(one)) for one in shape)
    if affine is None:
        return f"{size} voxels without a place in the patient"
    spacing = " x ".join(f"{one:.5g}" for one in spacing_mm(affine))
    origin = ", ".join(f"{one:.5g}" for one in affine[:3, 3])
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    ways = " ".join("(" + ", ".join(f"{one:.3g}" for one in unit[:, axis]) + ")" for axis in range(3))
    letters = orientation_letters(affine)
    return f"{size} voxels of {spacing} mm, first at ({origin}) mm LPS, axes {ways} ({letters})"


def slices_of(found: Fit, count: int) -> list[int | None]:
    """For each slice of the mask along the volume's slice axis the slice of the volume; None where there is none."""
    places = np.asarray(found.volume.slice_index, np.float64)
    at = found.start[0] + found.signs[0] * np.arange(count)
    order = np.argsort(places)
    nearest = np.clip(np.searchsorted(places[order], at), 0, len(places) - 1)
    before = np.clip(nearest - 1, 0, len(places) - 1)
    closer = np.abs(places[order][before] - at) < np.abs(places[order][nearest] - at)
    nearest = np.where(closer, before, nearest)
    hit = np.abs(places[order][nearest] - at) <= max(TOLERANCE, found.off * 2)
    return [int(order[k]) if good else None for k, good in zip(nearest, hit, strict=True)]


class Placer:
    """Puts slices of a mask onto the frames of the volume it lies in.

    Args:
        found: how it lies.
        slices: of the mask, along the volume's slice axis.
        name: of the mask, for messages.
    """

    def __init__(self, found: Fit, slices: int, name: str) -> None:
        self.found, self.name = found, name
        self._slices = slices_of(found, slices)

    def put(self, number: int, box: Array, top: int = 0, left: int = 0, levels: int = 1) -> MaskPlane | None:
        """A part of a slice of the mask as a plane on its frame; None where nothing is marked.

        Args:
            number: of the slice.
            box: pixels, with rows and columns along those of the volume, not yet flipped.
            top, left: of the part in the slice.
            levels: see ``MaskPlane``.

        Raises:
            UsageError: something is marked where the volume has no pixel.
        """
        if not box.any():
            return None
        volume, found = self.found.volume, self.found
        k = self._slices[number]
        if k is None:
            raise UsageError(
                f"{self.name}, slice {number}: expected marked voxels on slices of volume {volume.id}, found some "
                "where it has no slice"
            )
        height, width = box.shape
        if found.signs[1] < 0:
            box, top = box[::-1], -(top + height - 1)
        if found.signs[2] < 0:
            box, left = box[:, ::-1], -(left + width - 1)
        try:
            return boxed_plane(
                FrameId(*volume.frames[k]), volume.shape[1:], box, found.start[1] + top, found.start[2] + left, levels
            )
        except UsageError as error:
            raise UsageError(f"{self.name}, slice {number}, volume {volume.id}: {error}") from error
