"""Standardised uptake values of PET (PS3.3 C.8.9, PS3.16 CID 84; the conventions of QIBA and of the vendors).

    SUV = activity concentration x body measure / injected activity at the time the pixel values refer to

Which time that is, is where programs differ, and a wrong one is off by a third after an hour of fluorine-18:

- Decay Correction ADMIN: the time of injection; nothing decays.
- DecayCorrectionDateTime (enhanced objects, some vendors): just that time.
- Decay Correction START: the start of the scan. By the standard that is Series Date and Time. Derived series carry the
  time of their making there, which is later than the acquisition; then GE states the scan's start in a private element,
  and for the others it is Acquisition Date and Time - Frame Reference Time + the time in the frame at which the mean
  count rate occurs.
- Decay Correction NONE: the values are those of the frame itself: acquisition + the time of the mean count rate.

Nothing missing is assumed: a ValueMeaningError names the attribute.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from dcmark.errors import ValueMeaningError
from dcmark.read.attributes import frame_group, items, number, private, value, word, words

if TYPE_CHECKING:
    from pydicom import Dataset

KINDS = {
    "suvbw": "g/ml{SUVbw}",
    "suvlbm": "g/ml{SUVlbm}",
    "suvlbm_james128": "g/ml{SUVlbm(James128)}",
    "suvlbm_janma": "g/ml{SUVlbm(Janma)}",
    "suvbsa": "cm2/ml{SUVbsa}",
    "suvibw": "g/ml{SUVibw}",
}
"""Kinds of SUV and their units (PS3.16 CID 84, 85): by body weight; by lean body mass after James, for men with the
factor 120 that most programs use and the standard calls SUVlbm, and with the factor 128 that James gave; by lean body
mass after Janmahasatian; by body surface area (Du Bois); by ideal body weight."""

SUV_TYPES = {
    "BW": "suvbw",
    "LBM": "suvlbm",
    "LBMJAMES128": "suvlbm_james128",
    "LBMJANMA": "suvlbm_janma",
    "BSA": "suvbsa",
    "IBW": "suvibw",
}
"""SUV Type (PS3.3 C.8.9.1) of images whose Units are GML; BW where it is absent."""

_AMBIGUOUS_HALF_LIFE = 12 * 3600.0  # s; from here on a start given without a date may be days back
_PLAUSIBLE = {
    "PatientWeight": (0.005, 700.0, "kg"),
    "PatientSize": (0.2, 2.8, "m"),
    "RadionuclideTotalDose": (1e4, 1e11, "Bq"),
    "RadionuclideHalfLife": (20.0, 1e9, "s"),
}


class Factor(NamedTuple):
    """What values in the header's Units are multiplied with to give an SUV, and by which attributes."""

    factor: float
    unit: str
    how: str


def suv_factor(
    dataset: Dataset,
    kind: str = "suvbw",
    frame: int = 0,
    *,
    units: str | None = None,
    series_start: datetime | None = None,
) -> Factor:
    """The factor from rescaled pixel values to SUV.

    Args:
        dataset: header of a PET image.
        kind: one of ``KINDS``.
        frame: number of the frame, from 0.
        units: of the values, where the header's Units does not say (``BQML`` for enhanced objects).
        series_start: start of the whole scan, from ``scan_start``; without it the instance has to tell by itself.

    Raises:
        ValueMeaningError: an attribute is missing or implausible; the message names it.
    """
    if kind not in KINDS:
        raise ValueMeaningError(f"expected a kind of SUV out of {', '.join(KINDS)}; found {kind!r}")
    units = units or word(dataset, "Units")
    if units == "GML":
        source = SUV_TYPES.get(word(dataset, "SUVType") or "BW")
        if source is None:
            raise ValueMeaningError("expected a known SUVType for Units GML; found another")
        return convert(dataset, source, kind, 1.0, "Units GML, SUVType (PS3.3 C.8.9.1)")
    if units == "CM2ML":
        return convert(dataset, "suvbsa", kind, 1.0, "Units CM2ML (PS3.3 C.8.9.1.1.3)")
    _expect_corrected(dataset, frame)
    if units == "CNTS":
        to_suv = _philips(dataset, 0x00)
        if to_suv:
            how = "private SUV Scale Factor (7053,xx00) of Philips PET Private Group"
            return convert(dataset, "suvbw", kind, to_suv, how)
        to_activity = _philips(dataset, 0x09)
        if not to_activity:
            raise ValueMeaningError(
                "expected Units BQML or GML, or Philips' private scale factors (7053,xx00) or (7053,xx09), for an "
                "SUV; found counts without them"
            )
        how = "private Activity Concentration Scale Factor (7053,xx09) of Philips PET Private Group"
    elif units == "BQML":
        to_activity, how = 1.0, "Units BQML"
    else:
        raise ValueMeaningError(f"expected Units of BQML, CNTS, GML or CM2ML for an SUV; found {units or 'none'}")
    dose, dose_how = _dose_at_reference(dataset, frame, series_start)
    measure, measure_how = _body(dataset, kind)
    return Factor(to_activity * measure / dose, KINDS[kind], f"{how}, {dose_how}, {measure_how} (PS3.3 C.8.9)")


