"""The table of frames that volumes are found in: tags as columns, no pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import UsageError
from dcmark.findings import Finding

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


class FrameRow(TypedDict, total=False):
    """The tags of one frame. Names are those of the archive's columns; what is not known is left out.

    ``file`` (any key that identifies the file, such as its SHA-256) and ``frame`` (number of the frame in
    its file, from 0) name the frame. Lengths are in mm, times of echo, inversion and trigger in ms, b-values
    in s/mm2. Text with several values is joined by backslashes or a list.
    """

    file: str
    frame: int
    frame_count: int
    """How many alike frames this row stands for, counted on from ``frame``; 1 unless it is a cine or a slide."""
    content_key: str
    """Equal for equal pixels, such as a hash of the codestream; copies are found by it."""
    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    modality: str
    image_type: Any
    rows: int
    columns: int
    samples_per_pixel: int
    number_of_frames: int
    photometric_interpretation: str
    image_position_patient: Any
    image_orientation_patient: Any
    pixel_spacing: Any
    spacing_between_slices: float
    slice_thickness: float
    slice_location: float
    gantry_detector_tilt: float
    frame_of_reference_uid: str
    instance_number: int
    acquisition_number: int
    acquisition_date: str
    acquisition_time: str
    acquisition_date_time: str
    content_date: str
    content_time: str
    temporal_position_identifier: int
    trigger_time: float
    echo_time: float
    echo_numbers: int
    inversion_time: float
    diffusion_b_value: float
    diffusion_gradient_orientation: Any
    kvp: float
    convolution_kernel: Any
    complex_image_component: str
    energy_window: int
    detector: int
    rescale_type: str
    units: str
    stack_id: str
    dimension_index: str
    """Values of the dimensions that are neither place, stack, time nor segment, joined by ``/``."""
    segment_number: int
    mosaic_tiles: int
    """Slices inside a Siemens mosaic, where its private header tells."""
    mosaic_normal: Any
    findings: Sequence[Finding]


_TEXTS = (
    "file", "content_key", "patient_id", "study_instance_uid", "series_instance_uid", "sop_class_uid",
    "sop_instance_uid", "modality", "image_type", "photometric_interpretation", "frame_of_reference_uid",
    "acquisition_date", "acquisition_time", "acquisition_date_time", "content_date", "content_time",
    "convolution_kernel", "complex_image_component", "rescale_type", "units", "stack_id", "dimension_index",
)  # fmt: skip
_NUMBERS = (
    "frame", "frame_count", "rows", "columns", "samples_per_pixel", "number_of_frames", "spacing_between_slices",
    "slice_thickness", "slice_location", "gantry_detector_tilt", "instance_number", "acquisition_number",
    "temporal_position_identifier", "trigger_time", "echo_time", "echo_numbers", "inversion_time",
    "diffusion_b_value", "kvp", "energy_window", "detector", "segment_number", "mosaic_tiles",
)  # fmt: skip
_VECTORS = {
    "image_position_patient": 3,
    "image_orientation_patient": 6,
    "pixel_spacing": 2,
    "diffusion_gradient_orientation": 3,
    "mosaic_normal": 3,
}
_LARGEST = 1e15
"""No number of these attributes is larger; up to here whole numbers are exact in float64."""
COLUMN_NAMES: tuple[str, ...] = (*_TEXTS, *_NUMBERS, *_VECTORS)
"""Names of the columns that volumes are found by."""


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of text: ``values[codes[i]]`` is the text of row i, -1 where there is none.

    ``values`` are sorted, so codes compare as the texts do, whatever the order of the rows.
    """

    codes: Codes
    values: tuple[str, ...]

    def at(self, row: int) -> str:
        """The text of a row, empty where there is none."""
        code = int(self.codes[row])
        return self.values[code] if code >= 0 else ""


@dataclass(frozen=True, slots=True, eq=False)
class FrameTags:
    """Columns of tags, a row a frame. Absent values are NaN in numbers, -1 in the codes of texts.

    Made by ``from_columns`` (fast) or ``from_rows``; never changed. ``file`` and ``frame`` together name a row.
    """

    count: int
    texts: Mapping[str, Texts]
    numbers: Mapping[str, Floats]
    vectors: Mapping[str, Floats]
    findings: Mapping[int, tuple[Finding, ...]]

    @classmethod
    def from_rows(cls, rows: Iterable[FrameRow]) -> FrameTags:
        """From one mapping a frame, as ``frames_of`` gives them. Unknown names are ignored."""
        listed = list(rows)
        names = set().union(*listed) if listed else set()
        columns = {name: [row.get(name) for row in listed] for name in names}
        return cls._from_columns(columns, len(listed))

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> FrameTags:
        """From columns of equal length by name; None or NaN where there is no value.

        Unknown names are ignored. A value of the wrong kind, length or order of magnitude counts as absent.

        Raises:
            UsageError: columns of different lengths.
        """
        lengths = {len(values) for values in columns.values()}
        if len(lengths) > 1:
            raise UsageError(f"expected columns of equal length, found lengths {sorted(lengths)}")
        return cls._from_columns(columns, lengths.pop() if lengths else 0)

    @classmethod
    def _from_columns(cls, columns: Mapping[str, Any], count: int) -> FrameTags:
        findings = {
            i: tuple(found) for i, found in enumerate(columns.get("findings", ())) if found is not None and found
        }
        texts = {name: _texts(columns[name]) for name in _TEXTS if name in columns}
        if "image_type" in texts:
            texts["image_type"] = _tidied(texts["image_type"])
        numbers = {name: _numbers(columns[name]) for name in _NUMBERS if name in columns}
        for which in ("acquisition", "content"):
            if f"{which}_time" in texts or f"{which}_date_time" in texts:
                numbers[f"{which}_seconds"] = _seconds(texts, which, count)
        vectors = {name: _vectors(columns[name], size) for name, size in _VECTORS.items() if name in columns}
        return cls(count, texts, numbers, vectors, findings)

    def take(self, rows: NDArray[np.int64]) -> FrameTags:
        """The table of these rows, in this order."""
        return FrameTags(
            len(rows),
            {name: Texts(column.codes[rows], column.values) for name, column in self.texts.items()},
            {name: column[rows] for name, column in self.numbers.items()},
            {name: column[rows] for name, column in self.vectors.items()},
            {i: self.findings[row] for i, row in enumerate(rows.tolist()) if row in self.findings}
            if self.findings
            else {},
        )

    def __len__(self) -> int:
        return self.count

    def text(self, name: str) -> Texts:
        """A column of text; all absent where the table has none of that name."""
        return self.texts.get(name) or Texts(np.full(self.count, -1, dtype=np.int64), ())

    def number(self, name: str) -> Floats:
        """A column of numbers, shape (count,).

        ``acquisition_seconds`` and ``content_seconds`` are dates and times as seconds; Acquisition DateTime is
        preferred to the separate date and time. Without a date they count from midnight. Time zones are left
        alone: within a series they do not change.
        """
        found = self.numbers.get(name)
        return np.full(self.count, np.nan) if found is None else found

    def vector(self, name: str) -> Floats:
        """A column of vectors, shape (count, components); a row is all NaN or all finite."""
        found = self.vectors.get(name)
        return np.full((self.count, _VECTORS[name]), np.nan) if found is None else found


