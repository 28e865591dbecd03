"""Windows: which physical values become which grey levels (PS3.3 C.11.2, VOI LUT).

A window belongs to a quantity. The windows of a header are given in the output of its modality transformation; named
windows are given in HU. ``window_of`` fixes one window for a whole volume, so that equal physical values become equal
grey levels in every slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import UsageError, ValueMeaningError
from dcmark.read.attributes import frame_group, items, number, numbers, value, word
from dcmark.read.colour import lut_data, lut_descriptor

if TYPE_CHECKING:
    from pydicom import Dataset

Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Window:
    """A window by centre and width, in the unit of the values it is applied to.

    function: LINEAR (C.11.2.1.2.1), LINEAR_EXACT (C.11.2.1.3.2) or SIGMOID (C.11.2.1.3.1).
    explanation: what the header or the table calls it.
    """

    centre: float
    width: float
    function: Function = "LINEAR"
    explanation: str = ""

    def __post_init__(self) -> None:
        least = 1.0 if self.function == "LINEAR" else 0.0
        good = np.isfinite(self.centre) and np.isfinite(self.width) and self.width >= least
        if not good or (least == 0.0 and self.width == 0.0):
            raise ValueMeaningError(
                f"expected a window width of at least 1 (above 0 for LINEAR_EXACT and SIGMOID); found {self.width}"
            )

    def apply(self, values: NDArray[Any]) -> Floats:
        """Values to brightness from 0 to 1, float64, of the same shape; NaN stays NaN."""
        level = np.array(values, np.float64)
        if self.function == "SIGMOID":
            level -= self.centre
            level *= -4 / self.width
            with np.errstate(over="ignore"):
                np.exp(level, out=level)
            level += 1
            return np.reciprocal(level, out=level)
        if self.function == "LINEAR" and self.width == 1:
            return np.where(np.isnan(level), np.nan, level > self.centre - 0.5)
        if self.function == "LINEAR":
            level -= self.centre - 0.5
            level /= self.width - 1
        else:
            level -= self.centre
            level /= self.width
        level += 0.5
        return np.clip(level, 0, 1, out=level)

    @property
    def bounds(self) -> tuple[float, float]:
        """The values that become black and white (for SIGMOID: where its steepest line does)."""
        if self.function == "LINEAR":
            return self.centre - 0.5 - (self.width - 1) / 2, self.centre - 0.5 + (self.width - 1) / 2
        return self.centre - self.width / 2, self.centre + self.width / 2


@dataclass(frozen=True, slots=True, eq=False)
class VoiTable:
    """A VOI LUT (C.11.2.1.1): the brightness of value ``first`` and those behind it.

    entries: uint16. bits: of an entry; the brightest is 2 to the power of bits, minus 1.
    """

    first: int
    bits: int
    entries: NDArray[np.uint16]
    explanation: str = ""

    def apply(self, values: NDArray[Any]) -> Floats:
        """Values to brightness from 0 to 1, float64; below and above the table its ends hold. NaN stays NaN."""
        exact = np.asarray(values, np.float64)
        index = np.clip(np.rint(np.nan_to_num(exact)) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        level = np.minimum(self.entries[index] / ((1 << self.bits) - 1), 1.0)
        return np.where(np.isnan(exact), np.nan, level)


AnyWindow = Window | VoiTable
Choice = AnyWindow | int | str | None
"""A window, its number in the header (from 0), its name in ``NAMED`` or explanation in the header, or None: the
header's first, else by percentiles."""

NAMED: Mapping[str, Window] = MappingProxyType(
    {
        name: Window(centre, width, "LINEAR", name)
        for name, (centre, width) in {
            "abdomen": (50, 400),
            "angio": (300, 600),
            "bone": (400, 1800),
            "brain": (40, 80),
            "liver": (100, 150),
            "lung": (-600, 1500),
            "mediastinum": (50, 350),
            "pulmonary-embolism": (100, 700),
            "soft-tissue": (50, 400),
            "spine": (50, 250),
            "stroke": (35, 40),
            "subdural": (75, 215),
            "temporal-bone": (600, 2800),
        }.items()
    }
)
"""Customary CT windows in HU: (centre, width)."""


def windows(dataset: Dataset, frame: int = 0) -> tuple[AnyWindow, ...]:
    """All windows a header offers for a frame: VOI LUTs first, then centres and widths (C.11.2, C.7.6.16.2.10).

    Some writers give widths the standard forbids: one below 1 for LINEAR (small numbers such as mm2/s) is read as
    LINEAR_EXACT, which was meant; one of 0 or below shows nothing and is left out.

    Raises:
        ValueMeaningError: Window Center without Window Width, or a table cut short.
    """
    tables = [_table(dataset, frame, item) for item in items(dataset, "VOILUTSequence")]
    group = frame_group(dataset, frame, "FrameVOILUTSequence")
    centres, widths = numbers(group, "WindowCenter"), numbers(group, "WindowWidth")
    if len(centres) != len(widths):
        raise ValueMeaningError(f"expected as many WindowWidth as WindowCenter; found {len(widths)} and {len(centres)}")
    function = word(group, "VOILUTFunction") or "LINEAR"
    if centres and function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueMeaningError("expected VOILUTFunction LINEAR, LINEAR_EXACT or SIGMOID; found another")
    found = value(group, "WindowCenterWidthExplanation")
    texts = [found] if isinstance(found, str) else list(found or [])
    texts += [""] * (len(centres) - len(texts))
    plain = [
        Window(
            centre, width, "LINEAR_EXACT" if function == "LINEAR" and width < 1 else cast(Function, function), str(text)
        )
        for centre, width, text in zip(centres, widths, texts, strict=False)
        if width > 0
    ]
    return (*tables, *plain)