def convert(dataset: Dataset, source: str, kind: str, factor: float, how: str) -> Factor:
    """The factor from one kind of SUV to another: the ratio of the body measures.

    Args:
        source: the kind that values times ``factor`` are.
        kind: the one that is wanted.
        how: where the source comes from.

    Raises:
        ValueMeaningError: an attribute is missing or implausible; the message names it.
    """
    if source != kind:
        measure, measure_how = _body(dataset, kind)
        factor *= measure / _body(dataset, source)[0]
        how = f"{how}, {measure_how}"
    return Factor(factor, KINDS[kind], how)


def _expect_corrected(dataset: Dataset, frame: int) -> None:
    """Only attenuation-corrected images have an SUV."""
    corrected = words(dataset, "CorrectedImage")
    enhanced = word(frame_group(dataset, frame, "PETFrameCorrectionFactorsSequence"), "AttenuationCorrected")
    enhanced = enhanced or word(dataset, "AttenuationCorrected")
    if "ATTN" in corrected or enhanced == "YES":
        return
    if not corrected and not enhanced:
        raise ValueMeaningError("expected CorrectedImage with ATTN for an SUV; CorrectedImage is missing")
    raise ValueMeaningError("expected CorrectedImage with ATTN for an SUV; this image is not attenuation-corrected")


def _philips(dataset: Dataset, element: int) -> float:
    found = private(dataset, 0x7053, "Philips PET Private Group", element)
    try:
        factor = float(found)
    except (TypeError, ValueError):
        return 0.0
    return factor if math.isfinite(factor) and factor > 0 else 0.0


def _needed(dataset: Dataset, keyword: str, where: str = "") -> float:
    found = number(dataset, keyword)
    if found is None:
        raise ValueMeaningError(f"expected {keyword}{where} for an SUV; it is missing")
    low, high, unit = _PLAUSIBLE[keyword]
    if not low <= found <= high:
        # The value itself is the patient's and stays out of the message.
        raise ValueMeaningError(f"expected {keyword} in {unit}, from {low:g} to {high:g}; found a value outside")
    return found


# Body measures ---------------------------------------------------------------------------------------------------


def _body(dataset: Dataset, kind: str) -> tuple[float, str]:
    """The body measure of a kind of SUV in g (cm2 for suvbsa) and the attributes it needs."""
    if kind == "suvibw":
        size, male = _needed(dataset, "PatientSize") * 100, _male(dataset)
        measure = 48.0 + 1.06 * (size - 152) if male else 45.5 + 0.91 * (size - 152)
        return _positive(measure * 1000, kind), "PatientSize, PatientSex"
    weight = _needed(dataset, "PatientWeight")
    if kind == "suvbw":
        return weight * 1000, "PatientWeight"
    size = _needed(dataset, "PatientSize") * 100
    if kind == "suvbsa":
        return 0.007184 * weight**0.425 * size**0.725 * 1e4, "PatientWeight, PatientSize"
    male = _male(dataset)
    if kind != "suvlbm_janma":
        men = 120 if kind == "suvlbm" else 128
        measure = (1.10 * weight if male else 1.07 * weight) - (men if male else 148) * (weight / size) ** 2
    else:
        index = weight / (size / 100) ** 2
        measure = 9270 * weight / (6680 + 216 * index if male else 8780 + 244 * index)
    return _positive(measure * 1000, kind), "PatientWeight, PatientSize, PatientSex"


def _positive(measure: float, kind: str) -> float:
    if measure <= 0:
        raise ValueMeaningError(f"expected a weight and size for which the formula of {kind} holds; it gives none")
    return measure


