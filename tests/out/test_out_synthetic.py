"""Generated images as DICOM: valid, told apart in every place, and files like any other to an archive."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import typer.testing
from hypothesis import given
from hypothesis import strategies as st

import dcmark
from dcmark.cli.app import app
from dcmark.errors import OutputExistsError, SourceError, UsageError
from dcmark.out import synthetic
from dcmark.out.template import template_from_file
from dcmark.testing.synthetic import ct_series
from dcmark.train import loop
from dcmark.train.data import ArrayImages, Meaning
from dcmark.train.demo import phantom_data
from dcmark.view.frames import frame

VALIDATOR = shutil.which("dciodvfy")
MADE_BY = synthetic.Provenance("stylegan3", "ab" * 32, "a run", 25_000_000, "cd" * 32)
HU = synthetic.Look("HU", -1350.0, 150.0, (0.7, 0.8), "CT")


NEWER = "not a recognized standard attribute - (0x0008,0x001c)"
"""Releases of the validator that are older than the attribute Synthetic Data do not know its tag."""


def errors_of(path: Path) -> list[str]:
    """What the validator calls an error, but that it has not heard of Synthetic Data."""
    assert VALIDATOR is not None
    said = subprocess.run([VALIDATOR, str(path)], capture_output=True, text=True, timeout=60, check=False)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error") and NEWER not in line]


def chest(side: int = 32) -> np.ndarray[Any, Any]:
    return phantom_data(1, side)._images[0].astype(np.float32)


LOOKS: dict[str, tuple[synthetic.Look, int]] = {
    "CT": (HU, 1),
    "CT without spacing": (synthetic.Look("HU", -1350.0, 150.0, None, "CT"), 1),
    "MR": (synthetic.Look("", 0.0, 4095.0, (1.0, 1.0), "MR"), 1),
    "SUV": (synthetic.Look("g/ml{SUVbw}", 0.0, 20.0, None, "PT"), 1),
    "unknown": (synthetic.Look(), 1),
    "colours": (synthetic.Look("", 0.0, 255.0, None, "XC"), 3),
}


@pytest.mark.skipif(VALIDATOR is None, reason="needs dciodvfy of Debian's dicom3tools")
@pytest.mark.parametrize("name", list(LOOKS))
@pytest.mark.parametrize("side", [32, 33])
def test_valid(name: str, side: int, tmp_path: Path) -> None:
    look, channels = LOOKS[name]
    image = np.linspace(look.low, look.high, channels * side * side).reshape(channels, side, side)
    for volume in (False, True):
        out = tmp_path / str(volume)
        paths = synthetic.write([image, image], out, look, MADE_BY, made_from=["seed 1", "seed 2"], volume=volume)
        for path in paths:
            assert errors_of(path) == []


@pytest.mark.skipif(VALIDATOR is None, reason="needs dciodvfy of Debian's dicom3tools")
def test_valid_after_any_template(bundled: Path, tmp_path: Path) -> None:
    """Every real file that pydicom brings lends what it has, whatever that is."""
    lent = 0
    for source in sorted(bundled.glob("*.dcm")):
        try:
            template = template_from_file(source)
        except SourceError:
            continue
        out = tmp_path / source.stem
        (path,) = synthetic.write([chest()], out, HU, MADE_BY, made_from=["seed 1"], template=template)
        assert errors_of(path) == [], source.name
        lent += 1
    assert lent > 50


def test_values_are_those_that_were_made(tmp_path: Path) -> None:
    image = chest()
    (path,) = synthetic.write([image], tmp_path / "ct", HU, MADE_BY, made_from=["seed 1"])
    ds = pydicom.dcmread(path)
    assert (ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType) == (1, 0, "HU")
    np.testing.assert_array_equal(ds.pixel_array, np.rint(image[0]))
    suv = synthetic.Look("g/ml{SUVbw}", 0.0, 20.0, None, "PT")
    made = np.random.default_rng(0).uniform(0, 20, (1, 16, 16))
    (path,) = synthetic.write([made], tmp_path / "pt", suv, MADE_BY, made_from=["seed 1"])
    ds = pydicom.dcmread(path)
    stored = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    np.testing.assert_allclose(stored, made[0], atol=20 / 65535)


@given(st.floats(-40_000, 40_000), st.floats(-1000, 1000), st.floats(1e-3, 5000))
def test_any_range_of_values_fits(value: float, low: float, span: float) -> None:
    """What lies outside of what is stored is cut, never wrapped around."""
    look = synthetic.Look("", low, low + span, None, "MR")
    series = synthetic.Series("SYNTHETIC", 1)
    ds = synthetic.dataset_of(
        np.full((1, 8, 8), value), look, MADE_BY, series=series, study_uid=synthetic.new_uid(), made_from="seed 1"
    )
    stored = np.frombuffer(ds.PixelData, "<u2")[0] * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    assert stored == pytest.approx(min(max(value, low), low + span), abs=span / 30_000 + 1e-6 * abs(low))


def test_it_says_everywhere_that_it_is_synthetic(tmp_path: Path) -> None:
    (path,) = synthetic.write([chest()], tmp_path / "out", HU, MADE_BY, made_from=["seed 77"])
    ds = pydicom.dcmread(path)
    assert ds.SyntheticData == "YES"
    assert list(ds.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert "SYNTHETIC" in str(ds.PatientName)
    assert all("SYNTHETIC" in ds[word].value for word in ("PatientID", "SeriesDescription", "StudyDescription"))
    (equipment,) = ds.ContributingEquipmentSequence
    for text in (ds.DerivationDescription, equipment.ContributionDescription):
        for word in ("stylegan3", "ab" * 32, "seed 77", "a run", "25000000 images", "cd" * 32):
            assert word in text


def test_a_template_lends_geometry_and_no_identity(tmp_path: Path) -> None:
    ct_series(tmp_path / "in", np.zeros((3, 64, 48)), patient="Canary^Real", thickness_mm=2.5)
    source = min((tmp_path / "in").rglob("*.dcm"))
    real = pydicom.dcmread(source)
    template = template_from_file(source)
    look = synthetic.Look("HU", -1350.0, 150.0, None, "CT")
    paths = synthetic.write(
        [chest()] * 3, tmp_path / "out", look, MADE_BY, made_from=["a", "b", "c"], template=template, volume=True
    )
    made = [pydicom.dcmread(path) for path in paths]
    assert list(made[0].ImageOrientationPatient) == list(real.ImageOrientationPatient)
    field = [float(step) * size for step, size in zip(real.PixelSpacing, (real.Rows, real.Columns), strict=True)]
    assert [float(step) * 32 for step in made[0].PixelSpacing] == pytest.approx(field)
    heights = [float(ds.ImagePositionPatient[2]) for ds in made]
    assert np.diff(heights) == pytest.approx([2.5, 2.5])
    taken = {str(real[word].value) for word in ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID",
                                                "SOPInstanceUID", "FrameOfReferenceUID")}  # fmt: skip
    text = b"".join(path.read_bytes() for path in paths).decode("latin-1")
    assert not [value for value in taken if value in text]
    assert "Canary" not in text


def test_uids_are_new_and_grouped(tmp_path: Path) -> None:
    def written(name: str, volume: bool) -> list[pydicom.Dataset]:
        words = ["seed 1", "seed 2", "seed 3"]
        paths = synthetic.write([chest()] * 3, tmp_path / name, HU, MADE_BY, made_from=words, volume=volume)
        return [pydicom.dcmread(path) for path in paths]

    single, again, walk = written("a", False), written("b", False), written("c", True)
    uids = [ds.SOPInstanceUID for ds in (*single, *again, *walk)]
    assert len(set(uids)) == 9
    assert all(len(uid) <= 64 and re.fullmatch(r"2\.25\.[1-9]\d*", uid) for uid in uids)
    assert len({ds.SeriesInstanceUID for ds in single}) == 3  # nothing holds two of them together in space
    assert len({ds.SeriesInstanceUID for ds in walk}) == 1
    assert "walk" in walk[0].SeriesDescription
    assert "not anatomy" in walk[0].SeriesDescription
    assert [ds.InstanceNumber for ds in walk] == [1, 2, 3]


@pytest.mark.parametrize(
    "image", [np.zeros((2, 8, 8)), np.zeros((8, 8)), np.full((1, 8, 8), np.nan), np.full((1, 8, 8), np.inf)]
)
def test_what_is_no_image(image: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected"):
        synthetic.write([image], tmp_path / "out", HU, MADE_BY, made_from=["seed 1"])


def test_templates_that_are_none_and_folders_in_use(tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("nothing")
    with pytest.raises(SourceError):
        template_from_file(tmp_path / "text.dcm")
    with pytest.raises(OutputExistsError):
        synthetic.write([chest()], tmp_path, HU, MADE_BY, made_from=["seed 1"])


ODD: dict[str, list[Any]] = {
    "PixelSpacing": [b"", b"a\\b", b"1", b"0\\0", b"-1\\1", b"1e400\\1", b"nan\\1"],
    "ImageOrientationPatient": [b"", b"1\\0", b"0\\0\\0\\0\\0\\0", b"1e300\\0\\0\\0\\1\\0"],
    "ImagePositionPatient": [b"", b"x", b"1e300\\0\\0"],
    "SliceThickness": [b"", b"thick", b"-2", b"1e400"],
    "SpacingBetweenSlices": [b"", b"0", b"1\\2"],
    "WindowCenter": [b"", b"50\\60", b"bright"],
    "WindowWidth": [b"", b"0", b"400"],
    "KVP": [b"high"],
    "BodyPartExamined": [b"knee", b"KNEE", b"A" * 40, b"CHEST\\ABDOMEN", b"L\xc3\xb6we"],
    "PatientPosition": [b"up", b"FFP", b""],
    "ConvolutionKernel": [b"x" * 80, b"B31f"],
    "Modality": [b"", b"mr", b"CT\\MR"],
}
"""Values that real templates have, allowed or not."""


@pytest.mark.parametrize("odd", list(ODD))
def test_templates_with_odd_values(odd: str, tmp_path: Path) -> None:
    """Read from a file, as they come; what cannot be lent is left out, and the result stays valid."""
    for number, value in enumerate(ODD[odd]):
        ct_series(tmp_path / f"in {number}", np.zeros((1, 64, 64)))
        path = min((tmp_path / f"in {number}").rglob("*.dcm"))
        ds = pydicom.dcmread(path)
        tag = pydicom.tag.Tag(odd)
        vr = pydicom.datadict.dictionary_VR(tag)
        ds[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value + b" " * (len(value) % 2), 0, False, True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds.save_as(path)
        look = synthetic.Look("HU", -1350.0, 150.0, None, "")
        template = template_from_file(path)
        (made,) = synthetic.write(
            [chest()], tmp_path / f"out {number}", look, MADE_BY, made_from=["seed 1"], template=template
        )
        assert pydicom.dcmread(made).Rows == 32
        if VALIDATOR is not None:
            assert errors_of(made) == [], value


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has hardly learned, of CT in HU."""
    folder = tmp_path_factory.mktemp("trained")
    meaning = Meaning(0.0, 65535.0, 1500 / 65535, -1350.0, "HU", "CT", (2.0, 2.0))
    pixels = np.random.default_rng(0).integers(0, 65536, (16, 32, 32)).astype(np.uint16)
    options = loop.Options(images=32, batch=8, checkpoint_images=32, report_images=32, sheet_images=32)
    small = {"capacity": 64, "widest": 8, "layers": 4, "latent": 8, "style": 8, "margin": 2}
    loop.train("stylegan3", small, ArrayImages(pixels, meaning=meaning), folder / "run", options, device="cpu")
    return folder / "run"


