"""Values to grey levels and colours, against numbers worked out by hand from PS3.3."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

import pixel_frames
from dcmark.errors import UsageError, ValueMeaningError
from dcmark.read.colour import apply_palette, palette_of, rgb_to_ybr, ybr_to_rgb
from dcmark.read.display import NAMED, display, inverted, robust_window, window_of, windows
from dcmark.read.pixels import physical
from dcmark.read.windows import VoiTable, Window


def a_header(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in ({"PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0} | values).items():
        setattr(dataset, keyword, value)
    return dataset


def a_ct(**values: Any) -> Dataset:
    rescale = {"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024", "ImageType": ["ORIGINAL", "PRIMARY"]}
    return a_header(**(rescale | values))


# Windows by their formulas --------------------------------------------------------------------------------------------


def test_linear_by_hand() -> None:
    # Centre 2048, width 4096 (C.11.2.1.2.1): black up to 2048 - 0.5 - 4095/2 = 0, white above 4095,
    # between ((x - 2047.5)/4095 + 0.5) x 255: x = 1 gives 0.06, x = 2048 gives 127.53, x = 4094 gives 254.94.
    grey = np.array([[-5, 0, 1, 2048, 4094, 4095, 5000]], np.int16)
    found = display(grey, a_header(PixelRepresentation=1), window=Window(2048, 4096))
    np.testing.assert_array_equal(found, [[0, 0, 0, 128, 255, 255, 255]])


def test_linear_of_width_one_is_a_threshold() -> None:
    # Black at x <= c - 0.5, white above.
    found = Window(100, 1).apply(np.array([99.0, 99.5, 99.6, 100.0]))
    np.testing.assert_array_equal(found, [0, 0, 1, 1])


def test_linear_exact_by_hand() -> None:
    # Centre 100, width 200 (C.11.2.1.3.2): black up to 0, white above 200; 50 gives 0.25, 150 gives 0.75.
    found = Window(100, 200, "LINEAR_EXACT").apply(np.array([-1.0, 0, 50, 100, 150, 200, 201]))
    np.testing.assert_allclose(found, [0, 0, 0.25, 0.5, 0.75, 1, 1])


def test_sigmoid_by_hand() -> None:
    # 1/(1 + exp(-4 (x - c)/w)) (C.11.2.1.3.1): at c one half, at c + w/4 1/(1 + e^-1) = 0.731059, at c - w/2
    # 1/(1 + e^2) = 0.119203.
    found = Window(40, 80, "SIGMOID").apply(np.array([40.0, 60.0, 0.0, -1e9, 1e9]))
    np.testing.assert_allclose(found, [0.5, 0.731059, 0.119203, 0, 1], atol=1e-6)


@pytest.mark.parametrize(("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (0, "LINEAR_EXACT"), (-3, "SIGMOID")])
def test_a_width_that_cannot_be_is_refused(width: float, function: Any) -> None:
    with pytest.raises(ValueMeaningError, match="expected a window width"):
        Window(0, width, function)


functions = st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"])


@given(st.lists(st.floats(-1e5, 1e5), min_size=2, max_size=50), st.floats(-5e3, 5e3), st.floats(1, 1e4), functions)
def test_windows_rise_and_stay_between_black_and_white(
    values: list[float], centre: float, width: float, function: Any
) -> None:
    levels = Window(centre, width, function).apply(np.sort(np.array(values)))
    assert levels.min() >= 0 and levels.max() <= 1
    assert (np.diff(levels) >= 0).all()


@given(st.integers(-3000, 3000), st.integers(1, 4000), functions, st.sampled_from([8, 16]), st.booleans())
def test_the_table_of_stored_values_gives_what_the_values_themselves_give(
    centre: int, width: int, function: Any, bits: int, inverse: bool
) -> None:
    """Frames with few values take a table, others not: nobody may see which."""
    stored = np.arange(0, 2000, dtype=np.uint16).reshape(40, 50)
    header = a_ct(PhotometricInterpretation="MONOCHROME1" if inverse else "MONOCHROME2", PixelPaddingValue=7)
    window = Window(centre, width, function)
    alone = display(physical(stored, header), header, window=window, bits=bits)
    many = np.concatenate([stored] * 8)
    np.testing.assert_array_equal(display(many, header, window=window, bits=bits)[:40], alone)
    assert alone.dtype == (np.uint8 if bits == 8 else np.uint16)


# Windows of the header ------------------------------------------------------------------------------------------------


def test_windows_are_chosen_by_number_name_and_explanation() -> None:
    header = a_ct(
        WindowCenter=["40", "-600"], WindowWidth=["400", "1500"], WindowCenterWidthExplanation=["WINDOW1", "Lungs"]
    )
    assert windows(header) == (Window(40, 400, "LINEAR", "WINDOW1"), Window(-600, 1500, "LINEAR", "Lungs"))
    stored = np.array([[1024 - 600]], np.uint16)
    first, second = display(stored, header), display(stored, header, window=1)
    assert (int(first[0, 0]), int(second[0, 0])) == (0, 128)
    np.testing.assert_array_equal(display(stored, header, window="lungs"), second)
    np.testing.assert_array_equal(display(stored, header, window="lung"), second)  # the named one has the same numbers
    with pytest.raises(UsageError, match="from 0 to 1; found 2"):
        display(stored, header, window=2)
    with pytest.raises(UsageError, match=r"abdomen.*'WINDOW1'.*found 'nose'"):
        display(stored, header, window="nose")


def test_the_function_of_the_header_is_used() -> None:
    header = a_ct(WindowCenter="40", WindowWidth="80", VOILUTFunction="SIGMOID")
    assert windows(header) == (Window(40, 80, "SIGMOID"),)
    header.VOILUTFunction = "CUBIC"
    with pytest.raises(ValueMeaningError, match="VOILUTFunction"):
        windows(header)


def test_a_centre_without_width_is_refused() -> None:
    with pytest.raises(ValueMeaningError, match="as many WindowWidth"):
        windows(a_ct(WindowCenter=["1", "2"], WindowWidth="3"))


def test_widths_the_standard_forbids() -> None:
    header = a_header(WindowCenter=["0.001", "40", "7"], WindowWidth=["0.002", "0", "3"])
    assert windows(header) == (Window(0.001, 0.002, "LINEAR_EXACT"), Window(7, 3))


def test_windows_of_a_frame() -> None:
    def group(centre: str) -> Dataset:
        item = Dataset()
        item.WindowCenter, item.WindowWidth = centre, "10"
        outer = Dataset()
        outer.FrameVOILUTSequence = [item]
        return outer

    header = a_header(PerFrameFunctionalGroupsSequence=[group("5"), group("50")])
    assert [windows(header, frame)[0].centre for frame in (0, 1)] == [5, 50]


def a_voi_table(descriptor: list[int], data: list[int] | bytes, vr: str = "US", explanation: str = "") -> Dataset:
    table = Dataset()
    table.add_new(0x00283002, vr, descriptor)
    table.add_new(0x00283006, "OW" if isinstance(data, bytes) else "US", data)
    table.LUTExplanation = explanation
    return table


def test_a_voi_table_by_hand() -> None:
    # First value -1023 in HU: stored 1. 12-bit entries: 4095 is white; 1024/4095 x 255 = 63.77.
    header = a_ct(BitsStored=16, VOILUTSequence=[a_voi_table([3, 64513, 12], [0, 1024, 4095], explanation="NORMAL")])
    found = display(np.array([[0, 1, 2, 3, 900]], np.uint16), header)
    np.testing.assert_array_equal(found, [[0, 0, 64, 255, 255]])
    np.testing.assert_array_equal(display(np.array([[2]], np.uint16), header, bits=16), [[16388]])
    (table,) = windows(header)
    assert isinstance(table, VoiTable) and (table.first, table.bits, table.explanation) == (-1023, 12, "NORMAL")


def test_a_voi_table_of_bytes_and_of_unsigned_values() -> None:
    header = a_header(BitsStored=16, VOILUTSequence=[a_voi_table([4, 40000, 8], bytes([0, 85, 170, 255]))])
    found = display(np.array([[0, 40001, 40002, 65535]], np.uint16), header)
    np.testing.assert_array_equal(found, [[0, 85, 170, 255]])


def test_a_table_comes_before_the_windows() -> None:
    header = a_header(
        BitsStored=8, WindowCenter="1", WindowWidth="2", VOILUTSequence=[a_voi_table([2, 0, 8], [0, 255])]
    )
    assert [type(one).__name__ for one in windows(header)] == ["VoiTable", "Window"]


# Which quantity a window is for ---------------------------------------------------------------------------------------


def test_named_windows_are_in_hounsfield_units() -> None:
    assert {"lung", "mediastinum", "bone", "brain", "liver", "abdomen", "subdural", "stroke", "angio"} <= set(NAMED)
    with pytest.raises(UsageError, match="expected values in HU for the window 'lung'; found signal"):
        display(np.zeros((2, 2), np.uint16), a_header(Modality="MR"), window="lung")


def test_windows_of_the_header_do_not_fit_another_quantity() -> None:
    header = a_ct(WindowCenter="40", WindowWidth="400")
    raw = physical(np.array([[0, 4000]], np.uint16), header, quantity="stored")
    with pytest.raises(UsageError, match="the windows of the header are for hu"):
        display(raw, header, window=0)
    np.testing.assert_array_equal(display(raw, header), [[0, 255]])  # by percentiles


def test_an_image_without_meaning_can_still_be_looked_at() -> None:
    header = a_header(Modality="RTDOSE", DoseUnits="GY")  # DoseGridScaling is missing
    found = display(np.arange(100, dtype=np.uint32).reshape(10, 10), header)
    assert found.min() == 0 and found.max() == 255


# One window for a volume ----------------------------------------------------------------------------------------------


def test_equal_values_are_equally_bright_across_slices() -> None:
    slices = [
        a_header(Modality="MR", WindowCenter=str(c), WindowWidth=str(w))
        for c, w in ((100, 200), (300, 500), (120, 240))
    ]
    window = window_of(*slices)
    # LINEAR blacks: 0, 50.5, 0.5; wrong: from c - 0.5 - (w - 1)/2: 100 - 0.5 - 99.5 = 0; 300 - 0.5 - 249.5 = 50;
    # 120 - 0.5 - 119.5 = 0. Whites: 199, 549, 239. Medians 0 and 239: centre 119.5, width 239.
    assert (window.centre, window.width, window.function) == (119.5, 239, "LINEAR_EXACT")
    value = np.full((2, 2), 150, np.uint16)
    levels = {int(display(value, header, window=window)[0, 0]) for header in slices}
    assert levels == {160}  # 150/239 x 255 = 160.04


def test_slices_with_scales_of_their_own_share_a_window() -> None:
    """PET: the same activity is stored as other numbers in each slice."""
    one = a_header(Modality="PT", Units="BQML", RescaleSlope="2", RescaleIntercept="0")
    other = a_header(Modality="PT", Units="BQML", RescaleSlope="4", RescaleIntercept="0")
    window = window_of(one, other, samples=[np.linspace(0, 1000, 500)])
    first = display(np.array([[200]], np.uint16), one, window=window)
    np.testing.assert_array_equal(first, display(np.array([[100]], np.uint16), other, window=window))


def test_a_volume_takes_one_common_window_a_name_or_samples() -> None:
    header = a_ct(WindowCenter="40", WindowWidth="400")
    assert window_of(header, header) == Window(40, 400)
    assert window_of(header, choice="bone") == NAMED["bone"]
    assert window_of(choice=Window(1, 2)) == Window(1, 2)
    with pytest.raises(UsageError, match="expected a window in the headers"):
        window_of(a_ct())
    table = a_header(BitsStored=8, VOILUTSequence=[a_voi_table([2, 0, 8], [0, 255])])
    assert isinstance(window_of(table), VoiTable)
    assert isinstance(window_of(table, table), VoiTable)


def test_robust_windows_ignore_outliers_and_missing_values() -> None:
    values = np.concatenate([np.linspace(0, 100, 10_000), [1e6, np.nan, np.inf]])
    low, high = robust_window([values]).bounds
    assert -1 < low < 2 and 98 < high < 101
    assert robust_window([np.full(10, 5.0)]).bounds == (4.5, 5.5)
    assert robust_window([np.full(10, np.nan)]).width == 1
    rare = np.zeros(10_000)
    rare[3] = 1  # a segmentation of one pixel is still seen
    assert robust_window([rare]).bounds == (0, 1)


# Inversion and padding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photometric", "shape", "expected"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),  # they say the same, they do not cancel out
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
    ],
)
def test_inversion(photometric: str, shape: str | None, expected: bool) -> None:
    header = a_header(PhotometricInterpretation=photometric)
    if shape:
        header.PresentationLUTShape = shape
    assert inverted(header) is expected
    found = display(np.array([[0, 100]], np.uint8), header, window=Window(50, 100, "LINEAR_EXACT"))
    np.testing.assert_array_equal(found, [[255, 0]] if expected else [[0, 255]])


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_background(photometric: str) -> None:
    header = a_header(PhotometricInterpretation=photometric, PixelPaddingValue=255)
    found = display(np.array([[255, 40]], np.uint8), header, window=Window(50, 100, "LINEAR_EXACT"))
    assert found[0, 0] == 0 and found[0, 1] > 0


# Colours --------------------------------------------------------------------------------------------------------------


def test_ybr_full_by_hand() -> None:
    # PS3.3 C.7.6.3.1.2: red 255,0,0 is Y = 76.2, Cb = -0.168736 x 255 + 128 = 85.0, Cr = 255.5
    red = np.array([[[255, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(rgb_to_ybr(red), [[[76, 85, 255]]])
    np.testing.assert_allclose(ybr_to_rgb(np.array([[[76, 85, 255]]], np.uint8)), red, atol=1)
    grey = np.array([[[77, 128, 128]]], np.uint8)
    np.testing.assert_array_equal(ybr_to_rgb(grey), [[[77, 77, 77]]])


def test_ybr_partial_by_hand() -> None:
    # Black is Y 16, white Y 235; pure blue is Y = 0.0979 x 255 + 16 = 41, Cb = 0.4392 x 255 + 128 = 240,
    # Cr = -0.0714 x 255 + 128 = 110.
    for photometric in ("YBR_PARTIAL_422", "YBR_PARTIAL_420"):
        frame = np.array([[[16, 128, 128], [235, 128, 128], [41, 240, 110]]], np.uint8)
        np.testing.assert_allclose(ybr_to_rgb(frame, photometric), [[[0, 0, 0], [255, 255, 255], [0, 0, 255]]], atol=1)


def test_high_definition_video_has_other_primaries() -> None:
    # BT.709: pure green is Y = 0.7152 x 219 + 16 = 173, Cb = 42, Cr = 26.
    frame = np.tile(np.array([173, 42, 26], np.uint8), (720, 4, 1))
    np.testing.assert_allclose(ybr_to_rgb(frame, "YBR_PARTIAL_420")[0, 0], [0, 255, 0], atol=2)


@given(st.integers(8, 16), st.integers(0, 2**32 - 1))
def test_colours_come_back_from_ybr(bits: int, seed: int) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    rgb = np.random.default_rng(seed).integers(0, 1 << bits, (5, 5, 3)).astype(kind)
    there = rgb_to_ybr(rgb, bits)
    assert int(there.max()) < 1 << bits
    np.testing.assert_allclose(ybr_to_rgb(there, "YBR_FULL", bits).astype(int), rgb, atol=2)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_RCT", "YBR_ICT"])
def test_decoded_colours_are_shown_as_they_are(photometric: str) -> None:
    rgb = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    header = a_header(PhotometricInterpretation=photometric, SamplesPerPixel=3, BitsStored=8)
    np.testing.assert_array_equal(display(rgb, header), rgb)
    np.testing.assert_array_equal(display(rgb, header, bits=16), rgb.astype(np.uint16) * 257)


def test_deeper_colours_keep_white_white() -> None:
    header = a_header(PhotometricInterpretation="RGB", SamplesPerPixel=3, BitsStored=12)
    rgb = np.array([[[0, 2048, 4095]]], np.uint16)
    np.testing.assert_array_equal(display(rgb, header), [[[0, 128, 255]]])


def test_an_unknown_colour_space_is_refused() -> None:
    header = a_header(PhotometricInterpretation="HSV", SamplesPerPixel=3)
    with pytest.raises(UsageError, match="RGB or YBR; found HSV"):
        display(np.zeros((2, 2, 3), np.uint8), header)


# Palettes -------------------------------------------------------------------------------------------------------------


def a_palette(
    descriptor: list[int], red: Any, green: Any = None, blue: Any = None, *, segmented: bool = False
) -> Dataset:
    header = a_header(PhotometricInterpretation="PALETTE COLOR", SamplesPerPixel=1)
    for place, data in enumerate((red, green or red, blue or red)):
        header.add_new(0x00281101 + place, "US", descriptor)
        packed = data if isinstance(data, bytes) else np.array(data, "<u2").tobytes()
        header.add_new((0x00281221 if segmented else 0x00281201) + place, "OW", packed)
    return header


def test_a_palette_by_hand() -> None:
    header = a_palette([3, 10, 16], [0, 0x8000, 0xFFFF], [0xFFFF, 0, 0], [0, 0, 257])
    stored = np.array([[9, 10, 11, 12, 200]], np.uint8)  # below and above take the ends
    expected = [[[0, 255, 0], [0, 255, 0], [128, 0, 0], [255, 0, 1], [255, 0, 1]]]
    np.testing.assert_array_equal(display(stored, header), expected)


def test_palettes_of_bytes_packed_or_not_and_bytes_declared_as_words() -> None:
    stored = np.array([[0, 1, 2, 3]], np.uint8)
    expected = [[[0] * 3, [10] * 3, [20] * 3, [255] * 3]]
    for header in (
        a_palette([4, 0, 8], bytes([0, 10, 20, 255])),
        a_palette([4, 0, 8], [0, 10, 20, 255]),
        a_palette([4, 0, 16], [0, 10, 20, 255]),
    ):
        np.testing.assert_array_equal(display(stored, header), expected)


def test_segmented_palettes_by_hand() -> None:
    # Discrete (0) of 2: 0, 100. Linear (1) of 4 up to 500: 200, 300, 400, 500. Discrete of 1: 7. Then indirect (2):
    # copy one segment from byte 8 (the linear one), which now rises from 7 to 500 in 4 steps: 123.25 a step.
    data = [0, 2, 0, 100, 1, 4, 500, 0, 1, 7, 2, 1, 8, 0]
    palette = palette_of(a_palette([11, 0, 16], data, segmented=True))
    expected = [0, 100, 200, 300, 400, 500, 7, 130, 254, 377, 500]
    np.testing.assert_array_equal(palette.entries[:, 0], expected)


def test_segmented_palettes_of_bytes() -> None:
    # Discrete 1: 0; linear 3 up to 30; indirect: 1 segment from byte 0 (four bytes of offset, lowest first).
    data = bytes([0, 1, 0, 1, 3, 30, 2, 1, 0, 0, 0, 0])
    palette = palette_of(a_palette([5, 0, 8], data, segmented=True))
    np.testing.assert_array_equal(palette.entries[:, 1], [0, 10, 20, 30, 0])


@pytest.mark.parametrize(
    "data",
    [
        [1, 2, 5],  # linear first
        [0, 9, 1],  # cut short
        [0, 3, 1, 2, 3, 0, 3, 1, 2, 3],  # more than declared
        [0, 2, 1, 2],  # fewer
        [5, 1, 1],  # no such segment
        [2, 65535, 0, 0],  # itself
        [0, 0, 0, 0],  # empty
        [0, 1, 7, 2, 1, 999, 0],  # beyond the end
    ],
)
def test_damaged_segments_are_refused(data: list[int]) -> None:
    with pytest.raises(ValueMeaningError, match="expected"):
        palette_of(a_palette([4, 0, 16], data, segmented=True))


@given(st.binary(min_size=2, max_size=200), st.sampled_from([8, 16]))
def test_any_segments_expand_or_are_refused(data: bytes, bits: int) -> None:
    try:
        palette = palette_of(a_palette([16, 0, bits], data, segmented=True))
    except ValueMeaningError:
        return
    assert palette.entries.shape == (16, 3)


def test_a_missing_palette_is_named() -> None:
    header = a_palette([3, 0, 16], [1, 2, 3])
    del header.GreenPaletteColorLookupTableData
    with pytest.raises(ValueMeaningError, match="GreenPaletteColorLookupTableData"):
        display(np.zeros((1, 1), np.uint8), header)


# Real files against pydicom -------------------------------------------------------------------------------------------


def test_real_palettes_are_what_pydicom_makes_of_them(bundled: Path) -> None:
    from pydicom.pixels import apply_color_lut

    seen = 0
    for path in sorted(bundled.glob("examples_palette.dcm")) + sorted(bundled.glob("OBXXXX1A*.dcm")):
        dataset = pixel_frames.read(path)
        stored = pixel_frames.stored(dataset)
        expected = apply_color_lut(stored, dataset)
        palette = palette_of(dataset)
        np.testing.assert_array_equal(apply_palette(stored, palette), expected)
        assert display(stored, dataset).dtype == np.uint8
        seen += 1
    assert seen


def test_real_ybr_is_within_one_of_pydicom(bundled: Path) -> None:
    from pydicom.pixels import convert_color_space

    for name in ("SC_ybr_full_422_uncompressed.dcm", "examples_ybr_color.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm"):
        dataset = pixel_frames.read(bundled / name)
        stored = pixel_frames.stored(dataset)
        expected = convert_color_space(stored, "YBR_FULL", "RGB").astype(int)
        np.testing.assert_allclose(display(stored, dataset).astype(int), expected, atol=1)


@pytest.mark.corpus
def test_real_windows_are_within_a_level_of_pydicom(corpus: Path) -> None:
    from pydicom.pixels import apply_modality_lut, apply_windowing

    seen = 0
    for path in sorted(corpus.rglob("*.dcm"))[::7]:
        dataset = pixel_frames.read(path)
        if "PixelData" not in dataset or "WindowCenter" not in dataset or "VOILUTSequence" in dataset:
            continue
        if path.name.startswith(("MR_truncated", "JPEG2000-emb")) or dataset.get("SamplesPerPixel") != 1:
            continue
        stored = pixel_frames.stored(dataset)
        dataset.PixelPaddingValue = None  # pydicom does not know padding
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shown = apply_windowing(apply_modality_lut(stored, dataset), dataset)
        window = windows(dataset)[0]
        levels = window.apply(physical(stored, dataset).values)
        span = shown.max() - shown.min()
        if span and levels.max() > levels.min():
            expected = (shown - shown.min()) / span
            found = (levels - levels.min()) / (levels.max() - levels.min())
            np.testing.assert_allclose(found, expected, atol=1e-5)
            seen += 1
    assert seen >= 5


@pytest.mark.corpus
def test_every_real_image_can_be_shown(corpus: Path) -> None:
    shapes = set()
    for path in sorted(corpus.rglob("*.dcm"))[::3]:
        dataset = pixel_frames.read(path)
        if "Rows" not in dataset or not any(name in dataset for name in pixel_frames.PIXELS):
            continue
        if path.name.startswith(("MR_truncated", "JPEG2000-emb", "badVR")) or "derived/transfer" in path.as_posix():
            continue
        shown = display(pixel_frames.stored(dataset), dataset)
        assert shown.dtype == np.uint8 and shown.shape[:2] == (dataset.Rows, dataset.Columns)
        shapes.add(shown.ndim)
    assert shapes == {2, 3}
