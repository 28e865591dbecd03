"""Stored to physical values: the unit, the numbers, and refusals that name what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom import Dataset

import pixel_frames
from dcmark.errors import ValueMeaningError
from dcmark.read.pixels import physical, quantities, scale_of
from dcmark.read.ultrasound import us_regions


def a_header(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def a_ct(**changes: Any) -> Dataset:
    values = {
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PixelRepresentation": 1,
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
    }
    return a_header(**(values | changes))


def an_mr(**changes: Any) -> Dataset:
    return a_header(**({"Modality": "MR", "PixelRepresentation": 0} | changes))


STORED = np.array([[0, 1024, 2000]], np.int16)


# CT -------------------------------------------------------------------------------------------------------------------


def test_ct_gives_hounsfield_units() -> None:
    found = physical(STORED, a_ct())
    assert (found.quantity, found.unit) == ("hu", "[hnsf'U]")
    assert "RescaleSlope" in found.how and "PS3.3" in found.how
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values, [[-1024, 0, 976]])
    assert not found.mask.any()


@pytest.mark.parametrize(
    ("changes", "quantity"),
    [
        ({"RescaleType": "US"}, "hu"),  # an original CT is in HU, PS3.3 C.8.2.1; GE writes US
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}, "hu"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"], "RescaleType": "HU"}, "hu"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"], "RescaleType": "US"}, "rescaled"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "RescaleType": "HU"}, "rescaled"),
        ({"RescaleType": "Z_EFF", "MultienergyCTAcquisition": "YES"}, "effective_z"),
        ({"RescaleType": "MGML", "MultienergyCTAcquisition": "YES"}, "mg_per_ml"),
    ],
)
def test_what_a_ct_measures_depends_on_its_image_type(changes: dict[str, Any], quantity: str) -> None:
    assert scale_of(a_ct(**changes)).quantity == quantity


def test_a_ct_without_rescale_has_no_hounsfield_units() -> None:
    header = a_header(Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    assert quantities(header) == ["stored"]
    with pytest.raises(ValueMeaningError, match="RescaleSlope and RescaleIntercept"):
        physical(STORED, header, quantity="hu")
    header.RescaleSlope = "1"
    with pytest.raises(ValueMeaningError, match="RescaleIntercept is missing"):
        physical(STORED, header)
    assert quantities(header) == ["stored"]
    header.RescaleSlope, header.RescaleIntercept = "0", "-1024"
    with pytest.raises(ValueMeaningError, match="RescaleSlope other than 0"):
        physical(STORED, header)


def test_an_unknown_quantity_lists_the_known_ones() -> None:
    with pytest.raises(ValueMeaningError, match=r"hu, stored; found 'suvbw'.*Modality is not PT"):
        physical(STORED, a_ct(), quantity="suvbw")
    with pytest.raises(ValueMeaningError, match="DoseGridScaling"):
        physical(STORED, a_ct(), quantity="gy")


@given(
    arrays.arrays(
        st.sampled_from([np.int16, np.uint16, np.uint8, np.int8, np.int32, np.uint32]),
        st.tuples(st.just(3), st.just(4)),
    ),
    st.one_of(st.integers(-300, 300).filter(bool).map(float), st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-3)),
    st.one_of(st.integers(-5000, 5000).map(float), st.floats(-1e4, 1e4)),
)
def test_the_result_is_that_of_float64_arithmetic(stored: np.ndarray, slope: float, intercept: float) -> None:
    slope, intercept = float(f"{slope:.9g}"), float(f"{intercept:.9g}")
    header = a_ct(RescaleSlope=f"{slope:.9g}", RescaleIntercept=f"{intercept:.9g}")
    expected = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    np.testing.assert_array_equal(physical(stored, header).values, expected)


# Padding --------------------------------------------------------------------------------------------------------------


def test_padding_has_no_value() -> None:
    stored = np.array([[-2000, 0, 100]], np.int16)
    found = physical(stored, a_ct(PixelPaddingValue=-2000))
    np.testing.assert_array_equal(found.mask, [[True, False, False]])
    np.testing.assert_array_equal(found.values[0, 1:], [-1024, -924])
    ranged = a_ct(PixelPaddingValue=-2000)
    ranged.add_new(0x00280121, "SS", 0)  # Pixel Padding Range Limit
    np.testing.assert_array_equal(physical(stored, ranged).mask, [[True, True, False]])


def test_padding_written_with_the_other_sign_is_understood() -> None:
    unsigned = Dataset()
    unsigned.update(a_ct())
    unsigned.add_new(0x00280120, "US", 63536)  # -2000 in two's complement
    assert physical(np.array([[-2000, 0]], np.int16), unsigned).mask.tolist() == [[True, False]]
    signed = Dataset()
    signed.update(a_ct(PixelRepresentation=0))
    signed.add_new(0x00280120, "SS", -1)
    assert physical(np.array([[65535, 0]], np.uint16), signed).mask.tolist() == [[True, False]]


def test_the_background_of_a_label_map_is_a_label() -> None:
    header = a_header(Modality="SEG", SegmentationType="LABELMAP", PixelPaddingValue=0, PixelRepresentation=0)
    found = physical(np.array([[0, 3]], np.uint8), header)
    assert found.quantity == "label"
    np.testing.assert_array_equal(found.values, [[0, 3]])


def test_padding_of_floating_point_pixels() -> None:
    header = a_header(Modality="OT", FloatPixelPaddingValue=-1.0)
    found = physical(np.array([[-1.0, 2.5]], np.float32), header)
    np.testing.assert_array_equal(found.mask, [[True, False]])


# Tables and mappings --------------------------------------------------------------------------------------------------


def a_table(descriptor: list[int], data: list[int] | bytes, vr: str = "US", **more: Any) -> Dataset:
    table = a_header(**more)
    table.add_new(0x00283002, vr, descriptor)
    table.add_new(0x00283006, "OW" if isinstance(data, bytes) else "US", data)
    return table


def test_a_modality_table_maps_and_holds_its_ends() -> None:
    table = a_table([3, 10, 16], [100, 200, 400], ModalityLUTType="OD")
    header = a_header(Modality="CR", PixelRepresentation=0, ModalityLUTSequence=[table])
    found = physical(np.array([[0, 10, 11, 12, 99]], np.uint16), header)
    np.testing.assert_array_equal(found.values, [[100, 100, 200, 400, 400]])
    assert (found.quantity, found.unit) == ("optical_density", "10*-3{OD}")


def test_a_modality_table_may_begin_below_zero_and_hold_bytes() -> None:
    table = a_table([4, -2, 8], bytes([7, 8, 9, 10]), "SS")
    header = a_header(Modality="OT", PixelRepresentation=1, ModalityLUTSequence=[table])
    found = physical(np.array([[-5, -2, -1, 1]], np.int16), header)
    np.testing.assert_array_equal(found.values, [[7, 7, 8, 10]])


def test_a_table_cut_short_is_refused() -> None:
    table = a_table([300, 0, 16], [1, 2])
    with pytest.raises(ValueMeaningError, match="expected 300 entries in LUTData; found 2"):
        physical(STORED, a_header(Modality="OT", PixelRepresentation=0, ModalityLUTSequence=[table]))


def a_mapping(first: float, last: float, unit: str, label: str = "", **how: Any) -> Dataset:
    mapping = a_header(LUTLabel=label, MeasurementUnitsCodeSequence=[a_header(CodeValue=unit)], **how)
    mapping.add_new(0x00409216, "US", first)
    mapping.add_new(0x00409211, "US", last)
    return mapping


def test_real_world_values_by_line_and_by_table() -> None:
    line = a_mapping(0, 1000, "mm2/s", RealWorldValueSlope=1e-6, RealWorldValueIntercept=0.0)
    header = an_mr(RealWorldValueMappingSequence=[line])
    assert quantities(header) == ["signal", "rwv", "stored"]
    found = physical(np.array([[0, 1000, 1001]], np.uint16), header, quantity="rwv")
    np.testing.assert_allclose(found.values, [[0, 1e-3, np.nan]], rtol=1e-6)  # 1001 is outside the mapping
    assert found.unit == "mm2/s"
    table = a_mapping(5, 7, "ms", RealWorldValueLUTData=[1.5, 2.5, 9.5])
    found = physical(np.array([[4, 5, 6, 7]], np.uint16), an_mr(RealWorldValueMappingSequence=[table]), quantity="rwv")
    np.testing.assert_array_equal(found.values, [[np.nan, 1.5, 2.5, 9.5]])


def test_real_world_values_in_pieces_and_by_label() -> None:
    pieces = [
        a_mapping(0, 9, "Hz", "B0", RealWorldValueSlope=1.0, RealWorldValueIntercept=0.0),
        a_mapping(10, 19, "Hz", "B0", RealWorldValueSlope=10.0, RealWorldValueIntercept=-90.0),
        a_mapping(0, 19, "%", "FF", RealWorldValueSlope=5.0, RealWorldValueIntercept=0.0),
    ]
    header = an_mr(RealWorldValueMappingSequence=pieces)
    assert quantities(header) == ["signal", "rwv:B0", "rwv:FF", "stored"]
    stored = np.array([[9, 10, 19]], np.uint16)
    np.testing.assert_array_equal(physical(stored, header, quantity="rwv:B0").values, [[9, 10, 100]])
    np.testing.assert_array_equal(physical(stored, header, quantity="rwv:FF").values, [[45, 50, 95]])


def test_a_mapping_without_numbers_is_refused() -> None:
    header = an_mr(RealWorldValueMappingSequence=[a_mapping(0, 9, "Hz")])
    with pytest.raises(ValueMeaningError, match="RealWorldValueSlope"):
        physical(STORED, header)
    assert physical(STORED, header, quantity="stored").unit == "1"


# By frame -------------------------------------------------------------------------------------------------------------


def an_enhanced(scales: list[tuple[str, str]], shared: tuple[str, str] | None = None) -> Dataset:
    def group(slope: str, intercept: str) -> Dataset:
        item = a_header(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")
        return a_header(PixelValueTransformationSequence=[item])

    header = an_mr(PerFrameFunctionalGroupsSequence=[group(*scale) for scale in scales])
    if shared:
        header.SharedFunctionalGroupsSequence = [group(*shared)]
    return header


def test_each_frame_has_its_own_scale() -> None:
    header = an_enhanced([("1", "0"), ("2", "5"), ("0.5", "-1")])
    stored = np.array([[10]], np.uint16)
    assert [float(physical(stored, header, frame).values[0, 0]) for frame in range(3)] == [10, 25, 4]
    with pytest.raises(ValueMeaningError, match="for frame 3; found 3 items"):
        physical(stored, header, 3)


def test_frames_may_share_their_scale() -> None:
    header = an_mr(PerFrameFunctionalGroupsSequence=[Dataset(), Dataset()])
    header.SharedFunctionalGroupsSequence = an_enhanced([("3", "1")]).PerFrameFunctionalGroupsSequence
    assert float(physical(np.array([[2]], np.uint16), header, 1).values[0, 0]) == 7


# The other modalities -------------------------------------------------------------------------------------------------


def test_mr_signal_has_no_unit() -> None:
    assert physical(STORED, an_mr()).unit == "[arb'U]"
    assert physical(STORED, an_mr(RescaleSlope="2", RescaleIntercept="0")).values.tolist() == [[0, 2048, 4000]]


def test_philips_mr_gives_floating_point_values() -> None:
    # FP = (stored x RS + RI) / (RS x SS) = (1000 x 2.5 + 10) / (2.5 x 0.004) = 251,000
    header = an_mr(Manufacturer="Philips Medical Systems", RescaleSlope="2.5", RescaleIntercept="10")
    header.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 0.004)
    assert quantities(header) == ["signal", "philips_fp", "stored"]
    found = physical(np.array([[1000]], np.uint16), header, quantity="philips_fp")
    assert float(found.values[0, 0]) == pytest.approx(251_000, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"Manufacturer": "SIEMENS"}, 1.2e-3),
        ({"Manufacturer": "GE MEDICAL SYSTEMS"}, 1.2e-3),
        (
            {"Manufacturer": "Philips", "RescaleSlope": "2", "RescaleIntercept": "0", "RescaleType": "10^-6 mm2/s"},
            2.4e-3,
        ),
        (
            {"Manufacturer": "Philips", "RescaleSlope": "0.001", "RescaleIntercept": "0", "RescaleType": "um2/ms"},
            1.2e-3,
        ),
    ],
)
def test_diffusion_maps_come_in_square_millimetres_a_second(changes: dict[str, Any], expected: float) -> None:
    header = an_mr(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], **changes)
    found = physical(np.array([[1200]], np.uint16), header, quantity="adc")
    assert found.unit == "mm2/s"
    assert float(found.values[0, 0]) == pytest.approx(expected, rel=1e-6)


def test_a_diffusion_map_without_a_unit_is_refused() -> None:
    header = an_mr(ImageType=["DERIVED", "PRIMARY", "ADC"], Manufacturer="Philips")
    assert quantities(header) == ["signal", "stored"]
    with pytest.raises(ValueMeaningError, match="RescaleType or RealWorldValueMappingSequence"):
        physical(STORED, header, quantity="adc")
    mapping = a_mapping(0, 65535, "um2/s", RealWorldValueSlope=1.0, RealWorldValueIntercept=0.0)
    header.RealWorldValueMappingSequence = [mapping]
    assert float(physical(np.array([[1200]], np.uint16), header, quantity="adc").values[0, 0]) == pytest.approx(1.2e-3)


def test_nuclear_medicine_counts() -> None:
    found = physical(np.array([[7]], np.uint16), a_header(Modality="NM"))
    assert (found.quantity, found.unit, float(found.values[0, 0])) == ("counts", "{counts}", 7)


def test_dose_in_gray() -> None:
    header = a_header(Modality="RTDOSE", DoseUnits="GY", DoseType="PHYSICAL", DoseGridScaling="1.5e-6")
    found = physical(np.array([[40_000_000]], np.uint32), header)
    assert (found.quantity, found.unit) == ("gy", "Gy")
    assert float(found.values[0, 0]) == pytest.approx(60.0)
    header.DoseUnits = "RELATIVE"
    assert physical(np.array([[1]], np.uint32), header).quantity == "relative_dose"
    del header.DoseGridScaling
    with pytest.raises(ValueMeaningError, match="DoseGridScaling"):
        physical(np.array([[1]], np.uint32), header)


def test_segmentations() -> None:
    binary = a_header(Modality="SEG", SegmentationType="BINARY")
    assert physical(np.array([[0, 1]], np.uint8), binary).quantity == "segment"
    fractional = a_header(
        Modality="SEG",
        SegmentationType="FRACTIONAL",
        SegmentationFractionalType="OCCUPANCY",
        MaximumFractionalValue=200,
    )
    found = physical(np.array([[0, 50, 200]], np.uint8), fractional)
    assert found.quantity == "occupancy"
    np.testing.assert_allclose(found.values, [[0, 0.25, 1]])
    del fractional.MaximumFractionalValue
    with pytest.raises(ValueMeaningError, match="MaximumFractionalValue"):
        physical(np.array([[0]], np.uint8), fractional)


def test_a_label_map_with_a_palette_is_still_labels() -> None:
    header = a_header(Modality="SEG", SegmentationType="LABELMAP", PhotometricInterpretation="PALETTE COLOR")
    assert quantities(header) == ["label", "stored"]


@pytest.mark.parametrize("number", ["1e300", "-1e39"])
def test_what_float32_cannot_hold_is_infinite_and_no_warning(number: str) -> None:
    found = physical(STORED, a_ct(RescaleSlope=number, RescaleIntercept="0"))
    assert np.isinf(found.values[0, 1:]).all() and not found.mask.any()


def test_colours_are_given_as_they_are() -> None:
    header = a_header(Modality="US", SamplesPerPixel=3, PhotometricInterpretation="RGB", RescaleSlope="2")
    assert quantities(header) == ["stored"]
    assert physical(np.ones((2, 2, 3), np.uint8), header).values.shape == (2, 2, 3)


def test_values_that_are_no_numbers_are_refused_by_name() -> None:
    header = a_ct()
    header.add_new(0x00281053, "LO", "one")
    with pytest.raises(ValueMeaningError, match="RescaleSlope"):
        physical(STORED, header)


# Ultrasound -----------------------------------------------------------------------------------------------------------


def test_ultrasound_regions_carry_their_scales() -> None:
    region = a_header(
        RegionSpatialFormat=1, RegionDataType=1, RegionLocationMinX0=10, RegionLocationMinY0=20,
        RegionLocationMaxX1=110, RegionLocationMaxY1=220, PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3,
        PhysicalDeltaX=0.03, PhysicalDeltaY=0.04, ReferencePixelX0=50, ReferencePixelY0=0,
    )  # fmt: skip
    doppler = a_header(
        RegionSpatialFormat=3, RegionDataType=3, RegionLocationMinX0=0, RegionLocationMinY0=0, RegionLocationMaxX1=9,
        RegionLocationMaxY1=9, PhysicalUnitsXDirection=4, PhysicalUnitsYDirection=7, PhysicalDeltaX=0.01,
        PhysicalDeltaY=-1.5,
    )  # fmt: skip
    first, second = us_regions(a_header(SequenceOfUltrasoundRegions=[region, doppler]))
    assert (first.format, first.unit_x, first.reference) == ("2d", "mm", (50, 0))
    assert (first.delta_x, first.delta_y) == pytest.approx((0.3, 0.4))
    assert (second.format, second.unit_x, second.unit_y, second.delta_y) == ("spectral", "s", "cm/s", -1.5)
    del region.PhysicalDeltaX
    with pytest.raises(ValueMeaningError, match="PhysicalDeltaX"):
        us_regions(a_header(SequenceOfUltrasoundRegions=[region]))
    assert us_regions(Dataset()) == []


# Real files -----------------------------------------------------------------------------------------------------------


def test_real_ct_and_dose(bundled: Path) -> None:
    ct = pixel_frames.read(bundled / "CT_small.dcm")
    found = physical(pixel_frames.stored(ct), ct)
    np.testing.assert_array_equal(found.values, ct.pixel_array.astype(np.float64) + float(ct.RescaleIntercept))
    dose = pixel_frames.read(bundled / "rtdose.dcm")
    found = physical(pixel_frames.stored(dose, 3), dose, 3)
    np.testing.assert_allclose(found.values, dose.pixel_array[3] * float(dose.DoseGridScaling), rtol=1e-6)


@pytest.mark.corpus
def test_real_parametric_map_keeps_its_double_values(corpus: Path) -> None:
    header = pixel_frames.read(corpus / "pydicom+pydicom-data/data_store/data/parametric_map_double_float.dcm")
    stored = pixel_frames.stored(header)
    assert stored.dtype == np.float64
    found = physical(stored, header)
    assert found.quantity == "rwv"
    np.testing.assert_array_equal(found.values, stored.astype(np.float32))


@pytest.mark.corpus
def test_real_ultrasound_has_regions(corpus: Path) -> None:
    found = [
        us_regions(dataset)
        for path in (corpus / "pydicom+pydicom").rglob("examples_*.dcm")
        if "SequenceOfUltrasoundRegions" in (dataset := pixel_frames.read(path))
    ]
    assert found
    assert all(region.unit_x and region.right >= region.left for regions in found for region in regions)


@pytest.mark.corpus
def test_every_real_header_has_a_scale_or_a_reason(corpus: Path) -> None:
    kinds: dict[str, int] = {}
    for path in sorted(corpus.rglob("*.dcm")):
        dataset = pixel_frames.read(path)
        if "Rows" not in dataset:
            continue
        known = quantities(dataset)
        assert known[-1] == "stored"
        for quantity in known:
            scale = scale_of(dataset, 0, quantity)
            assert scale.unit and scale.how
        kinds[known[0]] = kinds.get(known[0], 0) + 1
    assert {"hu", "signal", "segment", "label", "counts", "relative_dose", "rwv", "stored"} <= set(kinds)


def test_the_reference_page_names_every_quantity_unit_syntax_and_window() -> None:
    from dcmark.read import scales
    from dcmark.read.codecs import SYNTAXES
    from dcmark.read.suv import KINDS
    from dcmark.read.windows import NAMED

    page = (Path(__file__).parent.parent / "docs" / "reference" / "values.md").read_text("utf-8")
    named = [*scales._RESCALE_TYPES.values(), *scales._PET_UNITS.values(), *KINDS.items()]
    assert [quantity for quantity, _ in named if f"`{quantity}`" not in page] == []
    assert [unit for unit in KINDS.values() if f"`{unit}`" not in page] == []
    assert [term for term in (*scales._RESCALE_TYPES, *scales._PET_UNITS) if f"`{term}`" not in page] == []
    for name, window in NAMED.items():
        assert f"| `{name}` | {window.centre:g} | {window.width:g} |" in page
    families = {syntax.family for syntax in SYNTAXES.values()}
    assert families == {"native", "deflate", "rle", "jpeg", "jpegls", "jpeg2000", "jpegxl", "video"}
