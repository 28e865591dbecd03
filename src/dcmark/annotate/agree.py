"""How far annotators, or two states, agree: Dice, surface distances, Cohen's kappa."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.model import Annotation
from dcmark.annotate.places import Places
from dcmark.annotate.raster import regions
from dcmark.archive.store import Archive
from dcmark.engine import current
from dcmark.read.volume_model import FrameId

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Agreement of two readers on one label in one case.

    Attributes:
        case: id of the volume, else SHA-256 and number of the frame.
        label: name.
        dice: 2 |A and B| / (|A| + |B|), from 0 to 1.
        pixels_a, pixels_b: marked.
        hausdorff_mm: the largest distance from a point of one surface to the other surface; None where one of them is
            empty, or the case has no spacing.
        hausdorff95_mm: the 95th percentile of these distances, the larger of both ways.
        surface_mm: their mean over both ways (average symmetric surface distance).
    """

    case: str
    label: str
    dice: float
    pixels_a: int
    pixels_b: int
    hausdorff_mm: float | None
    hausdorff95_mm: float | None
    surface_mm: float | None


@dataclass(frozen=True, slots=True)
class Kappa:
    """Agreement of two readers on classes (Cohen 1960).

    Attributes:
        cases: that both labelled.
        agreed: of them.
        kappa: (observed - expected) / (1 - expected); None where there is nothing to compare, or only one class.
    """

    cases: int
    agreed: int
    kappa: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two readers: per case and label, and over all."""

    overlaps: tuple[Overlap, ...]
    labels: Kappa

    @property
    def mean_dice(self) -> float | None:
        """Over all cases and labels."""
        return float(np.mean([one.dice for one in self.overlaps])) if self.overlaps else None


def compare(first: Iterable[Annotation], second: Iterable[Annotation], places: Places) -> Agreement:
    """How far two sets of annotations agree. Regions of one label in one case are taken together.

    A case that only one of them marked counts with Dice 0.
    """
    one, other = list(first), list(second)
    engine = current()
    overlaps: list[Overlap] = []
    if engine is None:
        overlaps = _overlaps((one, other), places)
    else:
        for found in engine.map(partial(_unit, places.archive), _by_series(one, other, places)):
            overlaps += found
        overlaps.sort(key=lambda each: (each.case, each.label))
    return Agreement(tuple(overlaps), kappa(_classes(one), _classes(other)))


Sides = tuple[list[Annotation], list[Annotation]]


def _by_series(one: Sequence[Annotation], other: Sequence[Annotation], places: Places) -> list[Sides]:
    """Annotations of both, series by series: no case reaches over two."""
    volumes = {volume.id: volume.series_instance_uid for volume in places.archive.volumes()}
    found: dict[str, Sides] = {}
    for side, made in enumerate((one, other)):
        for each in made:
            if each.kind == "label":
                continue
            target = each.target
            if target.file:
                series = str(places.file(target.file)["series_instance_uid"] or target.file)
            else:
                series = volumes.get(target.volume, target.series)
            found.setdefault(series, ([], []))[side].append(each)
    return [found[series] for series in sorted(found)]


def _unit(archive: Archive, sides: Sides) -> list[Overlap]:
    """In a worker: the cases of one series."""
    return _overlaps(sides, _places(archive))


@lru_cache(1)
def _places(archive: Archive) -> Places:
    return Places(archive)


def _overlaps(sides: Sides, places: Places) -> list[Overlap]:
    one, other = sides
    regions_a, regions_b = _regions(one, places), _regions(other, places)
    overlaps = []
    for key in sorted(regions_a.keys() | regions_b.keys()):
        a, b = regions_a.get(key, {}), regions_b.get(key, {})
        marked_a, marked_b = (sum(int(mask.sum()) for mask in side.values()) for side in (a, b))
        distances = surface_distances(a, b, places)
        far = mean = far95 = None
        if distances is not None:
            forth, back = distances
            far = float(max(forth.max(), back.max()))
            far95 = float(max(np.percentile(forth, 95), np.percentile(back, 95)))
            mean = float(np.concatenate([forth, back]).mean())
        overlaps.append(Overlap(key[0], key[1], dice(a, b), marked_a, marked_b, far, far95, mean))
    return overlaps


def _regions(annotations: Sequence[Annotation], places: Places) -> dict[tuple[str, str], dict[FrameId, Mask]]:
    found: dict[tuple[str, str], dict[FrameId, Mask]] = defaultdict(dict)
    for one in annotations:
        for frame, mask in regions(one, places.size).items():
            where = places.slice_of(frame)
            case = where[0].id if where is not None else f"{frame.file}:{frame.frame}"
            known = found[case, one.label.name]
            known[frame] = mask | known[frame] if frame in known else mask
    return found


def dice(a: dict[FrameId, Mask], b: dict[FrameId, Mask]) -> float:
    """Dice coefficient of two regions; 1 where both are empty."""
    both = sum(int((a[frame] & b[frame]).sum()) for frame in a.keys() & b.keys())
    total = sum(int(mask.sum()) for side in (a, b) for mask in side.values())
    return 2.0 * both / total if total else 1.0


# Surfaces -------------------------------------------------------------------------------------------------------------


def surface_distances(
    a: dict[FrameId, Mask], b: dict[FrameId, Mask], places: Places
) -> tuple[Floats, Floats] | None:  # fmt: skip
    """Distances in mm from each surface voxel of one region to the other surface, both ways.

    A surface voxel has a neighbour (by a face) that is not marked. None where one is empty, or without spacing.
    """
    surfaces = [_surface(side, places) for side in (a, b)]
    if any(one is None or not len(one) for one in surfaces):
        return None
    one, other = surfaces
    assert one is not None and other is not None
    return _nearest(one, other), _nearest(other, one)


def _surface(side: dict[FrameId, Mask], places: Places) -> list[Floats] | None:
    """Centres of surface voxels in mm, frame by frame."""
    order: dict[int, FrameId] = {}
    for frame in side:
        found = places.slice_of(frame)
        if found is not None:
            order[found[1]] = frame
    layers: list[Floats] = []
    for frame, mask in side.items():
        plane, found = places.plane(frame), places.slice_of(frame)
        if plane is None:
            return None
        inner = np.pad(mask, 1)
        covered = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        if found is not None and found[0].shape[0] > 1:
            for k in (found[1] - 1, found[1] + 1):
                covered = covered & (side[order[k]] if k in order else False)
        points = np.argwhere(mask & ~covered)
        if len(points):
            layers.append(plane.to_mm(points))
    return layers


def _nearest(points: list[Floats], targets: list[Floats]) -> Floats:
    """Distance of each point to the nearest target; layers that are too far away to matter are not looked at."""
    low = [(layer.min(axis=0), layer.max(axis=0)) for layer in targets]
    found = []
    for layer in points:
        start, end = layer.min(axis=0), layer.max(axis=0)
        gaps = [float(np.linalg.norm(np.maximum(0, np.maximum(a - end, start - b)))) for a, b in low]
        best = np.full(len(layer), np.inf)
        for k in np.argsort(gaps, kind="stable").tolist():
            if gaps[k] >= best.max():
                break
            best = np.minimum(best, _one_layer(layer, targets[k]))
        found.append(best)
    return np.concatenate(found)


def _one_layer(points: Floats, targets: Floats) -> Floats:
    best = np.empty(len(points))
    step = max(1, (1 << 22) // max(1, len(targets)))
    for start in range(0, len(points), step):
        apart = points[start : start + step, None, :] - targets[None, :, :]
        best[start : start + step] = np.sqrt(np.einsum("ijk,ijk->ij", apart, apart).min(axis=1))
    return best


# Classes --------------------------------------------------------------------------------------------------------------


def _classes(annotations: Sequence[Annotation]) -> dict[tuple[str, ...], str]:
    """For each labelled thing its label; several labels of one thing count together."""
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for one in annotations:
        if one.kind == "label":
            t = one.target
            what = t.volume or t.series or t.study or t.patient
            key = (t.level, t.file or what, "" if t.frame is None else str(t.frame), one.prop("concept"))
            found[key].add(one.label.name)
    return {key: " + ".join(sorted(names)) for key, names in found.items()}


def kappa(a: dict[tuple[str, ...], str], b: dict[tuple[str, ...], str]) -> Kappa:
    """Cohen's kappa over the cases that both classified."""
    shared = sorted(a.keys() & b.keys())
    agreed = sum(a[key] == b[key] for key in shared)
    if not shared:
        return Kappa(0, 0, None)
    count = len(shared)
    ours, theirs = Counter(a[key] for key in shared), Counter(b[key] for key in shared)
    expected = sum(ours[name] * theirs[name] for name in ours) / count**2
    observed = agreed / count
    return Kappa(count, agreed, None if expected >= 1.0 else (observed - expected) / (1.0 - expected))
