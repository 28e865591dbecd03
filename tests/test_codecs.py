"""Codestreams to stored values: exact where lossless, an error where damaged, never a crash."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import random
import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pixel_frames
from dcmark.config import Limits
from dcmark.errors import DecodeError, LimitError, MissingExtraError, UnsupportedError
from dcmark.read import codestreams
from dcmark.read.base import PixelLayout
from dcmark.read.codecs import SYNTAXES, decode_frame, layout_of, native_frame, video_frames
from dcmark.read.colour import rgb_to_ybr, ybr_to_rgb

ROOT = "1.2.840.10008.1.2"
JPEG_BASELINE, JPEG_LOSSLESS, JPEG_LS = f"{ROOT}.4.50", f"{ROOT}.4.70", f"{ROOT}.4.80"
J2K, HTJ2K, JXL, RLE, DEFLATE = f"{ROOT}.4.90", f"{ROOT}.4.201", f"{ROOT}.4.110", f"{ROOT}.5", f"{ROOT}.8.1"

CT_SLICE = "cornerstonejs+cornerstone3D/packages/dicomImageLoader/examplesOld/test-images"
GAPS = "derived/transfer-syntax-gaps"


def a_layout(rows: int, columns: int, **changes: object) -> PixelLayout:
    values: dict[str, object] = {"samples": 1, "bits_allocated": 16, "signed": False, "planar": False}
    values |= {"photometric": "MONOCHROME2"} | changes
    values.setdefault("bits_stored", values["bits_allocated"])
    values.setdefault("high_bit", int(str(values["bits_stored"])) - 1)
    return PixelLayout(rows=rows, columns=columns, **values)  # type: ignore[arg-type]


def a_picture(rows: int = 48, columns: int = 40, bits: int = 12) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns]
    noise = np.random.default_rng(0).integers(0, 1 << (bits - 4), (rows, columns))
    return ((x * 37 + y * 91 + noise) % (1 << bits)).astype(np.uint16 if bits > 8 else np.uint8)


# Real files -----------------------------------------------------------------------------------------------------------


@pytest.mark.corpus
def test_one_ct_slice_is_the_same_in_every_lossless_syntax(corpus: Path) -> None:
    lossless = [
        path
        for path in sorted((corpus / CT_SLICE).glob("CTImage.dcm*")) + sorted((corpus / GAPS).glob("*.dcm"))
        if not SYNTAXES[pixel_frames.syntax_of(pixel_frames.read(path))].lossy
    ]
    expected = pixel_frames.read(corpus / CT_SLICE / "CTImage.dcm").pixel_array
    syntaxes = set()
    for path in lossless:
        dataset = pixel_frames.read(path)
        found = pixel_frames.stored(dataset)
        assert found.dtype == np.int16
        np.testing.assert_array_equal(found, expected, err_msg=path.name)
        syntaxes.add(pixel_frames.syntax_of(dataset).removeprefix(ROOT))
    assert syntaxes == {
        "", ".1", ".1.98", ".1.99", ".2", ".5", ".8.1", ".4.57", ".4.70", ".4.80", ".4.90", ".4.110", ".4.201", ".4.202"
    }  # fmt: skip


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "within"),
    [
        (f"{CT_SLICE}/CTImage.dcm_JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81.dcm", 3),
        (f"{CT_SLICE}/CTImage.dcm_JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91.dcm", 20),
        (f"{GAPS}/htj2k-lossy.203.dcm", 20),
        (f"{GAPS}/jpegxl-lossy.112.dcm", 300),
    ],
)
def test_lossy_syntaxes_stay_near_the_original(corpus: Path, name: str, within: int) -> None:
    original = pixel_frames.stored(pixel_frames.read(corpus / CT_SLICE / "CTImage.dcm")).astype(int)
    found = pixel_frames.stored(pixel_frames.read(corpus / name)).astype(int)
    inside = original > -1500  # outside the circle lies padding, where a lossy codec is worst
    assert np.abs(found - original)[inside].max() <= within


@pytest.mark.corpus
def test_twelve_bit_jpeg_is_the_same_by_sequential_spectral_and_full_progression(corpus: Path) -> None:
    found = [
        pixel_frames.stored(pixel_frames.read(path))
        for number in (51, 53, 55)
        for path in (corpus / CT_SLICE).glob(f"CTImage*.4.{number}.dcm")
    ]
    assert len(found) == 3 and found[0].dtype == np.uint16 and found[0].max() > 255
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


@pytest.mark.corpus
def test_jpeg_inside_jpeg_xl_gives_what_the_jpeg_gave(corpus: Path, bundled: Path) -> None:
    found = pixel_frames.stored(pixel_frames.read(corpus / GAPS / "jpegxl-jpeg-recompressed.111.dcm"))
    original = pixel_frames.stored(pixel_frames.read(bundled / "SC_rgb_jpeg_dcmtk.dcm"))
    np.testing.assert_array_equal(found, original)


@pytest.mark.corpus
def test_real_lossless_mr_series_holds_the_values_of_its_nifti(corpus: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    folder = corpus / "icometrix+dicom2nifti/tests/data/generic/compressed"
    volume = np.asarray(nibabel.load(folder / "001_ground_truth.nii.gz").dataobj)
    slices = [pixel_frames.stored(pixel_frames.read(path)) for path in sorted((folder / "001").iterdir())]
    np.testing.assert_array_equal(np.sort(np.stack(slices), axis=None), np.sort(volume, axis=None))


@pytest.mark.corpus
def test_one_bit_frames_are_the_same_packed_run_length_deflated_and_in_jpeg_2000(corpus: Path) -> None:
    folder = corpus / "pydicom+pydicom-data/data_store/data"
    for stem in ("liver", "liver_nonbyte_aligned"):
        plain = [pixel_frames.read(path) for path in sorted(folder.glob(f"{stem}_[drj]*.dcm"))]
        assert len(plain) >= 2
        for frame in range(3):
            first, *rest = (pixel_frames.stored(dataset, frame) for dataset in plain)
            assert first.dtype == np.uint8 and set(np.unique(first)) <= {0, 1}
            for other in rest:
                np.testing.assert_array_equal(first, other)


NOT_WHOLE = {"MR_truncated.dcm", "JPEG2000-embedded-sequence-delimiter.dcm"}


def test_every_bundled_file_gives_what_pydicom_gives_or_a_decode_error(bundled: Path) -> None:
    compared = 0
    for path in sorted(bundled.iterdir()):
        if not path.is_file():
            continue
        try:
            dataset = pixel_frames.read(path)
            names = [name for name in pixel_frames.PIXELS if name in dataset]
        except Exception:
            continue
        if not names or "Rows" not in dataset:
            continue
        if path.name in NOT_WHOLE:
            with pytest.raises(DecodeError):
                pixel_frames.stored(dataset)
            continue
        if path.name == "badVR.dcm":  # its number of frames is none
            continue
        found = [
            decode_frame(data, pixel_frames.syntax_of(dataset), pixel_frames.layout(dataset))
            for data in pixel_frames.frames(dataset)
        ]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = pydicom.pixels.pixel_array(dataset, raw=True)
        except (RuntimeError, AttributeError, NotImplementedError, ValueError):
            continue
        whole = np.stack(found) if len(found) > 1 else found[0]
        np.testing.assert_array_equal(whole, expected, err_msg=path.name)
        compared += 1
    assert compared >= 50


@pytest.mark.corpus
def test_every_codestream_of_the_corpus_decodes(corpus: Path) -> None:
    """All but video, and at most three frames a file and forty files a folder: the rest is more of the same."""
    families: dict[str, int] = {}
    folders: dict[Path, int] = {}
    for path in sorted(corpus.rglob("*.dcm")):
        with path.open("rb") as stream:
            head = stream.read(1024)
        compressed = any(uid in head for uid in (f"{ROOT}.4.".encode(), f"{ROOT}.5\0".encode(), DEFLATE.encode()))
        folders[path.parent] = folders.get(path.parent, 0) + compressed
        if not compressed or folders[path.parent] > 40:
            continue
        dataset = pixel_frames.read(path)
        if "PixelData" not in dataset or path.name in NOT_WHOLE | {"badVR.dcm"}:
            continue
        family = SYNTAXES[pixel_frames.syntax_of(dataset)].family
        if family in ("video", "native"):
            continue
        for number, data in enumerate(pixel_frames.frames(dataset)):
            if number < 3:
                layout = pixel_frames.layout(dataset)
                assert decode_frame(data, pixel_frames.syntax_of(dataset), layout).shape[:2] == (
                    dataset.Rows,
                    dataset.Columns,
                )
                families[family] = families.get(family, 0) + 1
    assert set(families) == {"jpeg", "jpegls", "jpeg2000", "jpegxl", "rle", "deflate"}
    assert sum(families.values()) > 120


# Native frames --------------------------------------------------------------------------------------------------------


def test_native_words_in_both_byte_orders() -> None:
    values = np.array([[1, 258], [-3, 4000]], np.int16)
    little = a_layout(2, 2, signed=True)
    np.testing.assert_array_equal(native_frame(values.tobytes(), little), values)
    big = a_layout(2, 2, signed=True, big_endian=True)
    np.testing.assert_array_equal(native_frame(values.astype(">i2").tobytes(), big), values)


def test_bytes_in_words_of_big_endian_files_lie_swapped() -> None:
    layout = a_layout(1, 3, bits_allocated=8, big_endian=True)
    np.testing.assert_array_equal(native_frame(bytes([2, 1, 0, 3]), layout), [[1, 2, 3]])
    with pytest.raises(DecodeError, match="shares a word"):
        native_frame(bytes([2, 1, 0]), layout)  # the partner of the last byte is missing


def test_planes_become_pixels() -> None:
    layout = a_layout(1, 2, samples=3, bits_allocated=8, photometric="RGB", planar=True)
    np.testing.assert_array_equal(native_frame(bytes([1, 2, 3, 4, 5, 6]), layout), [[[1, 3, 5], [2, 4, 6]]])


def test_one_bit_pixels_begin_at_the_lowest_bit() -> None:
    layout = a_layout(2, 5, bits_allocated=1)
    np.testing.assert_array_equal(native_frame(bytes([0b00100001, 0b10]), layout), [[1, 0, 0, 0, 0], [1, 0, 0, 0, 1]])


def test_shared_chroma_is_repeated_and_a_false_422_is_read_as_it_lies() -> None:
    layout = a_layout(1, 4, samples=3, bits_allocated=8, photometric="YBR_FULL_422")
    shared = native_frame(bytes([10, 20, 100, 200, 30, 40, 110, 210]), layout)
    np.testing.assert_array_equal(shared, [[[10, 100, 200], [20, 100, 200], [30, 110, 210], [40, 110, 210]]])
    full = np.arange(12, dtype=np.uint8)
    np.testing.assert_array_equal(native_frame(full.tobytes(), layout), full.reshape(1, 4, 3))


def test_overlay_bits_are_taken_away_and_the_sign_is_extended() -> None:
    # 12 bits stored; the upper four bits carry an overlay.
    unsigned = a_layout(1, 2, bits_stored=12)
    np.testing.assert_array_equal(native_frame(np.array([0xF123, 0x0FFF], "<u2").tobytes(), unsigned), [[0x123, 0xFFF]])
    signed = a_layout(1, 3, bits_stored=12, signed=True)
    words = np.array([0x0FFF, 0x5800, 0x07FF], "<u2").tobytes()
    np.testing.assert_array_equal(native_frame(words, signed), [[-1, -2048, 2047]])
    high = a_layout(1, 2, bits_stored=12, high_bit=15, signed=True)
    np.testing.assert_array_equal(native_frame(np.array([0xFFF5, 0x0010], "<u2").tobytes(), high), [[-1, 1]])


def test_floating_point_frames() -> None:
    values = np.array([[1.5, np.nan]], np.float32)
    layout = a_layout(1, 2, bits_allocated=32, number="float")
    np.testing.assert_array_equal(native_frame(values.tobytes(), layout), values)
    double = a_layout(1, 2, bits_allocated=64, number="double", big_endian=True)
    np.testing.assert_array_equal(native_frame(values.astype(">f8").tobytes(), double), values.astype(np.float64))


@pytest.mark.parametrize("surplus", [-1, 2, 100])
def test_a_wrong_number_of_bytes_is_refused(surplus: int) -> None:
    with pytest.raises(DecodeError, match=r"expected 8 bytes.*found"):
        native_frame(bytes(8 + surplus), a_layout(2, 2))


@given(
    st.integers(1, 16).flatmap(lambda bits: st.tuples(st.just(bits), st.integers(bits - 1, 15))),
    st.booleans(),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_place_of_the_stored_bits_in_the_word(
    place: tuple[int, int], signed: bool, big: bool, rng: random.Random
) -> None:
    bits, high = place
    low = -(1 << (bits - 1)) if signed else 0
    values = np.array([[rng.randint(low, low + (1 << bits) - 1) for _ in range(5)] for _ in range(3)])
    words = ((values & ((1 << bits) - 1)) << (high + 1 - bits)).astype(np.uint16)
    noise = np.uint16(rng.getrandbits(16) & ~(((1 << bits) - 1) << (high + 1 - bits)) & 0xFFFF)
    layout = a_layout(3, 5, bits_stored=bits, high_bit=high, signed=signed, big_endian=big)
    data = (words | noise).astype(">u2" if big else "<u2").tobytes()
    np.testing.assert_array_equal(native_frame(data, layout), values)


# The layout -----------------------------------------------------------------------------------------------------------


def a_header(**values: object) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for keyword, value in ({"Rows": 4, "Columns": 5, "BitsAllocated": 16} | values).items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def test_what_a_header_leaves_out_gets_its_usual_meaning() -> None:
    layout = layout_of(a_header(PixelRepresentation=0))
    assert (layout.bits_stored, layout.high_bit, layout.samples, layout.photometric) == (16, 15, 1, "MONOCHROME2")
    assert layout_of(a_header(SamplesPerPixel=3, BitsStored=8, BitsAllocated=8)).photometric == "RGB"
    assert layout_of(a_header(BitsAllocated=32)).number == "float"
    assert layout_of(a_header(BitsAllocated=64)).number == "double"
    assert layout_of(a_header(BitsAllocated=32, BitsStored=32)).number == "int"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"Rows": None}, "Rows"),
        ({"Rows": 0}, "Rows"),
        ({"BitsAllocated": None}, "BitsAllocated"),
        ({"BitsAllocated": 12}, "Bits Allocated"),
        ({"BitsStored": 17}, "Bits Stored"),
        ({"BitsStored": 12, "HighBit": 10}, "High Bit"),
        ({"SamplesPerPixel": 9}, "Samples per Pixel"),
        ({"Rows": [3, 4]}, "Rows"),
    ],
)
def test_an_impossible_layout_is_refused_by_name(changes: dict[str, object], names: str) -> None:
    with pytest.raises(DecodeError, match=f"expected.*{names}.*found"):
        layout_of(a_header(**changes))


# Encoded here, decoded there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEG_LOSSLESS, lambda image: imagecodecs.jpeg8_encode(image, lossless=True, bitspersample=16)),
        (JPEG_LS, imagecodecs.jpegls_encode),
        (J2K, lambda image: imagecodecs.jpeg2k_encode(image, codecformat="j2k", reversible=True, level=0)),
        (HTJ2K, imagecodecs.htj2k_encode),
        (JXL, lambda image: imagecodecs.jpegxl_encode(image, lossless=True)),
        (DEFLATE, lambda image: zlib.compress(image.astype("<u2").tobytes())[2:-4]),
    ],
)
def test_signed_values_survive_codecs_that_know_no_sign(syntax: str, encode: object) -> None:
    values = a_picture().astype(np.int16) - 2048
    found = decode_frame(encode(values.view(np.uint16)), syntax, a_layout(*values.shape, signed=True))  # type: ignore[operator]
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, values)
    # The same, BitsStored 13 wide: what the codestream carries above is the sign once more.
    narrow = a_layout(*values.shape, signed=True, bits_stored=13)
    np.testing.assert_array_equal(decode_frame(encode(values.view(np.uint16)), syntax, narrow), values)  # type: ignore[operator]


@pytest.mark.parametrize("encode", [imagecodecs.htj2k_encode, imagecodecs.jpeg2k_encode])
def test_signed_jpeg_2000_in_both_kinds_of_header(encode: object) -> None:
    values = a_picture().astype(np.int16) - 2048
    options = {} if encode is imagecodecs.htj2k_encode else {"codecformat": "j2k", "reversible": True, "level": 0}
    stream = encode(values, **options)  # type: ignore[operator]
    np.testing.assert_array_equal(decode_frame(stream, J2K, a_layout(*values.shape, signed=True)), values)
    unsigned = decode_frame(stream, J2K, a_layout(*values.shape))
    np.testing.assert_array_equal(unsigned, values.view(np.uint16))  # two's complement of the declared width


def test_lossy_values_that_overshoot_do_not_wrap() -> None:
    image = np.full((64, 64), 4095, np.uint16)
    image[::2, ::3] = 0
    stream = imagecodecs.jpeg2k_encode(image, codecformat="j2k", level=25, reversible=False)
    free = decode_frame(stream, f"{ROOT}.4.91", a_layout(64, 64))
    assert free.max() > 4095
    kept = decode_frame(stream, f"{ROOT}.4.91", a_layout(64, 64, bits_stored=12))
    np.testing.assert_array_equal(kept, np.minimum(free, 4095))


def test_colour_components_come_out_in_the_space_the_header_names() -> None:
    y, x = np.mgrid[:64, :64]
    rgb = np.stack([x * 4, y * 4, 255 - x * 2], axis=-1).astype(np.uint8)
    as_ybr = imagecodecs.jpeg8_encode(rgb, level=98, subsampling="444")  # JFIF: holds YCbCr
    layout = a_layout(64, 64, samples=3, bits_allocated=8, photometric="YBR_FULL")
    np.testing.assert_allclose(decode_frame(as_ybr, JPEG_BASELINE, layout).astype(int), rgb_to_ybr(rgb), atol=4)
    lying = a_layout(64, 64, samples=3, bits_allocated=8, photometric="RGB")
    np.testing.assert_allclose(decode_frame(as_ybr, JPEG_BASELINE, lying).astype(int), rgb, atol=8)
    as_rgb = imagecodecs.jpeg8_encode(rgb, level=98, colorspace="RGB", outcolorspace="RGB")  # Adobe marker
    np.testing.assert_allclose(decode_frame(as_rgb, JPEG_BASELINE, lying).astype(int), rgb, atol=8)
    np.testing.assert_allclose(decode_frame(as_rgb, JPEG_BASELINE, layout).astype(int), rgb_to_ybr(rgb), atol=8)


def test_jpeg_2000_resolves_its_component_transformation() -> None:
    rgb = np.stack([a_picture(bits=8)] * 3, axis=-1)
    rgb[..., 1] = 255 - rgb[..., 1]
    stream = imagecodecs.jpeg2k_encode(rgb, codecformat="j2k", reversible=True, level=0, mct=True)
    layout = a_layout(*rgb.shape[:2], samples=3, bits_allocated=8, photometric="YBR_RCT")
    np.testing.assert_array_equal(decode_frame(stream, J2K, layout), rgb)


def test_run_lengths_of_every_width_and_a_byte_of_padding() -> None:
    """A header of 15 offsets, then literal runs: built by hand from PS3.5 annex G."""

    def packed(values: np.ndarray) -> bytes:
        size = values.dtype.itemsize
        planes = values.reshape(-1, values.shape[-1]).T if values.ndim == 3 else [values.ravel()]
        segments = [
            b"".join(bytes([0, byte]) for byte in np.asarray(plane).astype(f">u{size}").view(np.uint8)[part::size])
            for plane in planes
            for part in range(size)
        ]
        offsets = [64 + sum(map(len, segments[:index])) for index in range(len(segments))]
        header = np.zeros(16, "<u4")
        header[0], header[1 : 1 + len(segments)] = len(segments), offsets
        return header.tobytes() + b"".join(segments)

    for kind in (np.uint8, np.uint16, np.uint32):
        for samples in (1, 3):
            shape = (3, 5) if samples == 1 else (3, 5, 3)
            values = np.random.default_rng(1).integers(0, np.iinfo(kind).max, shape, kind)
            layout = a_layout(3, 5, samples=samples, bits_allocated=values.dtype.itemsize * 8, photometric="RGB")
            np.testing.assert_array_equal(decode_frame(packed(values), RLE, layout), values)
            np.testing.assert_array_equal(decode_frame(packed(values) + b"\0", RLE, layout), values)


# Refusals -------------------------------------------------------------------------------------------------------------


def test_a_syntax_without_pixels_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"1\.2\.840\.10008\.1\.2\.4\.94"):
        decode_frame(b"", f"{ROOT}.4.94", a_layout(2, 2))


@pytest.mark.parametrize("syntax", [ROOT, JPEG_BASELINE, J2K, RLE, DEFLATE, JXL, f"{ROOT}.4.102"])
def test_a_declared_size_above_the_limit_is_refused_before_anything_else(syntax: str) -> None:
    with pytest.raises(LimitError, match="at most 1000 bytes"):
        decode_frame(b"", syntax, a_layout(60000, 60000, samples=3), Limits(frame_bytes=1000))


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (JPEG_BASELINE, imagecodecs.jpeg8_encode(a_picture(bits=8))),
        (JPEG_LS, imagecodecs.jpegls_encode(a_picture())),
        (J2K, imagecodecs.jpeg2k_encode(a_picture(), codecformat="j2k")),
        (J2K, imagecodecs.jpeg2k_encode(a_picture(), codecformat="jp2")),
        (HTJ2K, imagecodecs.htj2k_encode(a_picture())),
        (JXL, imagecodecs.jpegxl_encode(a_picture(), lossless=True)),
    ],
)
def test_a_codestream_of_another_size_than_declared_is_refused_without_decoding(
    syntax: str, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jpeg8", "jpegls", "jpeg2k", "htj2k", "jpegxl"):
        monkeypatch.setattr(imagecodecs, f"{name}_decode", lambda *_, **__: pytest.fail("must not be decoded"))
    with pytest.raises(DecodeError, match=r"\(48, 41, 1\).*found \(48, 40, 1\)"):
        decode_frame(stream, syntax, a_layout(48, 41))


def test_more_bits_than_allocated_are_refused() -> None:
    with pytest.raises(DecodeError, match="at most 8 bits"):
        decode_frame(imagecodecs.jpegls_encode(a_picture()), JPEG_LS, a_layout(48, 40, bits_allocated=8))


def test_jpeg_2000_that_declares_more_packets_than_it_has_bytes_is_refused() -> None:
    stream = bytearray(imagecodecs.jpeg2k_encode(np.zeros((2048, 2048), np.uint16), codecformat="j2k", level=0))
    at = stream.index(b"\xff\x52")
    old = int.from_bytes(stream[at + 2 : at + 4], "big")
    levels = stream[at + 9]
    # Precincts of 2 x 2 in every resolution: a million structures from a file of some hundred bytes.
    cod = bytes([stream[at + 4] | 1]) + bytes(stream[at + 5 : at + 14]) + b"\x11" * (levels + 1)
    bomb = bytes(stream[: at + 2]) + (len(cod) + 2).to_bytes(2, "big") + cod + bytes(stream[at + 2 + old :])
    with pytest.raises(DecodeError, match="packets declared"):
        decode_frame(bomb, J2K, a_layout(2048, 2048))


def test_jpeg_too_short_for_its_size_is_refused() -> None:
    stream = bytearray(imagecodecs.jpeg8_encode(a_picture(bits=8)))
    at = stream.index(b"\xff\xc0") + 5
    stream[at : at + 4] = (40000).to_bytes(2, "big") * 2
    with pytest.raises(DecodeError, match=r"at least .* bytes for the 1600000000 pixels"):
        decode_frame(bytes(stream), JPEG_BASELINE, a_layout(40000, 40000, bits_allocated=8))


def test_deflate_and_run_lengths_do_not_unpack_more_than_the_frame() -> None:
    with pytest.raises(DecodeError, match="expected 3840 bytes"):
        decode_frame(zlib.compress(bytes(1 << 24))[2:-4], DEFLATE, a_layout(48, 40))
    with pytest.raises(DecodeError, match="only 64 bytes packed"):
        decode_frame(b"\x02" + bytes(63), RLE, a_layout(4096, 4096))


SAMPLES = {
    "jpeg 8": (JPEG_BASELINE, imagecodecs.jpeg8_encode(a_picture(bits=8)), 8),
    "jpeg 12 lossless": (JPEG_LOSSLESS, imagecodecs.jpeg8_encode(a_picture(), lossless=True, bitspersample=12), 16),
    "jpeg-ls": (JPEG_LS, imagecodecs.jpegls_encode(a_picture()), 16),
    "jpeg 2000": (J2K, imagecodecs.jpeg2k_encode(a_picture(), codecformat="j2k", reversible=True, level=0), 16),
    "jp2": (J2K, imagecodecs.jpeg2k_encode(a_picture(), codecformat="jp2"), 16),
    "htj2k": (HTJ2K, imagecodecs.htj2k_encode(a_picture()), 16),
    "jpeg xl": (JXL, imagecodecs.jpegxl_encode(a_picture(), lossless=True), 16),
    "deflate": (DEFLATE, zlib.compress(a_picture().tobytes())[2:-4], 16),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_any_damage_gives_an_error_or_a_frame_of_the_declared_shape(name: str) -> None:
    """Random edits, most of them in the headers; a crash of the process would end the whole run."""
    syntax, stream, bits = SAMPLES[name]
    layout = a_layout(48, 40, bits_allocated=bits)
    assert decode_frame(stream, syntax, layout).shape == (48, 40)
    rng = random.Random(7)
    refused = 0
    for _ in range(400):
        damaged = bytearray(stream)
        for _ in range(rng.choice([1, 2, 5])):
            at = rng.randrange(min(len(damaged), 200) if rng.random() < 0.6 else len(damaged))
            kind = rng.random()
            if kind < 0.6:
                damaged[at] = rng.choice([0, 1, 127, 128, 254, 255, rng.randrange(256)])
            elif kind < 0.8:
                del damaged[at : at + rng.randrange(1, 9)]
            else:
                damaged[at:at] = rng.randbytes(rng.randrange(1, 9))
        try:
            assert decode_frame(bytes(damaged), syntax, layout).shape == (48, 40)
        except DecodeError as error:
            assert "expected" in str(error)
            refused += 1
    assert refused > 40


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - {"deflate"}))
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.95])
def test_a_cut_codestream_is_refused(name: str, part: float) -> None:
    syntax, stream, bits = SAMPLES[name]
    with pytest.raises(DecodeError):
        decode_frame(stream[: int(len(stream) * part)], syntax, a_layout(48, 40, bits_allocated=bits))


def test_tiles_that_begin_inside_the_image_are_refused() -> None:
    """The standard forbids them, and OpenJPH would never return from them."""
    stream = bytearray(imagecodecs.htj2k_encode(a_picture()))
    at = stream.index(b"\xff\x51") + 4 + 2 + 7 * 4 + 3
    stream[at] = 1
    with pytest.raises(DecodeError, match="first JPEG 2000 tile"):
        codestreams.jpeg2000(bytes(stream))


@given(st.binary(max_size=300))
def test_headers_of_anything_never_raise_anything_else(data: bytes) -> None:
    for begin in (
        b"",
        b"\xff\xd8\xff",
        b"\xff\x4f\xff\x51",
        b"\xff\x0a",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"\0\0\0\x0cJXL ",
    ):
        for header in (codestreams.jpeg, codestreams.jpeg2000, codestreams.jpegxl):
            try:
                header(begin + data)
            except DecodeError:
                continue


# Video ----------------------------------------------------------------------------------------------------------------


def test_video_without_pyav_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    layout = a_layout(16, 16, samples=3, bits_allocated=8, photometric="YBR_PARTIAL_420")
    with pytest.raises(MissingExtraError, match=r"dcmark\[video\]"):
        decode_frame(b"", f"{ROOT}.4.102", layout)


needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs PyAV (extra video)")


@needs_av
@pytest.mark.corpus
@pytest.mark.parametrize("name", ["mpeg2-mpml.100.dcm", "h264-hp41.102.dcm", "hevc-mp51.107.dcm"])
def test_video_frames_are_all_there_and_plausible(corpus: Path, name: str) -> None:
    dataset = pixel_frames.read(corpus / GAPS / name)
    layout = pixel_frames.layout(dataset)
    (stream,) = pixel_frames.frames(dataset)
    every = list(video_frames(stream, layout))
    assert len(every) == dataset.NumberOfFrames
    assert every[0].shape == (dataset.Rows, dataset.Columns, 3)
    second = decode_frame(stream, pixel_frames.syntax_of(dataset), layout, index=1)
    np.testing.assert_array_equal(second, every[1])
    rgb = ybr_to_rgb(second, "YBR_PARTIAL_420")
    assert rgb.std() > 5
    with pytest.raises(DecodeError, match=f"found {len(every)} frames"):
        decode_frame(stream, pixel_frames.syntax_of(dataset), layout, index=10_000)


@needs_av
def test_video_that_is_none_or_names_other_files_is_refused() -> None:
    layout = a_layout(16, 16, samples=3, bits_allocated=8, photometric="YBR_PARTIAL_420")
    for stream in (b"", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", b"ffconcat version 1.0\nfile /etc/hostname\n"):
        with pytest.raises(DecodeError):
            list(video_frames(stream, layout))


@needs_av
def test_video_keeps_its_planes_to_the_bit() -> None:
    import av

    y, x = np.mgrid[:32, :48]
    planes = np.concatenate([(16 + x * 4 + y).ravel(), np.full(16 * 24, 90), np.full(16 * 24, 160)]).astype(np.uint8)
    target = io.BytesIO()
    with av.open(target, "w", format="mpeg2video") as container:
        track = container.add_stream("mpeg2video", rate=25)
        track.width, track.height, track.pix_fmt = 48, 32, "yuv420p"
        track.bit_rate = 8_000_000
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(planes.reshape(48, 48), format="yuv420p")
            container.mux(track.encode(frame))
        container.mux(track.encode())
    layout = a_layout(32, 48, samples=3, bits_allocated=8, photometric="YBR_PARTIAL_420")
    first = next(video_frames(target.getvalue(), layout))
    np.testing.assert_allclose(first[:, :, 0].astype(int), 16 + x * 4 + y, atol=4)
    np.testing.assert_allclose(first[:, :, 1].astype(int), 90, atol=2)
    np.testing.assert_allclose(first[:, :, 2].astype(int), 160, atol=2)
    rng = random.Random(3)
    for _ in range(100):
        damaged = bytearray(target.getvalue())
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with contextlib.suppress(DecodeError):
            assert all(frame.shape == (32, 48, 3) for frame in video_frames(bytes(damaged), layout))