def _male(dataset: Dataset) -> bool:
    sex = word(dataset, "PatientSex")
    if sex not in ("M", "F"):
        raise ValueMeaningError("expected PatientSex M or F for this kind of SUV; found another or none")
    return sex == "M"


# Time ------------------------------------------------------------------------------------------------------------


def _dose_at_reference(dataset: Dataset, frame: int, series_start: datetime | None) -> tuple[float, str]:
    """Injected activity in Bq at the time the pixel values refer to."""
    drugs = items(dataset, "RadiopharmaceuticalInformationSequence")
    if not drugs:
        raise ValueMeaningError("expected RadiopharmaceuticalInformationSequence for an SUV; it is missing")
    if len(drugs) > 1:
        raise ValueMeaningError("expected one item of RadiopharmaceuticalInformationSequence; found several")
    drug = drugs[0]
    where = " in RadiopharmaceuticalInformationSequence"
    dose = _needed(drug, "RadionuclideTotalDose", where)
    group = frame_group(dataset, frame, "PETFrameCorrectionFactorsSequence")
    correction = word(dataset, "DecayCorrection")
    explicit = _datetime(dataset, "DecayCorrectionDateTime") or _datetime(group, "DecayCorrectionDateTime")
    if correction == "ADMIN":
        return dose, "RadionuclideTotalDose, DecayCorrection ADMIN"
    half_life = _needed(drug, "RadionuclideHalfLife", where)
    if correction == "NONE":
        reference, how = _frame_time(dataset, half_life), "DecayCorrection NONE, AcquisitionTime, ActualFrameDuration"
    elif explicit is not None and (correction == "START" or word(dataset, "DecayCorrected") == "YES"):
        reference, how = explicit, "DecayCorrectionDateTime"
    elif correction == "START":
        _expect_decay_corrected(dataset)
        reference, how = _start(dataset, half_life, series_start)
    else:
        raise ValueMeaningError(
            f"expected DecayCorrection of START, ADMIN or NONE for an SUV; found {correction or 'none'}"
        )
    started, start_how = _injection(dataset, drug, reference, half_life)
    elapsed = (reference - started).total_seconds()
    if elapsed < 0:
        raise ValueMeaningError("expected the injection before the scan; RadiopharmaceuticalStartDateTime is after it")
    how = f"RadionuclideTotalDose, RadionuclideHalfLife, {start_how}, {how}"
    return dose * 2 ** (-elapsed / half_life), how


def _expect_decay_corrected(dataset: Dataset) -> None:
    if "DECY" not in words(dataset, "CorrectedImage"):
        raise ValueMeaningError("expected DECY in CorrectedImage beside DecayCorrection START; it is missing")


def _start(dataset: Dataset, half_life: float, series_start: datetime | None) -> tuple[datetime, str]:
    """When the scan started."""
    if series_start is not None:
        return series_start, "DecayCorrection START, the start of the series"
    series, acquired = _moment(dataset, "Series"), _moment(dataset, "Acquisition")
    if series is None and acquired is None:
        raise ValueMeaningError("expected SeriesDate and SeriesTime for an SUV; they are missing")
    if series is not None and acquired is not None and series <= acquired:
        return series, "DecayCorrection START, SeriesTime"
    if series is not None and acquired is None:
        raise ValueMeaningError("expected AcquisitionDate and AcquisitionTime for an SUV; they are missing")
    scan = private(dataset, 0x0009, "GEMS_PETD_01", 0x0D)
    if scan is not None:
        found = _parse(str(scan), dataset)
        if found is None:
            raise ValueMeaningError("expected a date and time in GE's scan_datetime (0009,xx0D); found something else")
        return found, "DecayCorrection START, private scan date and time (0009,xx0D) of GEMS_PETD_01"
    offset = number(dataset, "FrameReferenceTime")
    if offset is None:
        raise ValueMeaningError(
            "expected FrameReferenceTime, because SeriesTime is later than AcquisitionTime (a derived series); it is "
            "missing"
        )
    reference = _frame_time(dataset, half_life) - timedelta(milliseconds=offset)
    return reference, "DecayCorrection START, AcquisitionTime, FrameReferenceTime, ActualFrameDuration"