def _texts(values: Sequence[Any]) -> Texts:
    seen: dict[str, int] = {}
    codes = np.empty(len(values), dtype=np.int64)
    for i, value in enumerate(values):
        text = value if type(value) is str else _as_text(value)
        codes[i] = seen.setdefault(text, len(seen)) if text else -1
    order = sorted(seen)
    if len(order) > 1:
        rank = np.empty(len(order) + 1, dtype=np.int64)
        rank[-1] = -1
        rank[[seen[text] for text in order]] = np.arange(len(order))
        codes = rank[codes]
    return Texts(codes, tuple(order))


def _tidied(texts: Texts) -> Texts:
    """Blanks around the parts of a value say nothing (PS3.5 section 6.2, code strings)."""
    tidy = ["\\".join(part.strip() for part in text.split("\\")) for text in texts.values]
    if tidy == list(texts.values):
        return texts
    values = tuple(sorted(set(tidy)))
    number = {text: i for i, text in enumerate(values)}
    codes = np.array([*(number[text] for text in tidy), -1], dtype=np.int64)
    return Texts(codes[texts.codes], values)


def _as_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Iterable):
        return "\\".join(str(part) for part in value)
    return str(value)


def _numbers(values: Sequence[Any]) -> Floats:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.array([_as_number(value) for value in values], dtype=np.float64)
    if numbers.ndim != 1:
        numbers = np.array([_as_number(value) for value in values], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        sane = np.abs(numbers) <= _LARGEST
    return numbers if sane.all() else np.where(sane, numbers, np.nan)


def _as_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _vectors(values: Sequence[Any], size: int) -> Floats:
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == size:
        ready = values.astype(np.float64)
        ready[~np.isfinite(ready).all(axis=1)] = np.nan
        return ready
    absent = (float("nan"),) * size
    listed = [absent if value is None or _length(value) != size else value for value in values]
    try:
        vectors = np.array(listed, dtype=np.float64).reshape(-1, size)
    except (TypeError, ValueError, OverflowError):
        vectors = np.array([[_as_number(part) for part in value] for value in listed]).reshape(-1, size)
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        vectors[broken] = np.nan
    return vectors


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else 0


def _seconds(texts: Mapping[str, Texts], which: str, count: int) -> Floats:
    none = np.full(count, np.nan)
    day, time, both = (
        _by_value(texts[name], parse) if name in texts else none
        for name, parse in (
            (f"{which}_date", _days),
            (f"{which}_time", _time_of_day),
            (f"{which}_date_time", _date_time),
        )
    )
    apart = time + np.where(np.isfinite(day), day, 0.0) * 86400.0
    return np.where(np.isfinite(both), both, apart)


def _by_value(texts: Texts, parse: Callable[[str], float]) -> Floats:
    parsed = np.array([*map(parse, texts.values), np.nan], dtype=np.float64)
    return parsed[texts.codes]


def _time_of_day(text: str) -> float:
    """Value representation TM: HHMMSS.FFFFFF, right parts optional; the colons of old files are dropped."""
    text = text.replace(":", "").strip()
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    if not (digits.isascii() and digits.isdigit() and len(whole) in (2, 4, 6)):
        return float("nan")
    parts = [int(whole[i : i + 2]) for i in range(0, len(whole), 2)] + [0, 0]
    return parts[0] * 3600 + parts[1] * 60 + parts[2] + (float(f"0.{fraction}") if fraction else 0.0)


def _days(text: str) -> float:
    """Value representation DA: YYYYMMDD; the dots of old files are dropped."""
    text = text.replace(".", "").strip()
    if not (len(text) == 8 and text.isascii() and text.isdigit()):
        return float("nan")
    try:
        return float(date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal())
    except ValueError:
        return float("nan")


def _date_time(text: str) -> float:
    """Value representation DT: YYYYMMDDHHMMSS.FFFFFF&ZZXX; the zone is left alone."""
    text = text.strip().partition("+")[0].partition("-")[0]
    return _days(text[:8]) * 86400.0 + _time_of_day(text[8:])