def _table(dataset: Dataset, frame: int, item: Dataset) -> VoiTable:
    """One item of VOI LUT Sequence; its first value is signed where the modality output can be (C.11.2.1.1)."""
    group = frame_group(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = number(group, "RescaleSlope") or 1.0, number(group, "RescaleIntercept") or 0.0
    span = 2 ** (number(dataset, "BitsStored") or 16)
    lowest = -span / 2 if number(dataset, "PixelRepresentation") == 1 else 0.0
    negative = min(lowest * slope, (lowest + span - 1) * slope) + intercept < 0
    descriptor = lut_descriptor(item, "LUTDescriptor", signed=negative)
    entries = lut_data(item, "LUTData", descriptor)
    depth = descriptor.bits
    if not 1 <= depth <= 16:
        raise ValueMeaningError(f"expected 8 to 16 bits an entry of a VOI LUT; found {depth}")
    return VoiTable(descriptor.first, depth, entries, str(value(item, "LUTExplanation") or ""))


def pick(dataset: Dataset, frame: int, choice: int | str | None) -> AnyWindow | None:
    """The window of a header that a choice means; None where the header has none and none was named.

    Raises:
        UsageError: there is no such window; the message lists those there are.
        ValueMeaningError: as ``windows`` does.
    """
    if isinstance(choice, str) and choice.lower() in NAMED:
        return NAMED[choice.lower()]
    offered = windows(dataset, frame)
    if choice is None:
        return offered[0] if offered else None
    if isinstance(choice, int):
        if 0 <= choice < len(offered):
            return offered[choice]
        raise UsageError(f"expected the number of a window from 0 to {len(offered) - 1}; found {choice}")
    for window in offered:
        if window.explanation.strip().lower() == choice.strip().lower():
            return window
    known = ", ".join([*NAMED, *(repr(window.explanation) for window in offered if window.explanation)])
    raise UsageError(f"expected the name of a window: {known}; found {choice!r}")


def robust_window(values: Iterable[NDArray[Any]], low: float = 0.5, high: float = 99.5) -> Window:
    """A window between two percentiles of the values that are finite (LINEAR_EXACT).

    Args:
        values: arrays of any shape; a sample of the slices of a volume is enough.
        low, high: percent.
    """
    finite = [array[np.isfinite(array)].ravel() for array in map(np.asarray, values)]
    joined = np.concatenate(finite) if finite else np.empty(0)
    if not joined.size:
        return Window(0.5, 1.0, "LINEAR_EXACT", "nothing to see")
    bottom, top = (float(edge) for edge in np.percentile(joined, (low, high)))
    if top <= bottom:
        bottom, top = float(joined.min()), float(joined.max())
    if top <= bottom:
        bottom, top = bottom - 0.5, bottom + 0.5
    return Window((bottom + top) / 2, top - bottom, "LINEAR_EXACT", f"percentiles {low:g} to {high:g}")


def window_of(*datasets: Dataset, choice: Choice = None, samples: Iterable[NDArray[Any]] = ()) -> AnyWindow:
    """One window for a whole volume, so that equal physical values are equally bright in all its slices.

    A named window or one given is taken as it is. Where the headers differ (MR machines window every slice by
    itself), the medians of their black and white values are taken; a VOI LUT must be the same in all.

    Args:
        datasets: headers of the slices; a multi-frame header counts with all its frames.
        choice: see ``Choice``.
        samples: physical values of some slices, for where the headers have no window.

    Raises:
        UsageError: no such window, or none at all and no samples.
    """
    if isinstance(choice, Window | VoiTable):
        return choice
    found: list[Window] = []
    for dataset in datasets:
        for frame in range(len(items(dataset, "PerFrameFunctionalGroupsSequence")) or 1):
            window = pick(dataset, frame, choice)
            if isinstance(window, VoiTable) and len(datasets) == 1:
                return window
            if isinstance(window, Window):
                found.append(window)
    if found:
        first = found[0]
        if all(one == first for one in found):
            return first
        bottom, top = (float(edge) for edge in np.median([one.bounds for one in found], axis=0))
        return Window((bottom + top) / 2, max(top - bottom, 1e-9), "LINEAR_EXACT", "median of the slices' windows")
    tables = [pick(dataset, 0, choice) for dataset in datasets]
    if tables and all(_same(one, tables[0]) for one in tables):
        return cast(VoiTable, tables[0])
    arrays = list(samples)
    if arrays:
        return robust_window(arrays)
    raise UsageError("expected a window in the headers, a name or samples of the values; found none of them")


def _same(one: AnyWindow | None, other: AnyWindow | None) -> bool:
    if not isinstance(one, VoiTable) or not isinstance(other, VoiTable):
        return False
    return (one.first, one.bits) == (other.first, other.bits) and np.array_equal(one.entries, other.entries)
