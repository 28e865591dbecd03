"""Calibrated regions of ultrasound images (PS3.3 C.8.5.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dcmark.errors import ValueMeaningError
from dcmark.read.attributes import items, number

if TYPE_CHECKING:
    from pydicom import Dataset

# Physical Units X and Y Direction (C.8.5.5.1.15): UCUM unit, and what the stated delta is multiplied with.
_UNITS = {
    0x0: ("1", 1.0),
    0x1: ("%", 1.0),
    0x2: ("dB", 1.0),
    0x3: ("mm", 10.0),  # the standard says cm
    0x4: ("s", 1.0),
    0x5: ("Hz", 1.0),
    0x6: ("dB/s", 1.0),
    0x7: ("cm/s", 1.0),
    0x8: ("cm2", 1.0),
    0x9: ("cm2/s", 1.0),
    0xA: ("cm3", 1.0),
    0xB: ("cm3/s", 1.0),
    0xC: ("deg", 1.0),
}
_FORMATS = {0: "none", 1: "2d", 2: "m-mode", 3: "spectral", 4: "waveform", 5: "graphics"}


@dataclass(frozen=True, slots=True)
class UltrasoundRegion:
    """A part of an ultrasound image with a scale of its own.

    Attributes:
        left, top, right, bottom: first and last pixel, column and row from 0, both inside.
        format: ``2d``, ``m-mode``, ``spectral``, ``waveform``, ``graphics`` or ``none``.
        data_type: Region Data Type (C.8.5.5.1.2), e.g. 1 tissue, 2 colour flow.
        delta_x, delta_y: physical step from pixel to pixel.
        unit_x, unit_y: UCUM; lengths in mm, speeds in cm/s.
        reference: column and row, relative to left and top, at which the physical value is ``origin``; None where the
            header names none.
        origin: physical values at the reference, in the units of the axes.
    """

    left: int
    top: int
    right: int
    bottom: int
    format: str
    data_type: int
    delta_x: float
    delta_y: float
    unit_x: str
    unit_y: str
    reference: tuple[int, int] | None = None
    origin: tuple[float, float] = (0.0, 0.0)


def us_regions(dataset: Dataset) -> list[UltrasoundRegion]:
    """The regions of Sequence of Ultrasound Regions, in its order; empty where there is none.

    Raises:
        ValueMeaningError: a region without its location, units or deltas.
    """
    return [_region(item) for item in items(dataset, "SequenceOfUltrasoundRegions")]


def _region(item: Dataset) -> UltrasoundRegion:
    unit_x, factor_x = _unit(item, "X")
    unit_y, factor_y = _unit(item, "Y")
    x, y = number(item, "ReferencePixelX0"), number(item, "ReferencePixelY0")
    value_x, value_y = number(item, "ReferencePixelPhysicalValueX"), number(item, "ReferencePixelPhysicalValueY")
    return UltrasoundRegion(
        left=int(_needed(item, "RegionLocationMinX0")),
        top=int(_needed(item, "RegionLocationMinY0")),
        right=int(_needed(item, "RegionLocationMaxX1")),
        bottom=int(_needed(item, "RegionLocationMaxY1")),
        format=_FORMATS.get(int(number(item, "RegionSpatialFormat") or 0), "none"),
        data_type=int(number(item, "RegionDataType") or 0),
        delta_x=_needed(item, "PhysicalDeltaX") * factor_x,
        delta_y=_needed(item, "PhysicalDeltaY") * factor_y,
        unit_x=unit_x,
        unit_y=unit_y,
        reference=None if x is None or y is None else (int(x), int(y)),
        origin=((value_x or 0.0) * factor_x, (value_y or 0.0) * factor_y),
    )


def _unit(item: Dataset, axis: str) -> tuple[str, float]:
    code = int(_needed(item, f"PhysicalUnits{axis}Direction"))
    if code not in _UNITS:
        raise ValueMeaningError(f"expected PhysicalUnits{axis}Direction from 0 to 12; found {code}")
    return _UNITS[code]


def _needed(item: Dataset, keyword: str) -> float:
    found = number(item, keyword)
    if found is None:
        raise ValueMeaningError(f"expected {keyword} in SequenceOfUltrasoundRegions; it is missing")
    return found
