"""Which frames of a series belong together: what must differ between volumes, and what tells phases apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dcmark.read.volume_frames import Codes, Floats, FrameTags
from dcmark.read.volume_grid import cluster
from dcmark.read.volume_model import Split, Tolerances

Rows = NDArray[np.int64]

_PRIVATE_B_VALUES = frozenset({"DIFFUSION"})
LOCALIZER_WORDS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVEY"})
SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
_FILE_IS_A_WORLD = SEGMENTATIONS | {
    "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose: the doses of several beams share a series
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
}
"""SOP classes of which each instance is complete: frames of two files are never one volume."""
NUCLEAR = "1.2.840.10008.5.1.4.1.1.20"

LARGEST_SIDE = 2**31 - 1
"""Rows or Columns, pixels; more is no image."""
_LARGEST_MM = 1e6
SPACING_MM = (1e-5, 1e4)


class Geometry(NamedTuple):
    """Validated geometry of all frames of a table; NaN where ``state`` is not 0.

    state: 0 complete; 1 a part is missing; 2 a part is there and cannot be (parallel directions, a spacing
    of 0, a position a kilometre away).
    """

    state: Codes
    position: Floats
    cosines: Floats
    spacing: Floats


def geometry_of(tags: FrameTags) -> Geometry:
    """Position (n, 3), unit cosines (n, 6) and pixel spacing (n, 2) of all frames, checked."""
    position, cosines, spacing = (
        tags.vector("image_position_patient"),
        tags.vector("image_orientation_patient").copy(),
        tags.vector("pixel_spacing"),
    )
    absent = ~(
        np.isfinite(position[:, 0]) & np.isfinite(cosines[:, 0]) & np.isfinite(spacing[:, 0])
    )  # a vector is finite as a whole or not at all
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        lengths = np.stack([np.linalg.norm(cosines[:, :3], axis=1), np.linalg.norm(cosines[:, 3:], axis=1)], axis=1)
        skew = np.abs((cosines[:, :3] * cosines[:, 3:]).sum(axis=1)) / lengths.prod(axis=1)
        valid = (
            (np.abs(lengths - 1.0) < 0.1).all(axis=1)
            & (skew < np.sin(np.deg2rad(1.0)))
            & (np.abs(position) <= _LARGEST_MM).all(axis=1)
            & (spacing >= SPACING_MM[0]).all(axis=1)
            & (spacing <= SPACING_MM[1]).all(axis=1)
        )
        cosines[:, :3] /= lengths[:, :1]
        cosines[:, 3:] /= lengths[:, 1:]
    state = np.where(absent, 1, np.where(valid, 0, 2))
    cosines[state != 0] = np.nan
    return Geometry(state, position, cosines, spacing)


def needs_dataset(tags: FrameTags) -> NDArray[np.bool_]:
    """Rows, one a file, whose frames only ``frames_of`` can describe: (count,) booleans.

    Files of several frames, mosaics, nuclear medicine (its place stands in Detector Information) and diffusion
    images without Diffusion b-value (which may be private). All others are described by their columns.
    """
    several = tags.number("number_of_frames") > 1
    sop_class = tags.text("sop_class_uid")
    nuclear = np.isin(sop_class.codes, [i for i, uid in enumerate(sop_class.values) if uid == NUCLEAR])
    placeless = ~np.isfinite(tags.vector("image_position_patient")[:, 0])
    diffusion = _image_type_says(tags, _PRIVATE_B_VALUES) & ~np.isfinite(tags.number("diffusion_b_value"))
    return several | is_mosaic(tags) | nuclear & placeless | diffusion


def is_localizer(tags: FrameTags) -> NDArray[np.bool_]:
    """Frames whose Image Type says localizer, scout or topogram (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1)."""
    return _image_type_says(tags, LOCALIZER_WORDS)


def is_mosaic(tags: FrameTags) -> NDArray[np.bool_]:
    """Frames that hold many slices side by side, by Image Type or by what the private header says."""
    return _image_type_says(tags, frozenset({"MOSAIC"})) | (tags.number("mosaic_tiles") > 0)


def _image_type_says(tags: FrameTags, words: frozenset[str]) -> NDArray[np.bool_]:
    types = tags.text("image_type")
    says = [bool(words & {word.strip().upper() for word in text.split("\\")}) for text in types.values]
    return np.array([*says, False], dtype=np.bool_)[types.codes]


# Hard keys: frames that differ here are never one volume


class Group(NamedTuple):
    """Frames that may be one volume, and how they differ from the rest of the series."""

    rows: Rows
    splits: tuple[Split, ...]


class _Key(NamedTuple):
    attribute: str
    codes: Codes
    value: Callable[[int], str]


def hard_groups(tags: FrameTags, geometry: Geometry, rows: Rows, tolerances: Tolerances) -> list[Group]:
    """Split images of one series (rows with Rows and Columns) by what no volume mixes, in order of appearance."""
    varying = [key for key in _hard_keys(tags, geometry, rows, tolerances) if (key.codes != key.codes[0]).any()]
    if not varying:
        return [Group(rows, ())]
    keys = np.column_stack([key.codes for key in varying])
    _, first, codes = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(codes.reshape(-1), kind="stable")
    bounds = np.searchsorted(codes.reshape(-1)[order], np.arange(len(first) + 1))
    groups = []
    for number in np.argsort(first, kind="stable"):
        member = rows[order[bounds[number] : bounds[number + 1]]]
        groups.append(Group(member, tuple(Split(key.attribute, key.value(int(member[0]))) for key in varying)))
    return groups


def _hard_keys(tags: FrameTags, geometry: Geometry, rows: Rows, tolerances: Tolerances) -> Iterator[_Key]:
    # Broken de-identification gives two patients one series UID. Their names stay untold.
    yield _Key("PatientID", tags.text("patient_id").codes[rows], lambda _: "differs")
    if not tags.text("series_instance_uid").at(int(rows[0])):  # old files; else a series is enough
        yield _Key("StudyInstanceUID", tags.text("study_instance_uid").codes[rows], lambda _: "differs")
    sop_class = tags.text("sop_class_uid")
    yield _Key("SOPClassUID", sop_class.codes[rows], sop_class.at)
    own = np.isin(sop_class.codes, [i for i, uid in enumerate(sop_class.values) if uid in _FILE_IS_A_WORLD])
    nuclear = [i for i, uid in enumerate(sop_class.values) if uid == NUCLEAR]
    own |= np.isin(sop_class.codes, nuclear) & (tags.number("number_of_frames") > 1)
    alone = own | (geometry.state != 0) & (tags.number("frame_count") > 1)
    yield _Key("SOPInstanceUID", np.where(alone, tags.text("file").codes, -1)[rows], tags.text("sop_instance_uid").at)
    role = is_localizer(tags).astype(np.int64) + 2 * is_mosaic(tags)
    yield _Key("ImageType", role[rows], tags.text("image_type").at)
    height, width = tags.number("rows"), tags.number("columns")
    size = height[rows].astype(np.int64) * (LARGEST_SIDE + 1) + width[rows].astype(np.int64)
    yield _Key("Rows, Columns", size, lambda i: f"{height[i]:.0f} x {width[i]:.0f}")
    photometric = tags.text("photometric_interpretation")
    yield _Key("PhotometricInterpretation", photometric.codes[rows], photometric.at)
    stated, units = _units(tags, rows)
    yield _Key("Units", units, stated)
    stack = tags.text("stack_id")
    yield _Key("StackID", stack.codes[rows], stack.at)
    segment = tags.number("segment_number")
    yield _Key("ReferencedSegmentNumber", _whole(segment[rows]), lambda i: f"{segment[i]:.0f}")
    tiles = tags.number("mosaic_tiles")
    yield _Key("NumberOfImagesInMosaic", _whole(tiles[rows]), lambda i: f"{tiles[i]:.0f}")
    yield _Key("geometry", geometry.state[rows], lambda i: ("known", "missing", "impossible")[geometry.state[i]])
    spacing = geometry.spacing
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.where(geometry.state[rows, None] == 0, np.log(spacing[rows]), np.nan)
    yield _Key(
        "PixelSpacing",
        cluster(logs, tolerances.spacing_fraction),
        lambda i: f"{spacing[i, 0]:g} x {spacing[i, 1]:g} mm",
    )
    cosines = geometry.cosines
    yield _Key(
        "ImageOrientationPatient",
        cluster(cosines[rows], float(np.deg2rad(tolerances.angle_degrees))),
        lambda i: " ".join(f"{cosine:.4g}" for cosine in cosines[i] + 0.0),
    )


def _whole(values: Floats) -> Codes:
    return np.where(np.isfinite(values), values, -1.0).astype(np.int64)


def _units(tags: FrameTags, rows: Rows) -> tuple[Callable[[int], str], Codes]:
    """Units or Rescale Type; a frame that states none goes with the others where these agree."""
    units, rescale = tags.text("units"), tags.text("rescale_type")
    codes = np.where(units.codes >= 0, units.codes, np.where(rescale.codes >= 0, rescale.codes + len(units.values), -1))

    def value(row: int) -> str:
        return units.at(row) or rescale.at(row)

    local = codes[rows]
    stated = np.unique(local[local >= 0])
    return value, np.full(len(rows), stated[0]) if len(stated) == 1 else local


# Soft keys: what tells frames at the same place apart


@dataclass(slots=True)
class Part:
    """Frames of one stack, each at a place of its own."""

    rows: Rows
    splits: tuple[Split, ...] = ()
    attributes: tuple[str, ...] = ()


@dataclass(slots=True)
class Separated:
    """A stack sorted into phases.

    Attributes:
        parts: in the order of the values that tell them apart.
        copies: frames that repeat another one of the same stack, pixel for pixel.
        reissued: frames that carry the same SOP Instance UID as another at the same place, other pixels.
        unexplained: frames at a place that is taken, which no attribute tells apart.
    """

    parts: list[Part] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    reissued: list[int] = field(default_factory=list)
    unexplained: list[int] = field(default_factory=list)


class _Attribute(NamedTuple):
    name: str
    codes: Codes
    value: Callable[[int], str]


def separate(tags: FrameTags, places: Codes, tolerances: Tolerances) -> Separated:
    """Sort the frames of one stack into parts in which no place occurs twice.

    Args:
        tags: of the frames of this stack only, in canonical order; of copies the first is kept.
        places: (n,) number of the place along the normal of each.

    Returns:
        Parts and the frames left out, as rows of ``tags``.
    """
    found = Separated()
    rows = np.arange(len(tags), dtype=np.int64)
    if not _repeats(places):
        found.parts += [part for part, _ in _few_contrasts(tags, rows, tolerances)]
        return found
    attributes = list(_attributes(tags, rows, tolerances))
    keep = _without_copies(tags, places, attributes, found)
    rows, places = rows[keep], places[keep]
    for part, inside in _few_contrasts(tags, rows, tolerances):
        known = [attribute._replace(codes=attribute.codes[part.rows]) for attribute in attributes]
        found.parts += _tell_apart(tags, part, places[inside], known, found)
    return found


def _repeats(places: Codes) -> bool:
    return len(places) > 1 and int(np.bincount(places).max()) > 1


def _number_attribute(tags: FrameTags, rows: Rows, name: str, column: str, tolerance: float) -> _Attribute:
    values = tags.number(column)
    codes = cluster(values[rows, None], tolerance)
    return _Attribute(name, codes, lambda i: f"{values[i]:g}" if np.isfinite(values[i]) else "")


def _text_attribute(tags: FrameTags, rows: Rows, name: str, column: str) -> _Attribute:
    texts = tags.text(column)
    return _Attribute(name, texts.codes[rows], texts.at)


def _attributes(tags: FrameTags, rows: Rows, tolerances: Tolerances) -> Iterator[_Attribute]:
    """What may tell frames at one place apart, what says most about meaning first."""
    ms = tolerances.echo_ms
    yield _text_attribute(tags, rows, "ImageType", "image_type")
    yield _text_attribute(tags, rows, "ComplexImageComponent", "complex_image_component")
    yield _number_attribute(tags, rows, "EchoTime", "echo_time", ms)
    yield _number_attribute(tags, rows, "EchoNumbers", "echo_numbers", 0.5)
    yield _number_attribute(tags, rows, "InversionTime", "inversion_time", ms)
    yield _number_attribute(tags, rows, "DiffusionBValue", "diffusion_b_value", tolerances.b_value)
    gradient = tags.vector("diffusion_gradient_orientation")
    yield _Attribute(
        "DiffusionGradientOrientation",
        cluster(gradient[rows], 1e-3),
        lambda i: " ".join(f"{part:.4g}" for part in gradient[i]) if np.isfinite(gradient[i, 0]) else "",
    )
    yield _number_attribute(tags, rows, "KVP", "kvp", 0.5)
    yield _text_attribute(tags, rows, "ConvolutionKernel", "convolution_kernel")
    yield _number_attribute(tags, rows, "EnergyWindowVector", "energy_window", 0.5)
    yield _number_attribute(tags, rows, "DetectorVector", "detector", 0.5)
    yield _number_attribute(tags, rows, "TemporalPositionIdentifier", "temporal_position_identifier", 0.5)
    yield _number_attribute(tags, rows, "TriggerTime", "trigger_time", ms)
    yield _text_attribute(tags, rows, "DimensionIndexValues", "dimension_index")
    yield _number_attribute(tags, rows, "AcquisitionNumber", "acquisition_number", 0.5)
    for name, which in (("AcquisitionTime", "acquisition"), ("ContentTime", "content")):
        yield _clock_attribute(tags, rows, name, f"{which}_seconds")


def _clock_attribute(tags: FrameTags, rows: Rows, name: str, column: str) -> _Attribute:
    seconds = tags.number(column)
    return _Attribute(name, cluster(seconds[rows, None], 1e-4), lambda i: _clock(float(seconds[i])))


def _clock(seconds: float) -> str:
    if not np.isfinite(seconds):
        return ""
    day = seconds % 86400
    return f"{int(day // 3600):02d}:{int(day // 60 % 60):02d}:{day % 60:06.3f}"


def _without_copies(
    tags: FrameTags, places: Codes, attributes: list[_Attribute], found: Separated
) -> NDArray[np.int64]:
    """Rows of all frames but copies; the copies go to ``found``.

    Equal pixels alone make no copy: the empty border slices of two phases are equal too. So all that could tell
    them apart must agree as well; only the time of writing (Content Time) may differ.
    """
    same = [attribute.codes for attribute in attributes if attribute.name != "ContentTime"]
    content = tags.text("content_key").codes
    instance, frame = tags.text("sop_instance_uid").codes, tags.number("frame")
    alone = -1 - np.arange(len(tags))
    copies = _later(np.column_stack([places, np.where(content >= 0, content, alone), *same]))
    number = np.where(np.isfinite(frame), frame, 0).astype(np.int64)
    reissued = _later(np.column_stack([places, np.where(instance >= 0, instance, alone), number]))
    # Where pixels cannot be compared, one SOP Instance UID at one place means one image.
    reissued_differ = reissued & ~copies & (content >= 0)
    copies |= reissued & (content < 0)
    found.copies += np.flatnonzero(copies).tolist()
    found.reissued += np.flatnonzero(reissued_differ).tolist()
    return np.flatnonzero(~(copies | reissued_differ))


def _later(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows that repeat an earlier row."""
    _, first = np.unique(keys, axis=0, return_index=True)
    later = np.ones(len(keys), dtype=np.bool_)
    later[first] = False
    return later


