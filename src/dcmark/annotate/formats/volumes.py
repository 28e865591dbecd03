"""Masks through volumes: what NIfTI, NRRD, MHA, nnU-Net, SEG and RTSTRUCT share on the way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.formats.base import Context, Written
from dcmark.annotate.masks import MaskPlane, make_plane
from dcmark.annotate.model import Annotation
from dcmark.annotate.raster import regions
from dcmark.archive.volumes import StoredVolume
from dcmark.errors import UnsupportedError
from dcmark.findings import Finding
from dcmark.geometry import AffineLps
from dcmark.read.volume_model import FrameId

REGION_KINDS = frozenset({"mask", "box", "ellipse", "polygon", "freehand"})


@dataclass(frozen=True, slots=True, eq=False)
class VolumeMask:
    """A region in a volume.

    Attributes:
        annotation: as the format will hold it: a mask.
        planes: by slice of the volume.
    """

    annotation: Annotation
    planes: dict[int, MaskPlane]


def as_mask(annotation: Annotation, context: Context) -> Annotation:
    """A region of any kind as a mask; a mask as it is."""
    if annotation.kind == "mask":
        return annotation
    made = [make_plane(frame, found) for frame, found in regions(annotation, context.places.size).items()]
    planes = [plane for plane in made if plane is not None]
    return replace(annotation, kind="mask", contours=(), mask=planes, text="", value=None, unit="")


def volume_masks(
    annotations: Sequence[Annotation], context: Context, written: Written, *, binary: bool = True
) -> dict[str, list[VolumeMask]]:
    """Regions by the id of the volume they stand in; what stands in none is left out with a reason.

    Args:
        binary: fractional masks become binary, and that is said.
    """
    found: dict[str, list[VolumeMask]] = {}
    for one in annotations:
        if one.kind not in REGION_KINDS:
            written.leave_out(one, "the format holds regions only")
            continue
        if any(contour.frame is None for contour in one.contours):
            written.leave_out(one, "contours in mm that lie on no frame")
            continue
        if one.kind == "freehand" and not any(contour.closed for contour in one.contours):
            written.leave_out(one, "open contours have no inside")
            continue
        mask = as_mask(one, context)
        if not len(mask.mask):
            written.leave_out(one, "no pixel lies inside it")
            continue
        planes = list(mask.mask)
        if binary and any(plane.levels > 1 for plane in planes):
            text = f"mask {one.id[:8]}: the format holds no fractions"
            written.findings.append(
                Finding("warning", "fractions-lost", text, "pixels of at least one half are marked")
            )
            planes = [made for plane in planes if (made := make_plane(plane.frame, plane.binary())) is not None]
        volume = context.places.volume_of(plane.frame for plane in planes)
        if volume is None:
            written.leave_out(one, "its frames stand in no volume, or in several")
            continue
        numbers = {FrameId(*frame): k for k, frame in enumerate(volume.frames)}
        by_slice = {numbers[plane.frame]: plane for plane in planes}
        ordered = dict(sorted(by_slice.items()))
        whole = replace(
            mask, mask=list(ordered.values()), target=context.places.target("volume", list(mask.frames), volume)
        )
        found.setdefault(volume.id, []).append(VolumeMask(whole, ordered))
    return found


def merged(masks: Sequence[VolumeMask]) -> list[VolumeMask]:
    """One mask a label name, in the order of names: what a label map can hold."""
    by_name: dict[str, list[VolumeMask]] = {}
    for one in masks:
        by_name.setdefault(one.annotation.label.name, []).append(one)
    found = []
    for name in sorted(by_name):
        same = by_name[name]
        if len(same) == 1:
            found.append(same[0])
            continue
        union: dict[int, NDArray[np.bool_]] = {}
        frames: dict[int, FrameId] = {}
        for one in same:
            for k, plane in one.planes.items():
                union[k] = plane.binary() | union[k] if k in union else plane.binary()
                frames[k] = plane.frame
        planes = {k: made for k in sorted(union) if (made := make_plane(frames[k], union[k])) is not None}
        first = next((one for one in same if one.annotation.label.code is not None), same[0]).annotation
        found.append(VolumeMask(replace(first, mask=list(planes.values())), planes))
    return found


def layers(masks: Sequence[VolumeMask]) -> list[list[VolumeMask]]:
    """Masks in as few groups as it takes that none overlaps another of its group."""
    groups: list[tuple[list[VolumeMask], dict[int, NDArray[np.bool_]]]] = []
    for one in masks:
        free = [pair for pair in groups if not _overlaps(one, pair[1])]
        if not free:
            free = [([], {})]
            groups.append(free[0])
        group, taken = free[0]
        group.append(one)
        for k, plane in one.planes.items():
            taken[k] = taken[k] | plane.binary() if k in taken else plane.binary()
    return [group for group, _ in groups]


def _overlaps(one: VolumeMask, taken: dict[int, NDArray[np.bool_]]) -> bool:
    return any(k in taken and bool((taken[k] & plane.binary()).any()) for k, plane in one.planes.items())


def dense_grid(volume: StoredVolume) -> tuple[AffineLps, int, NDArray[np.int64]]:
    """Affine, number of slices, and place of each slice of a volume in an even array; gaps become empty slices.

    Raises:
        UnsupportedError: the slices do not stand on an even grid.
    """
    places = np.asarray(volume.slice_index, np.float64)
    whole = np.rint(places).astype(np.int64)
    even = volume.affine is not None and np.abs(places - whole).max() <= 0.1 and len(set(whole.tolist())) == len(whole)
    if volume.affine is None or not even or whole.min() < 0 or whole.max() > 4 * len(whole) + 100:
        raise UnsupportedError(
            f"expected a volume with evenly spaced slices for an array, found volume {volume.id}: {volume.verdict}; "
            "export as seg or rtstruct"
        )
    return volume.affine, int(whole.max()) + 1, whole


def label_array(
    volume: StoredVolume, masks: Sequence[VolumeMask], values: Sequence[int]
) -> tuple[NDArray[np.uint16], AffineLps]:
    """A label map (slices, rows, columns) and its affine; see ``dense_grid``."""
    affine, count, where = dense_grid(volume)
    highest = max(values, default=1)
    array = np.zeros((count, *volume.shape[1:]), np.uint8 if highest < 256 else np.uint16)
    for one, worth in zip(masks, values, strict=True):
        for k, plane in one.planes.items():
            box = array[where[k], plane.top : plane.top + plane.height, plane.left : plane.left + plane.width]
            marked = (
                plane.box()
                if plane.levels == 1
                else plane.binary()[plane.top : plane.top + plane.height, plane.left : plane.left + plane.width]
            )
            box[marked] = worth
    return array, affine
