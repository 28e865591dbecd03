"""Stored values to physical values with their unit: the second of three steps (stored, physical, display).

    stored = decode_frame(codestream, transfer_syntax, layout_of(header))
    ct = physical(stored, header, frame=0)         # ct.quantity "hu", ct.unit "[hnsf'U]"
    pet = physical(stored, header, 0, "suvbw")     # or a ValueMeaningError that names what is missing

What a modality gives by default, and what else it can be asked for, stands in docs/reference/values.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import ValueMeaningError
from dcmark.read.attributes import number, word
from dcmark.read.scales import (
    STORED,
    Piece,
    Scale,
    adc_scale,
    is_adc,
    modality_scale,
    philips_scale,
    real_world_scales,
)
from dcmark.read.suv import KINDS, convert, suv_factor

if TYPE_CHECKING:
    from pydicom import Dataset

LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
_UNITS_OF_SUV = {unit: kind for kind, unit in KINDS.items()}
# As the standard wrote them until 2012, the annotation first.
_UNITS_OF_SUV |= {f"{{{unit.split('{', 1)[1]}{unit.split('{', 1)[0]}": kind for kind, unit in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Physical:
    """Physical values of a frame.

    Attributes:
        values: float32, of the shape of the stored values; NaN where a pixel has no value (padding, or outside the
            range a mapping is defined for).
        quantity: what is measured, e.g. ``hu``, ``suvbw``, ``gy``, ``signal``, ``stored``.
        unit: UCUM code, e.g. ``[hnsf'U]``, ``g/ml{SUVbw}``, ``Gy``, ``mm2/s``; ``1`` without unit.
        how: the attributes used and the section of the standard.
    """

    values: NDArray[np.float32]
    quantity: str
    unit: str
    how: str

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True where a pixel has no value."""
        return np.isnan(self.values)


def physical(
    stored: NDArray[Any],
    dataset: Dataset,
    frame: int = 0,
    quantity: str | None = None,
    *,
    series_start: datetime | None = None,
) -> Physical:
    """Physical values of one frame.

    Args:
        stored: (rows, columns) or (rows, columns, samples), from ``decode_frame``.
        dataset: the header; no pixel data needed.
        frame: number of the frame, from 0: enhanced objects have a scale for each.
        quantity: one of ``quantities(dataset)``; its first where None.
        series_start: start of a PET scan where it is known for the whole series (``suv.scan_start``).

    Raises:
        ValueMeaningError: the header does not define the quantity; the message names what is missing.
    """
    return recipe_of(dataset, stored.dtype, frame, quantity, series_start=series_start).apply(stored)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Stored values to physical ones: a scale, and what is no value at all. Found once, for all frames that share it.

    Attributes:
        scale: see ``Scale``.
        padding: ranges of stored values that become NaN, both ends inside.
    """

    scale: Scale
    padding: tuple[tuple[float, float], ...] = ()

    def fill(self, stored: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Write the physical values of ``stored`` to ``out``, float32 of the same shape."""
        self.scale.apply(stored, out)
        for low, high in self.padding:
            hidden = stored == low if low == high else (stored >= low) & (stored <= high)
            if hidden.any():
                out[hidden] = np.nan

    def apply(self, stored: NDArray[Any]) -> Physical:
        """The physical values of ``stored``."""
        values = np.empty(stored.shape, np.float32)
        self.fill(stored, values)
        return Physical(values, self.scale.quantity, self.scale.unit, self.scale.how)


def recipe_of(
    dataset: Dataset,
    kind: np.dtype[Any],
    frame: int = 0,
    quantity: str | None = None,
    *,
    series_start: datetime | None = None,
) -> Recipe:
    """How stored values of type ``kind`` become physical ones; arguments and errors as for ``physical``."""
    scale = scale_of(dataset, frame, quantity, series_start=series_start)
    return Recipe(scale, tuple(_padding(dataset, kind)))


def quantities(dataset: Dataset, frame: int = 0) -> list[str]:
    """What ``physical`` can be asked for, and will give; ``stored`` is always the last.

    The first is what it gives unasked, unless the header lacks what that needs: then ``physical`` refuses to guess
    and only what is left stands here.
    """
    try:
        choices = _choices(dataset, frame, None)
    except ValueMeaningError:
        return ["stored"]
    found: list[str] = []
    for name, make in choices.items():
        with suppress(ValueMeaningError):
            make()
            found.append(name)
    return found


def scale_of(
    dataset: Dataset, frame: int = 0, quantity: str | None = None, *, series_start: datetime | None = None
) -> Scale:
    """The scale from stored values to a quantity: find it once where many frames share it.

    Raises:
        ValueMeaningError: as ``physical`` does.
    """
    if quantity == "stored":
        return STORED
    choices = _choices(dataset, frame, series_start)
    if quantity is None:
        return next(iter(choices.values()))()
    if quantity not in choices:
        _explain_missing(dataset, quantity, list(choices))
    return choices[quantity]()


def _explain_missing(dataset: Dataset, quantity: str, known: list[str]) -> None:
    reason = ""
    if quantity == "hu":
        reason = "RescaleSlope and RescaleIntercept of a CT, or a RescaleType of HU, are missing; "
    elif quantity in KINDS:
        reason = "Modality is not PT; " if word(dataset, "Modality") != "PT" else "RescaleSlope is missing; "
    elif quantity == "gy":
        reason = "DoseGridScaling with DoseUnits GY is missing; "
    elif quantity.startswith("rwv"):
        reason = "RealWorldValueMappingSequence has no such mapping; "
    raise ValueMeaningError(f"expected a quantity this image defines: {', '.join(known)}; found {quantity!r}. {reason}")


def _choices(dataset: Dataset, frame: int, series_start: datetime | None) -> dict[str, Callable[[], Scale]]:
    """Quantities in order of preference, each with the way to its scale."""
    modality = word(dataset, "Modality")
    choices: dict[str, Callable[[], Scale]] = {}
    if modality == "SEG" or "SegmentationType" in dataset:  # a label map may bring a palette to show it by
        scale = _segmentation(dataset)
        return {scale.quantity: lambda: scale, "stored": lambda: STORED}
    samples = number(dataset, "SamplesPerPixel") or 1
    if samples > 1 or word(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        return {"stored": lambda: STORED}
    if modality == "RTDOSE":
        quantity = "relative_dose" if word(dataset, "DoseUnits") == "RELATIVE" else "gy"
        return {quantity: lambda: _dose(dataset), "stored": lambda: STORED}
    base = modality_scale(dataset, frame)
    mapped = real_world_scales(dataset, frame)
    parametric = word(dataset, "SOPClassUID") == PARAMETRIC_MAP
    if base is None and modality == "NM":
        base = Scale("counts", "{counts}", "stored values are counts (PS3.3 C.8.4.9)")
    elif base is None and modality == "MR":
        base = Scale("signal", "[arb'U]", "stored values, no unit (PS3.3 C.8.3.1)")
    if base is not None and not parametric:
        choices[base.quantity] = _given(base)
    for name, scale in mapped.items():
        choices[name] = _given(scale)
    if base is not None and parametric:
        choices[base.quantity] = _given(base)
    if modality == "PT":
        for kind in KINDS:
            if kind not in choices:
                choices[kind] = _suv(dataset, frame, kind, base, mapped, series_start)
    elif modality == "MR":
        fp = philips_scale(dataset, frame)
        if fp is not None:
            choices[fp.quantity] = _given(fp)
        if is_adc(dataset, frame):
            choices["adc"] = lambda: _mapped_adc(mapped) or adc_scale(dataset, frame)
    choices["stored"] = lambda: STORED
    return choices


def _given(scale: Scale) -> Callable[[], Scale]:
    return lambda: scale


def _mapped_adc(mapped: dict[str, Scale]) -> Scale | None:
    """An ADC that a real-world value mapping gives, in mm2/s."""
    for scale in mapped.values():
        factor = {"mm2/s": 1.0, "10-3.mm2/s": 1e-3, "10*-3.mm2/s": 1e-3, "um2/s": 1e-6, "10*-6.mm2/s": 1e-6}.get(
            scale.unit
        )
        if factor is not None:
            return scale.times(factor, "adc", "mm2/s", f"MeasurementUnitsCodeSequence {scale.unit}")
    return None


def _suv(
    dataset: Dataset,
    frame: int,
    kind: str,
    base: Scale | None,
    mapped: dict[str, Scale],
    series_start: datetime | None,
) -> Callable[[], Scale]:
    """The way to an SUV: the Units of the header, else a real-world mapping to an SUV or to an activity."""

    def make() -> Scale:
        units = None
        source = base
        if not word(dataset, "Units"):
            for scale in mapped.values():
                stated = _UNITS_OF_SUV.get(scale.unit)
                if stated is not None:
                    factor, unit, how = convert(
                        dataset, stated, kind, 1.0, f"MeasurementUnitsCodeSequence {scale.unit}"
                    )
                    return scale.times(factor, kind, unit, how)
                if scale.unit.upper() == "BQ/ML":
                    source, units = scale, "BQML"
        if source is None:
            raise ValueMeaningError("expected RescaleSlope and RescaleIntercept in a PET image; they are missing")
        factor, unit, how = suv_factor(dataset, kind, frame, units=units, series_start=series_start)
        return source.times(factor, kind, unit, how)

    return make


def _segmentation(dataset: Dataset) -> Scale:
    """Values of a segmentation (PS3.3 C.8.20.2)."""
    kind = word(dataset, "SegmentationType")
    if kind == "LABELMAP" or word(dataset, "SOPClassUID") == LABEL_MAP_SEGMENTATION:
        return Scale("label", "1", "SegmentationType LABELMAP: Segment Number (PS3.3 C.8.20.2)")
    if kind == "FRACTIONAL":
        top = number(dataset, "MaximumFractionalValue")
        if not top or top < 0:
            raise ValueMeaningError("expected MaximumFractionalValue in a fractional segmentation; it is missing")
        what = word(dataset, "SegmentationFractionalType").lower() or "fraction"
        how = "SegmentationType FRACTIONAL, SegmentationFractionalType, MaximumFractionalValue (PS3.3 C.8.20.2)"
        return Scale(what, "1", how, (Piece(slope=1 / top),))
    if kind == "BINARY":
        return Scale("segment", "1", "SegmentationType BINARY: 1 is inside (PS3.3 C.8.20.2)")
    raise ValueMeaningError(f"expected SegmentationType BINARY, FRACTIONAL or LABELMAP; found {kind or 'none'}")


def _dose(dataset: Dataset) -> Scale:
    """Radiotherapy dose (PS3.3 C.8.8.3)."""
    scaling = number(dataset, "DoseGridScaling")
    if scaling is None:
        raise ValueMeaningError("expected DoseGridScaling in an RT Dose; it is missing")
    units = word(dataset, "DoseUnits")
    how = f"DoseGridScaling, DoseUnits {units}, DoseType {word(dataset, 'DoseType') or 'absent'} (PS3.3 C.8.8.3)"
    if units == "GY":
        return Scale("gy", "Gy", how, (Piece(slope=scaling),))
    if units == "RELATIVE":
        return Scale("relative_dose", "1", how, (Piece(slope=scaling),))
    raise ValueMeaningError(f"expected DoseUnits GY or RELATIVE in an RT Dose; found {units or 'none'}")


def _padding(dataset: Dataset, kind: np.dtype[Any]) -> list[tuple[float, float]]:
    """Ranges of stored values that are padding (PS3.3 C.7.5.1.1.2), both ends inside.

    The background of a label map is a label, not padding; colours have none.
    """
    if kind.kind == "f":
        names = ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit")
        if number(dataset, "DoubleFloatPixelPaddingValue") is not None:
            names = ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit")
    else:
        names = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    value = number(dataset, names[0])
    if value is None or word(dataset, "SegmentationType") or (number(dataset, "SamplesPerPixel") or 1) > 1:
        return []
    limit = number(dataset, names[1])
    if kind.kind != "f":
        value = _as_stored(value, kind)
        limit = None if limit is None else _as_stored(limit, kind)
    limit = value if limit is None else limit
    return [(min(value, limit), max(value, limit))]


def _as_stored(value: float, kind: np.dtype[Any]) -> int:
    """A padding value written as US where the pixels are signed, or as SS where they are not.

    A Python int, so that the comparison is made in the type of the pixels and not in float64.
    """
    value = int(value)
    info = np.iinfo(kind)
    span = 1 << max(16, info.bits)
    if value > info.max and kind.kind == "i":
        return value - span
    if value < 0 and kind.kind == "u":
        return value + span
    return value