def _few_contrasts(tags: FrameTags, rows: Rows, tolerances: Tolerances) -> Iterator[tuple[Part, NDArray[np.int64]]]:
    """Split by echo time and b-value even where no place repeats: half of one contrast and half of another
    is no volume. Values that change with every slice are a property of the slices, not of volumes."""
    parts = [(Part(rows), np.arange(len(rows)))]
    for name, column, tolerance in (
        ("EchoTime", "echo_time", tolerances.echo_ms),
        ("DiffusionBValue", "diffusion_b_value", tolerances.b_value),
    ):
        if column not in tags.numbers:
            continue
        attribute = _number_attribute(tags, rows, name, column, tolerance)
        split: list[tuple[Part, NDArray[np.int64]]] = []
        for part, inside in parts:
            codes = attribute.codes[inside]
            counts = np.unique(codes, return_counts=True)
            few = len(counts[0]) > 1 and codes.min() >= 0 and counts[1].min() >= 2
            if not few:
                split.append((part, inside))
                continue
            for code in counts[0]:
                chosen = inside[codes == code]
                value = Split(name, attribute.value(int(rows[chosen[0]])))
                split.append((Part(rows[chosen], (*part.splits, value), (*part.attributes, name)), chosen))
        parts = split
    yield from parts


def _tell_apart(
    tags: FrameTags, part: Part, places: Codes, attributes: list[_Attribute], found: Separated
) -> list[Part]:
    """Split a part by the first attribute that differs at a place, then what remains by the next ones."""
    if not _repeats(places):
        return [part]
    most = int(np.bincount(places).max())
    for i, attribute in enumerate(attributes):
        values = np.unique(attribute.codes)
        if not 1 < len(values) <= most:
            continue
        pairs = len(np.unique(np.column_stack([places, attribute.codes]), axis=0))
        if pairs == len(np.unique(places)):
            continue
        parts: list[Part] = []
        for value in values:
            chosen = attribute.codes == value
            rest = [other._replace(codes=other.codes[chosen]) for other in attributes[i + 1 :]]
            split = Split(attribute.name, attribute.value(int(part.rows[chosen][0])))
            smaller = Part(part.rows[chosen], (*part.splits, split), (*part.attributes, attribute.name))
            parts += _tell_apart(tags, smaller, places[chosen], rest, found)
        return parts
    return _by_order(tags, part, places, found)


