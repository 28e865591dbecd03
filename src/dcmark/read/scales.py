"""How stored values become physical values: one scale for each quantity a header defines.

A ``Scale`` is the whole answer for one frame: what is measured, in which unit, by which attributes, and the
numbers. It is found once and applied to as many arrays as share it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import ValueMeaningError
from dcmark.read.attributes import (
    frame_group,
    frame_items,
    items,
    number,
    numbers,
    private,
    value,
    word,
    words,
)
from dcmark.read.colour import lut_data, lut_descriptor
from dcmark.read.suv import KINDS, SUV_TYPES

if TYPE_CHECKING:
    from pydicom import Dataset

_EXACT = 1 << 24  # whole numbers up to here are exact in float32


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of stored values and what becomes of them.

    low, high: first and last stored value of the range.
    slope, intercept: value = stored x slope + intercept, where there is no table.
    table: value of ``first`` and those behind it; below and above take its ends.
    """

    low: float = -np.inf
    high: float = np.inf
    slope: float = 1.0
    intercept: float = 0.0
    table: NDArray[np.float64] | None = None
    first: int = 0


@dataclass(frozen=True, slots=True)
class Scale:
    """Stored values to one physical quantity.

    Attributes:
        quantity: what is measured, e.g. ``hu``.
        unit: UCUM code.
        how: the attributes used and the section of the standard.
        pieces: by range of stored values; a value in none of them has no meaning and becomes NaN.
    """

    quantity: str
    unit: str
    how: str
    pieces: tuple[Piece, ...] = (Piece(),)

    @property
    def linear(self) -> tuple[float, float] | None:
        """Slope and intercept, where these alone make the values of all stored ones; else None."""
        first = self.pieces[0]
        whole = len(self.pieces) == 1 and first.low == -np.inf and first.high == np.inf and first.table is None
        return (first.slope, first.intercept) if whole else None

    def times(self, factor: float, quantity: str, unit: str, how: str) -> Scale:
        """The scale of a quantity that is this one times a factor."""
        pieces = tuple(
            replace(
                piece,
                slope=piece.slope * factor,
                intercept=piece.intercept * factor,
                table=None if piece.table is None else piece.table * factor,
            )
            for piece in self.pieces
        )
        return Scale(quantity, unit, f"{self.how}; {how}", pieces)

    def apply(self, stored: NDArray[Any], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Physical values, float32, of the shape of ``stored``; written to ``out`` where it is given.

        The result is that of float64 arithmetic rounded to float32; where all numbers are whole and small, float32
        arithmetic gives just that and is used.
        """
        values = np.empty(stored.shape, np.float32) if out is None else out
        first = self.pieces[0]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            if len(self.pieces) == 1 and first.low == -np.inf and first.high == np.inf:
                return _piece(stored, first, values)
            values[...] = np.nan
            for piece in self.pieces:
                inside = (stored >= piece.low) & (stored <= piece.high)
                part = stored[inside]
                values[inside] = _piece(part, piece, np.empty(part.shape, np.float32))
        return values


def _piece(stored: NDArray[Any], piece: Piece, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Physical values of one piece, in one pass over memory wherever float32 arithmetic is exact."""
    slope, intercept = piece.slope, piece.intercept
    if piece.table is not None:
        # Clipped as float64: whole numbers of 32 bits fit, and floating-point pixels have a place too.
        index = np.clip(np.floor(stored.astype(np.float64)) - piece.first, 0, len(piece.table) - 1).astype(np.int64)
        np.take(piece.table.astype(np.float32), index, out=out)
    elif stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2 and _whole(slope, intercept):
        if slope == 1:
            np.add(stored, np.float32(intercept), out=out, dtype=np.float32)
        else:
            np.multiply(stored, np.float32(slope), out=out, dtype=np.float32)
            out += np.float32(intercept)
    elif slope == 1 and intercept == 0:
        out[...] = stored
    else:
        exact = np.multiply(stored, slope, dtype=np.float64)
        exact += intercept
        out[...] = exact
    return out


def _whole(slope: float, intercept: float) -> bool:
    """Is stored x slope + intercept a whole number that float32 holds, for every 16-bit value?"""
    return slope.is_integer() and intercept.is_integer() and 65535 * abs(slope) + abs(intercept) <= _EXACT


STORED = Scale("stored", "1", "stored values as they are (PS3.3 C.7.6.3)")

# Rescale Type (PS3.3 C.11.1.1.2): quantity and UCUM unit.
_RESCALE_TYPES = {
    "HU": ("hu", "[hnsf'U]"),
    "HU_MOD": ("hu_modified", "[hnsf'U]"),
    "OD": ("optical_density", "10*-3{OD}"),
    "MGML": ("mg_per_ml", "mg/ml"),
    "Z_EFF": ("effective_z", "{Z_eff}"),
    "ED": ("electron_density", "10*23/ml"),
    "EDW": ("electron_density_ratio", "{N}/{Nw}"),
    "PCT": ("percent", "%"),
    "MRAD": ("phase", "mrad"),
    "MS": ("time", "ms"),
}

# Units of PET (PS3.3 C.8.9.1.1.3): quantity and UCUM unit.
_PET_UNITS = {
    "BQML": ("bqml", "Bq/ml"),
    "CNTS": ("counts", "{counts}"),
    "PROPCNTS": ("proportional_counts", "{propcounts}"),
    "CPS": ("counts_per_second", "{counts}/s"),
    "PROPCPS": ("proportional_counts_per_second", "{propcounts}/s"),
    "GML": ("suvbw", "g/ml{SUVbw}"),
    "CM2ML": ("suvbsa", "cm2/ml{SUVbsa}"),
    "NONE": ("unitless", "1"),
    "CM2": ("area", "cm2"),
    "PCNT": ("percent", "%"),
    "MGMINML": ("mg_per_min_per_ml", "mg/min/ml"),
    "UMOLMINML": ("umol_per_min_per_ml", "umol/min/ml"),
    "MLMING": ("ml_per_min_per_g", "ml/min/g"),
    "MLG": ("ml_per_g", "ml/g"),
    "1CM": ("per_cm", "/cm"),
    "UMOLML": ("umol_per_ml", "umol/ml"),
    "MLMINML": ("ml_per_min_per_ml", "ml/min/ml"),
    "MLML": ("ml_per_ml", "ml/ml"),
    "STDDEV": ("standard_deviations", "{stddev}"),
}
ARBITRARY = "[arb'U]"


def modality_scale(dataset: Dataset, frame: int) -> Scale | None:
    """The modality transformation of a frame (PS3.3 C.11.1; C.7.6.16.2.9 by frame); None where there is none.

    Raises:
        ValueMeaningError: it is there and incomplete, or its numbers cannot be read.
    """
    modality = word(dataset, "Modality")
    tables = items(dataset, "ModalityLUTSequence")
    group = frame_group(dataset, frame, "PixelValueTransformationSequence")
    if tables and "RescaleSlope" not in group:
        return _table_scale(dataset, tables[0], modality)
    slope, intercept = number(group, "RescaleSlope"), number(group, "RescaleIntercept")
    if slope is None and intercept is None:
        return None
    if slope is None or intercept is None:
        missing = "RescaleSlope" if slope is None else "RescaleIntercept"
        raise ValueMeaningError(f"expected RescaleSlope and RescaleIntercept together; {missing} is missing")
    if slope == 0:
        raise ValueMeaningError("expected a RescaleSlope other than 0; found 0, which gives every pixel one value")
    kind = word(group, "RescaleType")
    quantity, unit, how = _meaning(dataset, frame, modality, kind)
    return Scale(quantity, unit, how, (Piece(slope=slope, intercept=intercept),))


def _meaning(dataset: Dataset, frame: int, modality: str, kind: str) -> tuple[str, str, str]:
    """Quantity, unit and explanation of what Rescale Slope and Intercept give."""
    how = "RescaleSlope, RescaleIntercept"
    if modality == "CT":
        return _ct_meaning(dataset, frame, kind)
    if kind in _RESCALE_TYPES:
        return *_RESCALE_TYPES[kind], f"{how}, RescaleType {kind} (PS3.3 C.11.1.1.2)"
    if modality == "PT":
        units = word(dataset, "Units")
        if units == "GML":
            suv = SUV_TYPES.get(word(dataset, "SUVType") or "BW")
            if suv is not None:
                return suv, KINDS[suv], f"{how}, Units GML, SUVType (PS3.3 C.8.9.1, C.8.9.1.1.3)"
        elif units in _PET_UNITS:
            return *_PET_UNITS[units], f"{how}, Units {units} (PS3.3 C.8.9.1.1.3)"
        return "rescaled", ARBITRARY, f"{how}; Units is missing or unknown (PS3.3 C.8.9.1)"
    if modality == "NM":
        return "counts", "{counts}", f"{how} (PS3.3 C.8.4.9)"
    quantity = "signal" if modality == "MR" else "rescaled"
    return quantity, ARBITRARY, f"{how}, no unit (PS3.3 C.11.1)"


def _ct_meaning(dataset: Dataset, frame: int, kind: str) -> tuple[str, str, str]:
    """CT gives HU unless it is derived or a localizer and says otherwise (PS3.3 C.8.2.1, C.8.15.3.10)."""
    how = "RescaleSlope, RescaleIntercept"
    image_type = words(frame_group(dataset, frame, "CTImageFrameTypeSequence"), "FrameType")
    image_type = image_type or words(dataset, "ImageType")
    multi_energy = word(dataset, "MultienergyCTAcquisition") == "YES"
    if "LOCALIZER" in image_type:
        return "rescaled", ARBITRARY, f"{how}; a localizer is a projection and has no HU (PS3.3 C.8.2.1)"
    if image_type[:1] == ["ORIGINAL"] and not multi_energy:
        return "hu", "[hnsf'U]", f"{how}, ImageType ORIGINAL (PS3.3 C.8.2.1)"
    if kind in _RESCALE_TYPES:
        return *_RESCALE_TYPES[kind], f"{how}, RescaleType {kind} (PS3.3 C.11.1.1.2)"
    if not kind:
        return "hu", "[hnsf'U]", f"{how}, RescaleType absent means HU (PS3.3 C.8.2.1)"
    return "rescaled", ARBITRARY, f"{how}, RescaleType unspecified and ImageType not ORIGINAL (PS3.3 C.8.2.1)"


def _table_scale(dataset: Dataset, table: Dataset, modality: str) -> Scale:
    signed = number(dataset, "PixelRepresentation") == 1
    descriptor = lut_descriptor(table, "LUTDescriptor", signed=signed)
    entries = lut_data(table, "LUTData", descriptor).astype(np.float64)
    kind = word(table, "ModalityLUTType")
    quantity, unit = _RESCALE_TYPES.get(kind, ("hu", "[hnsf'U]") if modality == "CT" and not kind else ("", ""))
    how = f"ModalityLUTSequence, ModalityLUTType {kind or 'absent'} (PS3.3 C.11.1)"
    return Scale(quantity or "rescaled", unit or ARBITRARY, how, (Piece(table=entries, first=descriptor.first),))


def real_world_scales(dataset: Dataset, frame: int) -> dict[str, Scale]:
    """The real-world value mappings of a frame, by quantity (PS3.3 C.7.6.16.2.11).

    Items with one label and unit that cover different stored values are pieces of one scale. The quantity is ``rwv``
    where there is one scale, else ``rwv:`` and the LUT Label (or the position, from 0).

    Raises:
        ValueMeaningError: a mapping without its numbers.
    """
    signed = number(dataset, "PixelRepresentation") == 1
    grouped: dict[tuple[str, str], list[Piece]] = {}
    for item in frame_items(dataset, frame, "RealWorldValueMappingSequence"):
        codes = items(item, "MeasurementUnitsCodeSequence")
        unit = str(value(codes[0], "CodeValue") or "") if codes else ""
        label = str(value(item, "LUTLabel") or "").strip()
        grouped.setdefault((label, unit or "1"), []).append(_real_world_piece(item, signed))
    scales: dict[str, Scale] = {}
    for place, ((label, unit), pieces) in enumerate(grouped.items()):
        quantity = "rwv" if len(grouped) == 1 else f"rwv:{label or place}"
        if quantity in scales:
            quantity = f"rwv:{place}"
        how = "RealWorldValueMappingSequence (PS3.3 C.7.6.16.2.11)"
        scales[quantity] = Scale(quantity, unit, how, tuple(pieces))
    return scales


def _real_world_piece(item: Dataset, signed: bool) -> Piece:
    low, high = (_mapped(item, end, signed) for end in ("First", "Last"))
    data = numbers(item, "RealWorldValueLUTData")
    if data:
        return Piece(low, high, table=np.array(data), first=int(low))
    slope, intercept = number(item, "RealWorldValueSlope"), number(item, "RealWorldValueIntercept")
    if slope is None or intercept is None:
        raise ValueMeaningError(
            "expected RealWorldValueSlope and RealWorldValueIntercept, or RealWorldValueLUTData, in an item of "
            "RealWorldValueMappingSequence; found neither"
        )
    return Piece(low, high, slope=slope, intercept=intercept)


def _mapped(item: Dataset, end: str, signed: bool) -> float:
    double = number(item, f"DoubleFloatRealWorldValue{end}ValueMapped")
    if double is not None:
        return double
    whole = number(item, f"RealWorldValue{end}ValueMapped")
    if whole is None:
        raise ValueMeaningError(f"expected RealWorldValue{end}ValueMapped in a real-world value mapping; found none")
    if signed and whole > 32767:
        return whole - 65536
    return whole + 65536 if not signed and whole < 0 else whole


def philips_scale(dataset: Dataset, frame: int) -> Scale | None:
    """Philips MR floating-point values FP = (stored x RS + RI) / (RS x SS); None where there is no Scale Slope.

    RS and RI are Rescale Slope and Intercept, SS the private Scale Slope (2005,xx0E) of "Philips MR Imaging DD 001".
    Unlike the rescaled values they compare between series of one patient (Chenevert et al. 2014).
    """
    place = dataset
    creator = "Philips MR Imaging DD 001"
    for where in (items(dataset, "PerFrameFunctionalGroupsSequence")[frame : frame + 1], [dataset]):
        for group in where:
            nested = private(group, 0x2005, "Philips MR Imaging DD 005", 0x0F)
            place = nested[0] if nested is not None and len(nested) else group
            scale_slope = private(place, 0x2005, creator, 0x0E)
            if scale_slope is not None:
                return _philips(dataset, frame, scale_slope)
    return None


def _philips(dataset: Dataset, frame: int, scale_slope: Any) -> Scale:
    try:
        ss = float(scale_slope[0] if isinstance(scale_slope, list) else scale_slope)
    except (TypeError, ValueError):
        ss = 0.0
    if not np.isfinite(ss) or ss == 0:
        raise ValueMeaningError("expected a Philips Scale Slope (2005,xx0E) other than 0; found something else")
    base = modality_scale(dataset, frame)
    piece = base.pieces[0] if base and base.pieces[0].table is None else Piece()
    scaled = Piece(slope=1 / ss, intercept=piece.intercept / (piece.slope * ss))
    how = "RescaleSlope, RescaleIntercept, private Scale Slope (2005,xx0E) of Philips MR Imaging DD 001"
    return Scale("philips_fp", ARBITRARY, how, (scaled,))


# Spellings of the unit of diffusion in Rescale Type, and what one of them is in mm2/s.
_DIFFUSION_UNITS = {"MM2/S": 1.0, "10^-3 MM2/S": 1e-3, "10-3MM2/S": 1e-3, "10^-6 MM2/S": 1e-6, "10-6MM2/S": 1e-6}
_DIFFUSION_UNITS |= {"UM2/S": 1e-6, "UM2/MS": 1e-3}


def is_adc(dataset: Dataset, frame: int) -> bool:
    """Is this frame a map of the apparent diffusion coefficient, by its image type?"""
    if word(dataset, "Modality") != "MR":
        return False
    kinds = words(dataset, "ImageType") + words(frame_group(dataset, frame, "MRImageFrameTypeSequence"), "FrameType")
    return any(kind == "ADC" or kind.startswith(("ADC_", "ADC ")) for kind in kinds)


def adc_scale(dataset: Dataset, frame: int) -> Scale:
    """Apparent diffusion coefficient in mm2/s.

    The unit is what Rescale Type says; without it Siemens and GE store 10^-6 mm2/s. Nothing is assumed of others.

    Raises:
        ValueMeaningError: the unit is nowhere.
    """
    base = modality_scale(dataset, frame) or STORED
    stated = word(frame_group(dataset, frame, "PixelValueTransformationSequence"), "RescaleType")
    if stated in _DIFFUSION_UNITS:
        how = f"RescaleType {stated} (PS3.3 C.11.1.1.2)"
        return base.times(_DIFFUSION_UNITS[stated], "adc", "mm2/s", how)
    maker = word(dataset, "Manufacturer")
    piece = base.pieces[0]
    plain = piece.table is None and piece.slope == 1 and piece.intercept == 0
    if plain and maker.startswith(("SIEMENS", "GE MEDICAL", "GE HEALTHCARE")):
        return base.times(1e-6, "adc", "mm2/s", "Manufacturer: 10^-6 mm2/s by its convention")
    raise ValueMeaningError(
        "expected the unit of an ADC map in RescaleType or RealWorldValueMappingSequence; both are missing, and no "
        "convention of its manufacturer is certain"
    )