def call(*words: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(app, [*words, "--quiet"])


def test_from_a_run_into_an_archive(run: Path, tmp_path: Path) -> None:
    """generate, ingest, look, annotate, restore: a file like any other, and always to be told apart."""
    done = call("generate", str(run), "-n", "4", "--seed", "9", "--format", "dicom", "--out", str(tmp_path / "made"))
    assert done.exit_code == 0, done.exception
    files = sorted((tmp_path / "made").iterdir())
    assert len(files) == 4
    if VALIDATOR is not None:
        assert [errors_of(path) for path in files] == [[]] * 4
    ct_series(tmp_path / "real", np.zeros((3, 32, 32)))
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    report = dcmark.ingest([tmp_path / "made", tmp_path / "real"], archive)
    report.raise_for_errors()
    assert (report.files, report.opaque) == (7, 0)
    told = dcmark.query(archive, "SELECT count(*) AS n FROM files WHERE series_description LIKE 'SYNTHETIC%'")
    assert told.to_pylist()[0]["n"] == 4
    both = dcmark.query(archive, "SELECT count(*) AS n FROM files WHERE image_type LIKE 'DERIVED%SECONDARY%'")
    assert both.to_pylist()[0]["n"] == 4
    npy = call("generate", str(run), "-n", "4", "--seed", "9", "--format", "npy", "--out", str(tmp_path / "npy"))
    assert npy.exit_code == 0, npy.exception
    values = np.load(tmp_path / "npy" / "images.npy")
    rows = dcmark.query(
        archive, "SELECT sha256, path FROM files WHERE series_description LIKE 'SYNTHETIC%' ORDER BY path"
    ).to_pylist()
    for row, expected in zip(rows, values, strict=True):
        shown = frame(archive, row["sha256"], 0).physical("hu")
        assert np.abs(shown.values - expected[0]).max() <= 0.5
    dcmark.restore(archive, tmp_path / "back")
    back = {path.read_bytes() for path in (tmp_path / "back").rglob("*.dcm")}
    assert {path.read_bytes() for path in files} <= back


def test_a_series_of_an_archive_as_template(run: Path, tmp_path: Path) -> None:
    ct_series(tmp_path / "in", np.zeros((2, 64, 64)), patient="Canary^Real")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "in"], archive).raise_for_errors()
    (series,) = dcmark.query(archive, "SELECT DISTINCT series_instance_uid AS uid FROM files").to_pylist()
    words = ["generate", str(run), "-n", "3", "--walk", "2", "-f", "dicom", "--template", str(tmp_path / "a.dcmark")]
    done = call(*words, "--series", series["uid"], "--out", str(tmp_path / "made"))
    assert done.exit_code == 0, done.exception
    made = [pydicom.dcmread(path) for path in sorted((tmp_path / "made").iterdir())]
    assert len({ds.SeriesInstanceUID for ds in made}) == 1
    assert "walk" in made[0].SeriesDescription
    assert "Canary" not in str(made[0])
    for more, words_of_error in (([], "--series"), (["--series", "1.2.3"], "no such series")):
        wrong = call(*words, *more, "--out", str(tmp_path / "other"))
        assert isinstance(wrong.exception, UsageError)
        assert words_of_error in str(wrong.exception)


