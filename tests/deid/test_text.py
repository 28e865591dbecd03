"""Text in pixels: found, masked and nothing else changed, led back; or held back and said so."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian

from dcmark.deid.apply import Deidentifier
from dcmark.deid.folders import deidentify_folders
from dcmark.deid.pixels.detector import Box, PaddleTextDetector
from dcmark.deid.pixels.frames import Pictures
from dcmark.deid.pixels.policy import Region, TextPolicy, at_risk
from dcmark.deid.profile import load_profile
from dcmark.deid.vault import Secret, Vault
from dcmark.errors import HeldBackError, UsageError
from dcmark.testing import burned_in, corpus
from dcmark.testing.corpus import bundled

BASIC = load_profile("basic")
BASE = "1.2.840.10008.1.2."
BOX = Box(8, 10, 30, 90)


class Here:
    """A detector that always finds the same place."""

    name = "here"

    def find(self, grey):
        return [BOX]


def policy(**changes) -> TextPolicy:
    made = TextPolicy("mask", **changes)
    made._loaded["ppocr"] = Here()
    return made


def installed() -> PaddleTextDetector:
    pytest.importorskip("rapidocr_onnxruntime", reason="the extra 'text' is not installed")
    pytest.importorskip("skimage", reason="the extra 'text' is not installed")
    return PaddleTextDetector()


def picture(kind: str, syntax: str = BASE + "1", frames: int = 1, **tags) -> tuple[bytes, np.ndarray]:
    """A file of a modality at risk and its values (frames, rows, columns[, samples])."""
    rng = np.random.default_rng(3)
    samples = 3 if kind in ("RGB", "YBR_FULL", "YBR_RCT", "planar") else 1
    deep = kind in ("MONOCHROME2", "MONOCHROME1", "signed")
    low, high = (-500, 1500) if kind == "signed" else (300, 4000) if deep else (20, 250)
    dtype = np.int16 if kind == "signed" else np.uint16 if deep else np.uint8
    shape = (frames, 64, 100, *((3,) if samples == 3 else ()))
    values = rng.integers(low, low + (high - low) // (6 if samples == 3 else 1), shape).astype(dtype)
    one = pydicom.dcmread(bundled() / "CT_small.dcm")
    for keyword in ("DataSetTrailingPadding", "RescaleType", "WindowCenter", "WindowWidth"):
        if keyword in one:
            del one[keyword]
    one.Modality, one.Rows, one.Columns, one.SamplesPerPixel = "US", 64, 100, samples
    one.PhotometricInterpretation = {"signed": "MONOCHROME2", "planar": "RGB", "grey8": "MONOCHROME2"}.get(kind, kind)
    one.BitsAllocated = 16 if deep else 8
    one.BitsStored = {"signed": 16, "MONOCHROME2": 12, "MONOCHROME1": 12}.get(kind, 8)
    one.HighBit, one.PixelRepresentation = one.BitsStored - 1, int(kind == "signed")
    if frames > 1:
        one.NumberOfFrames = frames
    if samples == 3:
        one.PlanarConfiguration = int(kind == "planar")
    for keyword, value in tags.items():
        setattr(one, keyword, value)
    one.file_meta.TransferSyntaxUID = UID(syntax)
    if syntax == ExplicitVRLittleEndian:
        lying = np.moveaxis(values, -1, 1) if kind == "planar" else values
        one.PixelData = np.ascontiguousarray(lying).tobytes()
    else:
        one.PixelData = encapsulate([packed(frame, syntax, one) for frame in values])
        one["PixelData"].is_undefined_length = True
    out = io.BytesIO()
    one.save_as(out, enforce_file_format=True)
    return out.getvalue(), values


def packed(frame: np.ndarray, syntax: str, header: pydicom.Dataset) -> bytes:
    rct = header.PhotometricInterpretation == "YBR_RCT"
    number = syntax.removeprefix(BASE)
    if number in ("4.90", "4.91"):
        return imagecodecs.jpeg2k_encode(frame, 0, codecformat="j2k", reversible=True, mct=rct)
    if number == "4.201":
        return imagecodecs.htj2k_encode(frame, reversible=True, rgb=rct)
    if number == "4.80":
        return imagecodecs.jpegls_encode(frame)
    if number == "4.50":
        return imagecodecs.jpeg8_encode(frame, 90, colorspace="YCBCR" if frame.ndim == 3 else None)
    from pydicom.pixels import get_encoder
    from pydicom.uid import RLELossless

    return get_encoder(RLELossless).encode(
        frame, encoding_plugin="pydicom", rows=64, columns=100, number_of_frames=1, planar_configuration=0,
        samples_per_pixel=frame.ndim - 1 if frame.ndim == 2 else 3, bits_allocated=header.BitsAllocated,
        bits_stored=header.BitsAllocated, pixel_representation=0, photometric_interpretation="RGB"
        if frame.ndim == 3 else "MONOCHROME2",
    )  # fmt: skip


NATIVE = [(kind, BASE + "1") for kind in ("MONOCHROME2", "MONOCHROME1", "signed", "grey8", "RGB", "planar", "YBR_FULL")]
PACKED = [
    (kind, BASE + syntax)
    for kind, syntaxes in (
        ("MONOCHROME2", ("4.90", "4.91", "4.201", "4.80", "5")),
        ("grey8", ("4.90", "4.80", "5", "4.50")),
        ("RGB", ("4.90", "4.201", "5", "4.80")),
        ("YBR_RCT", ("4.90", "4.201")),
    )
    for syntax in syntaxes
]


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(("kind", "syntax"), NATIVE + PACKED)
def test_only_the_box_is_masked_and_the_vault_leads_back(tmp_path: Path, kind: str, syntax: str, frames: int) -> None:
    data, _ = picture(kind, syntax, frames)
    with Vault.create(tmp_path / "vault", Secret(key=b"k" * 32)) as vault:
        made = Deidentifier(BASIC, vault=vault, text=policy()).file(memoryview(data), "a/b.dcm")
    before, after = Pictures(memoryview(data)), Pictures(memoryview(made.data))
    for number in range(frames):
        old, new = before.stored(number), after.stored(number)
        inside = np.zeros(old.shape[:2], bool)
        inside[BOX.top : BOX.bottom, BOX.left : BOX.right] = True
        assert np.array_equal(old[~inside], new[~inside])
        assert len(np.unique(new[inside], axis=0)) == 1
    assert made.record.rebuild(memoryview(made.data)) == data
    header = pydicom.dcmread(io.BytesIO(made.data))
    assert header.BurnedInAnnotation == "NO"
    assert "113101" in [item.CodeValue for item in header.DeidentificationMethodCodeSequence]
    assert ("7FE00010", "mask") in made.changes
    same = syntax.removeprefix(BASE) not in ("4.50",)
    assert header.file_meta.TransferSyntaxUID == (syntax if same else BASE + "4.90")
    if syntax == BASE + "1" and kind != "planar":
        shown = header.pixel_array  # another reader agrees
        assert shown.shape[-3 if shown.ndim == 4 or (shown.ndim == 3 and kind in ("RGB", "YBR_FULL")) else -2 :]


def test_the_vault_keeps_little_of_a_native_file(tmp_path: Path) -> None:
    data, _ = picture("MONOCHROME2", frames=20)
    made = Deidentifier(BASIC, b"k" * 32, text=policy()).file(memoryview(data), "b.dcm")
    boxed = 20 * 2 * (BOX.bottom - BOX.top) * (BOX.right - BOX.left)
    assert len(made.record.literal) < boxed + 8000 < len(data) / 2


def test_files_at_risk_are_held_back_where_nobody_masks() -> None:
    data, _ = picture("grey8")
    tool = Deidentifier(BASIC, b"k" * 32, text=TextPolicy("hold"))
    with pytest.raises(HeldBackError, match=r"modality US.*--text"):
        tool.file(memoryview(data), "b.dcm")
    calm = (bundled() / "CT_small.dcm").read_bytes()
    header = pydicom.dcmread(io.BytesIO(tool.file(memoryview(calm), "b.dcm").data))
    assert "BurnedInAnnotation" not in header  # nobody looked, so nothing is claimed
    assert "113101" not in [item.CodeValue for item in header.DeidentificationMethodCodeSequence]
    kept = Deidentifier(BASIC, b"k" * 32, text=TextPolicy("keep")).file(memoryview(data), "b.dcm")
    assert "BurnedInAnnotation" not in pydicom.dcmread(io.BytesIO(kept.data))


@pytest.mark.parametrize(
    ("tags", "risk"),
    [
        ({"Modality": "CT"}, False),
        ({"Modality": "CT", "BurnedInAnnotation": "YES"}, True),
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, True),
        ({"Modality": "MR", "ConversionType": "SI"}, True),
        ({"Modality": "CR"}, True),
        ({"Modality": "SEG"}, False),
        ({}, True),
    ],
)
def test_who_is_at_risk(tags: dict, risk: bool) -> None:
    header = pydicom.Dataset()
    for keyword, value in tags.items():
        setattr(header, keyword, value)
    assert bool(at_risk(header)) == risk


def test_what_cannot_be_looked_at_or_changed_is_held_back() -> None:
    data, _ = picture("MONOCHROME2", BASE + "4.90")
    broken = data.replace(b"\xff\x4f\xff\x51", b"\xff\x4f\xff\x00")
    with pytest.raises(HeldBackError, match="decoded"):
        Deidentifier(BASIC, b"k" * 32, text=policy()).file(memoryview(broken), "b.dcm")
    odd, _ = picture("MONOCHROME2", HighBit=14)
    with pytest.raises(HeldBackError):
        Deidentifier(BASIC, b"k" * 32, text=policy()).file(memoryview(odd), "b.dcm")

    class All(Here):
        def find(self, grey):
            return [Box(0, 0, *grey.shape)]

    document = TextPolicy("mask")
    document._loaded["ppocr"] = All()
    with pytest.raises(HeldBackError, match="document"):
        Deidentifier(BASIC, b"k" * 32, text=document).file(memoryview(picture("grey8")[0]), "b.dcm")


def test_without_the_detector_files_are_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    data, _ = picture("grey8")
    with pytest.raises(HeldBackError, match=r"dcmark\[text\]"):
        Deidentifier(BASIC, b"k" * 32, text=TextPolicy("mask")).file(memoryview(data), "b.dcm")


def test_a_site_names_where_its_devices_write(tmp_path: Path) -> None:
    place = tmp_path / "site.toml"
    place.write_text(
        'options = ["pixels"]\n[[regions]]\nmanufacturer = "acme"\nrows = 64\ncolumns = 100\nboxes = [[0, 0, 6, 100]]\n'
    )
    profile = load_profile(str(place))
    assert profile.regions == (Region("acme", "", 64, 100, (Box(0, 0, 6, 100),)),)

    class Nothing(Here):
        def find(self, grey):
            return []

    for maker, gone in (("ACME ", True), ("Other", False)):
        text = TextPolicy("mask", regions=profile.regions)
        text._loaded["ppocr"] = Nothing()
        data, values = picture("grey8", Manufacturer=maker)
        made = Deidentifier(profile, b"k" * 32, text=text).file(memoryview(data), "b.dcm")
        shown = Pictures(memoryview(made.data)).stored(0)
        assert (len(np.unique(shown[:6])) == 1) == gone
        assert np.array_equal(shown[6:], values[0, 6:])
    place.write_text("[[regions]]\nrows = 10\ncolumns = 10\nboxes = [[0, 0, 11, 10]]\n")
    with pytest.raises(UsageError, match="boxes"):
        load_profile(str(place))
    with pytest.raises(UsageError, match="faces"):
        load_profile("basic+faces")


def test_a_page_shows_what_was_done(tmp_path: Path) -> None:
    from dcmark.deid.pixels.review import Review

    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.dcm").write_bytes(picture("grey8")[0])
    (tmp_path / "in/b.dcm").write_bytes(picture("MONOCHROME2", BASE + "4.90")[0].replace(b"\xffO\xffQ", b"\xffO\xff\0"))
    tool = Deidentifier(BASIC, b"k" * 32, text=policy())
    tool.review = Review()
    report = deidentify_folders([tmp_path / "in"], tmp_path / "out", tool)
    assert (report.files, report.held_back) == (1, 1)
    tool.review.write(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("data:image/png") == 2
    assert "1 files were masked, 1 held back" in page


# The detector


def real_backgrounds(folder: Path) -> dict[str, list[np.ndarray]]:
    """CT, US and CR pictures without text, 8 bits."""
    names = {
        "ct": ["FNNDSC+data/**/*.dcm", "derived/j2k-lossless-ct-series/*.dcm", "pydicom+pydicom-data/**/693_J2KR.dcm",
               "pypi+dicompyler-core*/**/ct.0.dcm"],
        "cr": ["pydicom+pydicom-data/**/RG3_J2KI.dcm", "fo-dicom+fo-dicom/**/OutOfBoundsOverlay.dcm"],
        "us": ["pydicom+pydicom-data/**/OBXXXX1A.dcm"],
    }  # fmt: skip
    found: dict[str, list[np.ndarray]] = {}
    for kind, patterns in names.items():
        for pattern in patterns:
            for place in sorted(folder.glob(pattern))[::9]:
                grey = next(iter(Pictures(memoryview(place.read_bytes())).shown()))
                if kind == "us":  # its fan; words stand around it
                    grey = np.kron(grey[90:346, 180:436], np.ones((2, 2), np.uint8))
                if min(grey.shape) >= 200:
                    found.setdefault(kind, []).append(grey)
    return found


def painted_backgrounds() -> dict[str, list[np.ndarray]]:
    """A chest, a fan of speckle and a film that do not exist."""
    from dcmark.testing.phantom import phantom

    slices = phantom((4, 512, 512), seed=2, region="chest")
    row, column = np.mgrid[0:512, -256:256]
    rng = np.random.default_rng(4)
    speckle = np.kron(rng.rayleigh(45, (256, 256)), np.ones((2, 2))) * (np.abs(column) < row * 0.7) * (row > 40)
    film = 60 + 120 * np.exp(-((column / 90) ** 2)) + rng.normal(0, 4, row.shape)
    return {
        "ct": [np.clip((one + 160) / 400 * 255, 0, 255).astype(np.uint8) for one in slices],
        "us": [np.clip(speckle, 0, 255).astype(np.uint8)],
        "cr": [np.clip(film, 0, 255).astype(np.uint8)],
    }


def test_the_detector_finds_words() -> None:
    if not burned_in.fonts():
        pytest.skip("no font with Cyrillic letters is installed (Debian: fonts-dejavu-core)")
    found = burned_in.measure(installed(), painted_backgrounds(), 60)
    assert found.recall >= 0.98, found
    assert found.clean_covered <= 0.03


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_thousand_words_over_real_pictures() -> None:
    folder = corpus.find()
    if folder is None or not burned_in.fonts():
        pytest.skip("the corpus or a font with Cyrillic letters is not here")
    found = burned_in.measure(installed(), real_backgrounds(folder), 1000)
    assert found.recall >= 0.99, found
    assert found.clean_covered <= 0.035  # 3 % is wanted; docs/concepts/burned-in-text.md tells what was measured


def test_the_command(tmp_path: Path) -> None:
    installed()
    if not burned_in.fonts():
        pytest.skip("no font with Cyrillic letters is installed (Debian: fonts-dejavu-core)")
    from dcmark.cli import run

    ((_, grey, words),) = burned_in.pictures({"us": painted_backgrounds()["us"]}, 4, seed=9)
    one = pydicom.dcmread(io.BytesIO(picture("grey8")[0]))
    one.Rows, one.Columns = grey.shape
    one.PixelData = grey.tobytes()
    (tmp_path / "in").mkdir()
    one.save_as(tmp_path / "in/1.dcm")
    original = hashlib.sha256((tmp_path / "in/1.dcm").read_bytes()).digest()
    keys = ["--vault", str(tmp_path / "v"), "--key-file", str(tmp_path / "k"), "-q"]
    assert run(["deidentify", str(tmp_path / "in"), str(tmp_path / "held"), *keys]) == 3
    out = tmp_path / "out"
    page = ["--review", str(tmp_path / "page.html")]
    assert run(["deidentify", str(tmp_path / "in"), str(out), *keys, "--profile", "basic+pixels", *page]) == 0
    (clean,) = (place for place in out.rglob("*") if place.is_file())
    shown = pydicom.dcmread(clean).pixel_array
    for word in words:
        assert np.ptp(shown[word.letters]) == 0, word.text
    assert (tmp_path / "page.html").exists()
    assert (
        run(
            [
                "reidentify",
                str(out),
                str(tmp_path / "v"),
                str(tmp_path / "back"),
                "--key-file",
                str(tmp_path / "k"),
                "-q",
            ]
        )
        == 0
    )
    (back,) = (place for place in (tmp_path / "back").rglob("*") if place.is_file())
    assert hashlib.sha256(back.read_bytes()).digest() == original
