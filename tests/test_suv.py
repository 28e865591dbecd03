"""SUV against digital reference objects made here, one for each branch, with the arithmetic written out.

Unless a test says otherwise: 370 MBq of fluorine-18 with a half-life of 6,600 s (110 min, so that the numbers come out
round), injected at 10:00:00; 74 kg, 1.80 m, male. After one half-life 185 MBq are left:

    SUVbw factor = 74,000 g / 185,000,000 Bq = 0.0004 g/Bq
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from dcmark.errors import ValueMeaningError
from dcmark.read.pixels import physical, quantities
from dcmark.read.suv import KINDS, scan_start, suv_factor

DRUG = {
    "RadionuclideTotalDose": "370000000",
    "RadionuclideHalfLife": "6600",
    "RadiopharmaceuticalStartTime": "100000",
}


def a_pet(drug: dict[str, Any] | None = None, **changes: Any) -> Dataset:
    """A PET header; None takes an attribute away."""
    values: dict[str, Any] = {
        "Modality": "PT",
        "Units": "BQML",
        "CorrectedImage": ["DECY", "ATTN", "SCAT"],
        "DecayCorrection": "START",
        "SeriesDate": "20240501",
        "SeriesTime": "115000",  # one half-life after the injection
        "AcquisitionDate": "20240501",
        "AcquisitionTime": "115000",
        "PatientWeight": "74",
        "PatientSize": "1.80",
        "PatientSex": "M",
        "RescaleSlope": "2",
        "RescaleIntercept": "0",
    }
    dataset, item = Dataset(), Dataset()
    for keyword, value in (values | changes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    for keyword, value in (DRUG | (drug or {})).items():
        if value is not None:
            setattr(item, keyword, value)
    dataset.RadiopharmaceuticalInformationSequence = [item]
    return dataset


def test_activity_decays_from_injection_to_the_start_of_the_series() -> None:
    assert suv_factor(a_pet()).factor == pytest.approx(0.0004, rel=1e-12)


def test_values_are_stored_times_slope_times_factor() -> None:
    # 5,000 stored x 2 = 10,000 Bq/ml; x 0.0004 g/Bq = 4 g/ml
    found = physical(np.array([[5000, 0]], np.int16), a_pet(), quantity="suvbw")
    np.testing.assert_allclose(found.values, [[4.0, 0.0]], rtol=1e-6)
    assert (found.quantity, found.unit) == ("suvbw", "g/ml{SUVbw}")
    for word in ("PatientWeight", "RadionuclideTotalDose", "RadionuclideHalfLife", "SeriesTime", "Units BQML"):
        assert word in found.how
    assert "74" not in found.how


def test_unasked_a_pet_gives_what_its_units_say() -> None:
    found = physical(np.array([[5000]], np.int16), a_pet())
    assert (found.quantity, found.unit, float(found.values[0, 0])) == ("bqml", "Bq/ml", 10000.0)
    assert quantities(a_pet()) == ["bqml", *KINDS, "stored"]
    assert quantities(a_pet(PatientWeight=None, PatientSex=None)) == ["bqml", "stored"]
    # Ideal body weight needs no weight, but size and sex.
    assert quantities(a_pet(PatientWeight=None)) == ["bqml", "suvibw", "stored"]


# Body measures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sex", "measure"),
    [
        # James 1976 with 128: 1.10 x 74 - 128 x (74/180)^2 = 81.4 - 21.6336 = 59.7664 kg
        ("suvlbm_james128", "M", 59_766.419753),
        # with 120, as the standard's SUVlbm: 81.4 - 20.2815 = 61.1185 kg
        ("suvlbm", "M", 61_118.518519),
        # 1.07 x 74 - 148 x (74/180)^2 = 79.18 - 25.0138 = 54.1662 kg
        ("suvlbm", "F", 54_166.172840),
        ("suvlbm_james128", "F", 54_166.172840),
        # Janmahasatian 2005, BMI = 74/1.8^2 = 22.8395: 9270 x 74 / (6680 + 216 x 22.8395) = 685980/11613.333 kg
        ("suvlbm_janma", "M", 59_068.312285),
        # 685980 / (8780 + 244 x 22.8395) = 685980/14352.840 kg
        ("suvlbm_janma", "F", 47_794.0270),
        # Sugawara 1999: 48.0 + 1.06 x (180 - 152) = 77.68 kg; 45.5 + 0.91 x 28 = 70.98 kg
        ("suvibw", "M", 77_680.0),
        ("suvibw", "F", 70_980.0),
        # Du Bois: 0.007184 x 74^0.425 x 180^0.725 = 1.931... m2, in cm2
        ("suvbsa", "M", 0.007184 * 74**0.425 * 180**0.725 * 1e4),
    ],
)
def test_body_measures(kind: str, sex: str, measure: float) -> None:
    factor = suv_factor(a_pet(PatientSex=sex), kind)
    assert factor.factor == pytest.approx(measure / 185e6, rel=1e-6)
    assert factor.unit == KINDS[kind]


def test_du_bois_by_hand() -> None:
    # ln 74 = 4.30407, x 0.425 = 1.82923; ln 180 = 5.19296, x 0.725 = 3.76489; e^5.59412 = 268.84; x 0.007184 = 1.9313
    assert suv_factor(a_pet(), "suvbsa").factor * 185e6 == pytest.approx(19_313, rel=1e-3)


# Which time -----------------------------------------------------------------------------------------------------------


def test_values_decayed_to_the_administration_need_no_time() -> None:
    # 74,000 / 370,000,000 = 0.0002
    header = a_pet({"RadiopharmaceuticalStartTime": None, "RadionuclideHalfLife": None}, DecayCorrection="ADMIN")
    assert suv_factor(header).factor == pytest.approx(0.0002, rel=1e-12)


def test_values_not_decay_corrected_refer_to_the_middle_of_the_counts() -> None:
    # Frame of one half-life: the mean count rate occurs at T/ln2 x ln(ln2 / (1 - 1/2)) = T x ln(1.386294)/0.693147
    # = 6600 x 0.326634/0.693147 = 3110.14 s. From 10:00 to 11:50 + 3110.14 s: 2^-(1 + 0.471234) of the dose is left:
    # 370e6 x 0.360674 = 133.449e6; 74,000 / 133.449e6 = 5.54518e-4
    header = a_pet(DecayCorrection="NONE", CorrectedImage=["ATTN"], ActualFrameDuration="6600000")
    assert suv_factor(header).factor == pytest.approx(5.54518e-4, rel=1e-5)
    # A short frame: its middle. 2 s after the half-life: 2^-(1 + 1/6600) to first order.
    short = a_pet(DecayCorrection="NONE", CorrectedImage=["ATTN"], ActualFrameDuration="2000")
    assert suv_factor(short).factor == pytest.approx(0.0004 * 2 ** (1 / 6600), rel=1e-8)


def test_a_derived_series_of_ge_keeps_the_scan_in_a_private_element() -> None:
    header = a_pet(SeriesTime="160000", Manufacturer="GE MEDICAL SYSTEMS")
    block = header.private_block(0x0009, "GEMS_PETD_01", create=True)
    block.add_new(0x0D, "DT", "20240501115000.00")
    found = suv_factor(header)
    assert found.factor == pytest.approx(0.0004, rel=1e-12)
    assert "GEMS_PETD_01" in found.how


def test_a_derived_series_of_siemens_is_traced_back_by_its_frames() -> None:
    # A frame of 600 s (decay 600/6600 x ln2 = 0.0630134), whose mean count rate occurs
    # ln(0.0630134/(1 - e^-0.0630134)) / (ln2/6600) = 0.0313413/1.050223e-4 = 298.425 s after its start, and which by
    # FrameReferenceTime lies 898.425 s after the start of the scan. So the frame began 600 s after the scan:
    # acquisition 12:00:00 means a scan from 11:50:00.
    header = a_pet(
        SeriesTime="160000",
        AcquisitionTime="120000",
        FrameReferenceTime="898425.4",
        ActualFrameDuration="600000",
        Manufacturer="SIEMENS",
    )
    found = suv_factor(header)
    assert found.factor == pytest.approx(0.0004, rel=1e-6)
    assert "FrameReferenceTime" in found.how


def test_a_scan_may_begin_before_the_acquisition_of_a_bed() -> None:
    # Bed 4 of a whole-body scan: acquired 12 min after the start, decay-corrected to the start.
    assert suv_factor(a_pet(AcquisitionTime="120200")).factor == pytest.approx(0.0004, rel=1e-12)


def test_a_stated_time_of_decay_correction_comes_first() -> None:
    header = a_pet(SeriesTime="160000", DecayCorrectionDateTime="20240501115000")
    assert suv_factor(header).factor == pytest.approx(0.0004, rel=1e-12)


def test_the_start_of_the_series_may_be_known_from_its_other_slices() -> None:
    series = [a_pet(AcquisitionTime=time) for time in ("115000", "115400", "115800")]
    start = scan_start(series)
    assert start == datetime(2024, 5, 1, 11, 50)  # noqa: DTZ001
    late = a_pet(SeriesTime="115500", AcquisitionTime="115800")
    assert scan_start([*series, late]) is None  # not one series time
    assert scan_start([a_pet(SeriesTime="115100"), a_pet(SeriesTime="115100", AcquisitionTime="120000")]) is None
    assert suv_factor(late, series_start=start).factor == pytest.approx(0.0004, rel=1e-12)


def test_over_midnight() -> None:
    # Injected 23:00, scanned 00:50 the next day: 6,600 s. The time alone belongs to the evening before.
    night = {"SeriesDate": "20240502", "AcquisitionDate": "20240502", "SeriesTime": "005000"}
    header = a_pet({"RadiopharmaceuticalStartTime": "230000"}, AcquisitionTime="005000", **night)
    assert suv_factor(header).factor == pytest.approx(0.0004, rel=1e-12)
    full = {"RadiopharmaceuticalStartDateTime": "20240501230000.000000", "RadiopharmaceuticalStartTime": None}
    assert suv_factor(a_pet(full, AcquisitionTime="005000", **night)).factor == pytest.approx(0.0004, rel=1e-12)


def test_an_offset_from_utc_is_taken_to_the_time_zone_of_the_header() -> None:
    # 08:00 UTC is 10:00 in the +0200 of the header.
    drug = {"RadiopharmaceuticalStartDateTime": "20240501080000+0000"}
    assert suv_factor(a_pet(drug, TimezoneOffsetFromUTC="+0200")).factor == pytest.approx(0.0004, rel=1e-12)


def test_days_matter_for_long_half_lives() -> None:
    zirconium = {"RadionuclideHalfLife": "282240", "RadionuclideTotalDose": "37000000"}  # 78.4 h
    with pytest.raises(ValueMeaningError, match="RadiopharmaceuticalStartDateTime"):
        suv_factor(a_pet(zirconium))
    # Injected 3 days before: 74,000 / (37e6 x 2^-(259200/282240)); 2^-0.918367 = 0.529109
    dated = zirconium | {"RadiopharmaceuticalStartDateTime": "20240428115000"}
    assert suv_factor(a_pet(dated)).factor == pytest.approx(74_000 / (37e6 * 0.529109), rel=1e-5)


# Units ----------------------------------------------------------------------------------------------------------------


def test_counts_of_philips_with_a_factor_to_suv() -> None:
    header = a_pet(Units="CNTS")
    block = header.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x00, "DS", "0.00075")
    # 5,000 x 2 counts x 0.00075 = 7.5 g/ml
    found = physical(np.array([[5000]], np.int16), header, quantity="suvbw")
    assert float(found.values[0, 0]) == pytest.approx(7.5)
    # By lean body mass: x 61.118519/74
    assert suv_factor(header, "suvlbm").factor == pytest.approx(0.00075 * 61.118519 / 74, rel=1e-6)


def test_counts_of_philips_with_a_factor_to_activity() -> None:
    header = a_pet(Units="CNTS")
    block = header.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x00, "DS", "0")  # Philips writes 0 where it is not known
    block.add_new(0x09, "DS", "3.5")
    assert suv_factor(header).factor == pytest.approx(3.5 * 0.0004, rel=1e-12)


def test_the_private_element_is_found_by_its_creator_not_by_its_number() -> None:
    header = a_pet(Units="CNTS")
    header.private_block(0x7053, "Somebody Else", create=True).add_new(0x00, "DS", "9")
    header.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x00, "DS", "0.5")
    assert header[0x7053, 0x1000].value == 9
    assert suv_factor(header).factor == 0.5


def test_images_in_grams_per_millilitre_are_suv_already() -> None:
    header = a_pet(Units="GML", CorrectedImage=None, PatientWeight=None)
    assert suv_factor(header).factor == 1.0
    assert physical(np.array([[3]], np.int16), header).quantity == "suvbw"
    lean = a_pet(Units="GML", SUVType="LBM")
    assert physical(np.array([[3]], np.int16), lean).quantity == "suvlbm"
    assert suv_factor(lean, "suvbw").factor == pytest.approx(74 / 61.118519, rel=1e-6)
    exact = a_pet(Units="GML", SUVType="LBMJAMES128")
    assert physical(np.array([[3]], np.int16), exact).unit == "g/ml{SUVlbm(James128)}"
    assert suv_factor(exact, "suvbw").factor == pytest.approx(74 / 59.766420, rel=1e-6)
    assert suv_factor(exact, "suvlbm").factor == pytest.approx(61.118519 / 59.766420, rel=1e-6)
    surface = a_pet(Units="CM2ML")
    assert suv_factor(surface, "suvbsa").factor == 1.0
    assert suv_factor(surface, "suvbw").factor == pytest.approx(74_000 / 19_313, rel=1e-3)


def test_enhanced_pet_through_its_real_world_mapping() -> None:
    header = a_pet(Units=None, DecayCorrection=None, RescaleSlope=None, RescaleIntercept=None, CorrectedImage=None)
    mapping, unit = Dataset(), Dataset()
    unit.CodeValue = "Bq/ml"
    mapping.MeasurementUnitsCodeSequence = [unit]
    mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = 0, 32767
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 2.0, 0.0
    header.RealWorldValueMappingSequence = [mapping]
    header.DecayCorrected, header.AttenuationCorrected = "YES", "YES"
    header.DecayCorrectionDateTime = "20240501115000"
    found = physical(np.array([[5000]], np.int16), header, quantity="suvbw")
    assert float(found.values[0, 0]) == pytest.approx(4.0)


@pytest.mark.parametrize("code", ["g/ml{SUVbw}", "{SUVbw}g/ml"])
def test_a_real_world_mapping_may_give_an_uptake_itself(code: str) -> None:
    header = a_pet(Units=None, DecayCorrection=None, RescaleSlope=None, RescaleIntercept=None, CorrectedImage=None)
    mapping, unit = Dataset(), Dataset()
    unit.CodeValue = code
    mapping.MeasurementUnitsCodeSequence = [unit]
    mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = 0, 32767
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 0.001, 0.0
    header.RealWorldValueMappingSequence = [mapping]
    stored = np.array([[5000]], np.int16)
    assert float(physical(stored, header, quantity="suvbw").values[0, 0]) == pytest.approx(5.0)
    # by ideal weight: x 77.68/74
    ideal = physical(stored, header, quantity="suvibw")
    assert float(ideal.values[0, 0]) == pytest.approx(5.0 * 77.68 / 74) and ideal.unit == "g/ml{SUVibw}"


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drug", "changes", "names"),
    [
        ({}, {"Units": None}, "Units"),
        ({}, {"Units": "CNTS"}, r"\(7053,xx00\)"),
        ({}, {"Units": "PROPCPS"}, "Units"),
        ({}, {"Units": "GML", "SUVType": "XXX"}, "SUVType"),
        ({}, {"CorrectedImage": None}, "CorrectedImage"),
        ({}, {"CorrectedImage": ["DECY"]}, "ATTN"),
        ({}, {"CorrectedImage": ["ATTN"]}, "DECY"),
        ({}, {"DecayCorrection": None}, "DecayCorrection"),
        ({}, {"SeriesTime": None, "AcquisitionTime": None}, "SeriesTime"),
        ({}, {"AcquisitionTime": None}, "AcquisitionTime"),
        ({}, {"SeriesTime": "160000"}, "FrameReferenceTime"),
        ({}, {"SeriesTime": "160000", "FrameReferenceTime": "0"}, "ActualFrameDuration"),
        ({}, {"PatientWeight": None}, "PatientWeight"),
        ({}, {"PatientWeight": "0"}, "PatientWeight in kg"),
        ({}, {"PatientWeight": "74000"}, "PatientWeight in kg"),
        ({"RadionuclideTotalDose": None}, {}, "RadionuclideTotalDose"),
        ({"RadionuclideTotalDose": "370"}, {}, "RadionuclideTotalDose in Bq"),
        ({"RadionuclideHalfLife": None}, {}, "RadionuclideHalfLife"),
        ({"RadiopharmaceuticalStartTime": None}, {}, "RadiopharmaceuticalStartTime"),
        ({"RadiopharmaceuticalStartTime": "25"}, {}, "RadiopharmaceuticalStartTime"),
        ({"RadiopharmaceuticalStartDateTime": "20240501130000"}, {}, "RadiopharmaceuticalStartDateTime"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR TM")
def test_what_is_missing_is_named(drug: dict[str, Any], changes: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueMeaningError, match=f"expected.*{names}"):
        suv_factor(a_pet(drug, **changes))


def test_size_and_sex_are_needed_only_where_they_are_used() -> None:
    header = a_pet(PatientSize=None, PatientSex=None)
    assert suv_factor(header).factor == pytest.approx(0.0004)
    for kind in ("suvlbm", "suvlbm_james128", "suvlbm_janma", "suvbsa", "suvibw"):
        with pytest.raises(ValueMeaningError, match="PatientSize"):
            suv_factor(header, kind)
    with pytest.raises(ValueMeaningError, match="PatientSize in m"):
        suv_factor(a_pet(PatientSize="180"), "suvbsa")
    with pytest.raises(ValueMeaningError, match="PatientSex"):
        suv_factor(a_pet(PatientSex="O"), "suvlbm")


def test_several_tracers_are_not_guessed_between() -> None:
    header = a_pet()
    header.RadiopharmaceuticalInformationSequence = list(header.RadiopharmaceuticalInformationSequence) * 2
    with pytest.raises(ValueMeaningError, match="RadiopharmaceuticalInformationSequence"):
        suv_factor(header)


def test_no_value_of_the_patient_stands_in_a_message() -> None:
    with pytest.raises(ValueMeaningError) as error:
        suv_factor(a_pet(PatientWeight="9876"))
    assert "9876" not in str(error.value)


@given(st.integers(0, 23 * 3600), st.floats(60, 40_000), st.floats(30, 200))
def test_later_scans_of_one_injection_give_larger_factors(delay: int, half_life: float, weight: float) -> None:
    at = f"{10 + delay // 3600:02d}{delay // 60 % 60:02d}{delay % 60:02d}"
    if delay >= 14 * 3600:
        return  # the next day
    drug = {"RadionuclideHalfLife": f"{half_life:.6g}"}
    header = a_pet(drug, SeriesTime=at, AcquisitionTime=at, PatientWeight=f"{weight:.6g}")
    expected = float(f"{weight:.6g}") * 1000 / (370e6 * 2 ** (-delay / float(f"{half_life:.6g}")))
    if math.isfinite(expected) and delay / half_life < 900:
        assert suv_factor(header).factor == pytest.approx(expected, rel=1e-9)