@pytest.mark.parametrize(("form", "deepest"), [("png", 255), ("png16", 65535)])
def test_pictures(run: Path, tmp_path: Path, form: str, deepest: int) -> None:
    import imagecodecs

    done = call("generate", str(run), "-n", "3", "-f", form, "--out", str(tmp_path / "made"), "--json")
    assert done.exit_code == 0, done.exception
    told = json.loads((tmp_path / "made" / "generated.json").read_text("utf-8"))
    assert told["synthetic"] is True
    assert told["seeds"] == [0, 1, 2]
    pictures = [imagecodecs.imread(str(path)) for path in sorted((tmp_path / "made").glob("*.png"))]
    assert len(pictures) == 3
    assert np.iinfo(pictures[0].dtype).max == deepest
    again = call("generate", str(run), "-n", "3", "-f", form, "--out", str(tmp_path / "made"))
    assert isinstance(again.exception, OutputExistsError)


def test_truncation_and_turning(run: Path, tmp_path: Path) -> None:
    for name, words in {"plain": [], "typical": ["--truncation", "0.3"], "turned": ["--rotate", "90"]}.items():
        done = call("generate", str(run), "-n", "2", "-f", "npy", *words, "--out", str(tmp_path / name))
        assert done.exit_code == 0, done.exception
    plain, typical, turned = (np.load(tmp_path / name / "images.npy") for name in ("plain", "typical", "turned"))
    assert np.abs(typical[0] - typical[1]).mean() < np.abs(plain[0] - plain[1]).mean()
    assert not np.array_equal(plain, turned)
    wrong = call("generate", str(run), "--walk", "1", "--out", str(tmp_path / "x"))
    assert isinstance(wrong.exception, UsageError)