def _frame_time(dataset: Dataset, half_life: float) -> datetime:
    """When the mean count rate of the frame occurs (PS3.3 C.8.9.4.1.5, example 2)."""
    acquired = _moment(dataset, "Acquisition")
    if acquired is None:
        raise ValueMeaningError("expected AcquisitionDate and AcquisitionTime for an SUV; they are missing")
    duration = number(dataset, "ActualFrameDuration")
    if duration is None or duration < 0:
        raise ValueMeaningError("expected ActualFrameDuration for an SUV; it is missing")
    rate = math.log(2) / half_life
    decayed = rate * duration / 1000
    mean = duration / 2000 if decayed < 1e-9 else math.log(decayed / -math.expm1(-decayed)) / rate
    return acquired + timedelta(seconds=mean)


def _injection(dataset: Dataset, drug: Dataset, reference: datetime, half_life: float) -> tuple[datetime, str]:
    """When the tracer was injected; a start without a date is the last one before the reference."""
    full = _datetime(drug, "RadiopharmaceuticalStartDateTime", dataset)
    if full is not None:
        return full, "RadiopharmaceuticalStartDateTime"
    time = _text(drug, "RadiopharmaceuticalStartTime")
    if not time:
        raise ValueMeaningError(
            "expected RadiopharmaceuticalStartDateTime or RadiopharmaceuticalStartTime for an SUV; both are missing"
        )
    if half_life > _AMBIGUOUS_HALF_LIFE:
        raise ValueMeaningError(
            "expected RadiopharmaceuticalStartDateTime: with a half-life above 12 hours the injection may lie days "
            "before the scan; only RadiopharmaceuticalStartTime is there"
        )
    started = _parse(reference.strftime("%Y%m%d") + time, dataset)
    if started is None:
        raise ValueMeaningError("expected a time in RadiopharmaceuticalStartTime; found something else")
    if started > reference:  # over midnight
        started -= timedelta(days=1)
    return started, "RadiopharmaceuticalStartTime"


def scan_start(datasets: Iterable[Dataset]) -> datetime | None:
    """Start of the scan of a whole series: for ``series_start`` of ``suv_factor``.

    Series Date and Time where no instance was acquired before it; None where it is not certain, so that every
    instance has to tell its own.
    """
    series: set[datetime] = set()
    acquired: list[datetime] = []
    for dataset in datasets:
        moments = _moment(dataset, "Series"), _moment(dataset, "Acquisition")
        if moments[0] is None or moments[1] is None:
            return None
        series.add(moments[0])
        acquired.append(moments[1])
    if len(series) != 1:
        return None
    (start,) = series
    return start if start <= min(acquired) else None


def _moment(dataset: Dataset, which: str) -> datetime | None:
    """``SeriesDate`` and ``SeriesTime``, or the same of the acquisition, as one local time."""
    both = _datetime(dataset, "AcquisitionDateTime") if which == "Acquisition" else None
    if both is not None:
        return both
    date, time = _text(dataset, f"{which}Date"), _text(dataset, f"{which}Time")
    return _parse(date + time, dataset) if date and time else None


def _text(dataset: Dataset, keyword: str) -> str:
    found = value(dataset, keyword)
    return "" if found is None else str(found).strip()


def _datetime(dataset: Dataset, keyword: str, root: Dataset | None = None) -> datetime | None:
    found = _text(dataset, keyword)
    return _parse(found, root if root is not None else dataset) if found else None


def _parse(text: str, dataset: Dataset) -> datetime | None:
    """A DICOM date with time as local time (PS3.5 6.2, DA, TM, DT); None where it is none.

    An offset from UTC in a DT is taken to the offset of the data set (TimezoneOffsetFromUTC), or taken off.
    """
    text = text.strip().replace(":", "")
    offset = ""
    for sign in "+-":
        body, found, tail = text.partition(sign)
        if found and len(tail) == 4 and tail.isdigit():
            text, offset = body, sign + tail
    whole, _, fraction = text.partition(".")
    if not whole.isdigit() or len(whole) not in (10, 12, 14) or not (fraction.isdigit() or not fraction):
        return None
    try:
        moment = datetime.strptime(whole.ljust(14, "0"), "%Y%m%d%H%M%S")  # noqa: DTZ007 (local by intent)
    except ValueError:
        return None
    moment += timedelta(microseconds=int((fraction + "000000")[:6]))
    zone = _text(dataset, "TimezoneOffsetFromUTC")
    if offset and zone:
        moment = moment.replace(tzinfo=_zone(offset)).astimezone(_zone(zone)).replace(tzinfo=None)
    return moment


def _zone(offset: Any) -> timezone:
    digits = str(offset).lstrip("+-").rjust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:4]) if digits.isdigit() else 0
    return timezone(timedelta(minutes=-minutes if str(offset).startswith("-") else minutes))