def _by_order(tags: FrameTags, part: Part, places: Codes, found: Separated) -> list[Part]:
    """Split by the order of a time or number at each place; what nothing explains is left out."""
    rows = part.rows
    for name, values in (
        ("TemporalPositionIdentifier", tags.number("temporal_position_identifier")[rows]),
        ("TriggerTime", tags.number("trigger_time")[rows]),
        ("AcquisitionNumber", tags.number("acquisition_number")[rows]),
        ("AcquisitionTime", tags.number("acquisition_seconds")[rows]),
        ("ContentTime", tags.number("content_seconds")[rows]),
        ("InstanceNumber", tags.number("instance_number")[rows]),
    ):
        phase = _phases_in_order(values, places, strict=name == "InstanceNumber")
        if phase is None:
            continue
        count = int(phase.max()) + 1
        return [
            Part(
                rows[phase == k],
                (*part.splits, Split(name, f"{k + 1} of {count} in order")),
                (*part.attributes, name),
            )
            for k in range(count)
        ]
    _, first = np.unique(places, return_index=True)
    kept = np.zeros(len(rows), dtype=np.bool_)
    kept[first] = True
    found.unexplained += rows[~kept].tolist()
    part.rows = rows[kept]
    return [part]


def _phases_in_order(values: Floats, places: Codes, *, strict: bool) -> Codes | None:
    """Phase of each frame by the order of its value, or None where the order says nothing.

    Where every place has the same number of frames, the k-th value at each place is phase k; with ``strict``
    only if the phases follow one another in blocks, or if the values step alike at every place. Otherwise the
    values are swept upwards, and a new phase begins when a place comes round again; the phases must then be
    as many as the frames at the fullest place.
    """
    if not np.isfinite(values).all():
        return None
    order = np.lexsort((values, places))
    sorted_places, sorted_values = places[order], values[order]
    again = sorted_places[1:] == sorted_places[:-1]
    if (np.diff(sorted_values)[again] == 0).any():
        return None
    counts = np.unique(places, return_counts=True)[1]
    most = int(counts.max())
    phase = np.empty(len(places), dtype=np.int64)
    if int(counts.min()) == most:
        table = sorted_values.reshape(-1, most)
        blocks = bool((table.max(axis=0)[:-1] < table.min(axis=0)[1:]).all())
        alike = bool((table - table[:, :1] == (table - table[:, :1])[0]).all())
        if strict and not (blocks or alike):
            return None
        phase[order] = np.tile(np.arange(most), len(counts))
        return phase
    if strict:
        return None
    return _sweep(values, places, most)


def _sweep(values: Floats, places: Codes, most: int) -> Codes | None:
    phase = np.empty(len(places), dtype=np.int64)
    order = np.lexsort((places, values))
    current, taken = 0, set[int]()
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf) > 0)
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        members = order[start:stop]
        here = places[members].tolist()
        if not taken.isdisjoint(here):
            current, taken = current + 1, set()
        taken.update(here)
        phase[members] = current
    return phase if current + 1 == most else None
