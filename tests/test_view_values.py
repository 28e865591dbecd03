"""Values out of an archive: those of the files that went in, for every frame, scale and unit."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

import dcmark
import pixel_frames
from dcmark.archive.store import Archive
from dcmark.config import Limits
from dcmark.errors import DcmarkError, DecodeError, LimitError, UnsupportedError, UsageError, ValueMeaningError
from dcmark.read.codecs import SYNTAXES, decode_frame
from dcmark.read.pixels import quantities, recipe_of
from dcmark.read.windows import NAMED, Window
from dcmark.view.files import DECIDING_COLUMNS, series_start, stored_files
from dcmark.view.frames import frame, map_frames, read_frames
from dcmark.view.recipes import Recipes, _marks, columns_suffice
from dcmark.view.values import common_window, stack_display, stack_stored, stack_values

IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED = (f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".2", ".1.99"))
J2K = "1.2.840.10008.1.2.4.90"
CT_CLASS, PET_CLASS = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.128"


ODD_VALUES = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
"""pydicom warns about what real headers hold."""


def a_file(
    path: Path, stored: np.ndarray, syntax: str = EXPLICIT, frames: list[bytes] | None = None, **more: Any
) -> str:
    """Write a DICOM file; returns its SHA-256. ``stored`` is (rows, columns) or (frames, rows, columns)."""
    dataset = Dataset()
    signed = stored.dtype.kind == "i"
    bits = stored.dtype.itemsize * 8
    values: dict[str, Any] = {
        "SOPClassUID": CT_CLASS,
        "SOPInstanceUID": f"2.25.{int(hashlib.sha256(path.name.encode()).hexdigest()[:24], 16)}",
        "StudyInstanceUID": "2.25.1",
        "SeriesInstanceUID": "2.25.2",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[-2],
        "Columns": stored.shape[-1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(signed),
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
    }
    if stored.ndim == 3:
        values["NumberOfFrames"] = stored.shape[0]
    for keyword, value in (values | more).items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    order = ">" if syntax == BIG_ENDIAN else "<"
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    if syntax == BIG_ENDIAN and bits == 8:
        data += b"\0" * (len(data) % 2)
        data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
    dataset.PixelData = encapsulate(frames) if frames is not None else data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if frames is not None or (bits == 8 and syntax != BIG_ENDIAN) else "OW"
    dataset["PixelData"].is_undefined_length = frames is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path, enforce_file_format=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def archived(folder: Path) -> Archive:
    archive = dcmark.open_archive(folder.with_name(folder.name + ".dcmark"), create=True)
    report = dcmark.ingest([str(folder)], archive)
    report.raise_for_errors()
    return archive


def a_slice(seed: int = 0, shape: tuple[int, ...] = (16, 12)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3000, shape).astype(np.int16)


# Every real file ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled_archive(tmp_path_factory: pytest.TempPathFactory, bundled: Path) -> tuple[Archive, list[Path]]:
    archive = dcmark.open_archive(tmp_path_factory.mktemp("bundled") / "a.dcmark", create=True)
    dcmark.ingest([str(bundled)], archive)
    return archive, sorted(path for path in bundled.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def corpus_archive(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> tuple[Archive, list[Path]]:
    folders = [
        corpus / name
        for name in (
            "cornerstonejs+cornerstone3D", "derived/transfer-syntax-gaps", "pydicom+pydicom-data",
            "pydicom+pylibjpeg-data", "QIICR+dcmqi", "ImagingDataCommons+highdicom", "neurolabusc+dcm_qa_enh",
            "icometrix+dicom2nifti",
        )
    ]  # fmt: skip
    folders = [folder for folder in folders if folder.is_dir()]
    assert len(folders) >= 6
    archive = dcmark.open_archive(tmp_path_factory.mktemp("corpus") / "a.dcmark", create=True)
    dcmark.ingest([str(folder) for folder in folders], archive)
    return archive, sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def real_frames(paths: list[Path]) -> Iterator[tuple[Path, str, Dataset, list[bytes]]]:
    """DICOM files with pixels: their SHA-256, header and up to three frames."""
    seen = set()
    for path in paths:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = pixel_frames.read(path)
                syntax = SYNTAXES.get(pixel_frames.syntax_of(dataset))
                if sha256 in seen or "Rows" not in dataset or not any(n in dataset for n in pixel_frames.PIXELS):
                    continue
                if syntax is None or syntax.family == "video":
                    continue
                frames = [data for data, _ in zip(pixel_frames.frames(dataset), range(3), strict=False)]
        except Exception:
            continue  # not DICOM, or damaged so that pydicom gives up
        seen.add(sha256)
        yield path, sha256, dataset, frames


def check_every_frame(archive: Archive, paths: list[Path], least: int) -> None:
    checked = 0
    for path, sha256, dataset, frames in real_frames(paths):
        (file,) = stored_files(archive, [sha256]).values()
        for number, data in enumerate(frames[: file.frames]):
            try:
                expected = decode_frame(data, pixel_frames.syntax_of(dataset), pixel_frames.layout(dataset))
            except DcmarkError as error:
                with pytest.raises(type(error)):
                    frame(archive, sha256, number)
                continue
            found = frame(archive, sha256, number)
            assert found.stored.dtype == expected.dtype, path.name
            np.testing.assert_array_equal(found.stored, expected, err_msg=f"{path.name} frame {number}")
            checked += 1
    assert checked >= least


def check_every_recipe(archive: Archive, paths: list[Path], least: int) -> None:
    """What the columns say is what the header says, for every quantity, and errors are the same."""

    def answer(recipe: Any) -> Any:
        try:
            found = recipe()
        except DcmarkError as error:
            return str(error)
        pieces = [
            (p.low, p.high, p.slope, p.intercept, p.first, np.ravel(p.table).tolist()) for p in found.scale.pieces
        ]
        return found.scale.quantity, found.scale.unit, found.scale.how, pieces, found.padding

    by_columns = 0
    for path, sha256, _, frames in real_frames(paths):
        (file,) = stored_files(archive, [sha256]).values()
        if not file.frames:
            continue
        kind = pixel_frames.dtype_of(file.layout)
        for number in range(min(len(frames), file.frames)):
            for quantity in (None, "hu", "suvbw", *quantities(file.dataset, number)):
                short = answer(lambda: Recipes(quantity).of(file, number))  # noqa: B023
                full = answer(lambda: recipe_of(file.dataset, kind, number, quantity))  # noqa: B023
                assert short == full, f"{path.name} frame {number} {quantity}"
            by_columns += columns_suffice(file)
    assert by_columns >= least


@ODD_VALUES
def test_every_bundled_frame_comes_out_as_it_went_in(bundled_archive: tuple[Archive, list[Path]]) -> None:
    check_every_frame(*bundled_archive, least=100)


@ODD_VALUES
def test_columns_mean_what_the_bundled_headers_mean(bundled_archive: tuple[Archive, list[Path]]) -> None:
    check_every_recipe(*bundled_archive, least=60)


@pytest.mark.corpus
@ODD_VALUES
def test_every_real_frame_comes_out_as_it_went_in(corpus_archive: tuple[Archive, list[Path]]) -> None:
    check_every_frame(*corpus_archive, least=150)


@pytest.mark.corpus
@ODD_VALUES
def test_columns_mean_what_real_headers_mean(corpus_archive: tuple[Archive, list[Path]]) -> None:
    check_every_recipe(*corpus_archive, least=80)


@pytest.mark.corpus
def test_a_real_series_in_hounsfield_units(corpus: Path, tmp_path: Path) -> None:
    paths = [path for path in (corpus / "FNNDSC+data").rglob("*") if path.suffix == ".dcm"][:40]
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([str(path) for path in paths], archive)
    keys = [(hashlib.sha256(path.read_bytes()).hexdigest(), 0) for path in paths]
    found = stack_values(archive, keys)
    assert (found.quantity, found.unit, found.values.dtype) == ("hu", "[hnsf'U]", np.float32)
    for values, path in zip(found.values, paths, strict=True):
        dataset = pixel_frames.read(path)
        expected = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        np.testing.assert_array_equal(values, expected)
    twice = stack_values(archive, keys, threads=2)
    np.testing.assert_array_equal(found.values, twice.values)
    memory = np.empty_like(found.values)
    assert stack_values(archive, keys, "hu", threads=3, out=memory).values is memory
    np.testing.assert_array_equal(found.values, memory)


# Which attributes decide ----------------------------------------------------------------------------------------------


class Watched(Dataset):
    """A data set that notes which attributes are looked for."""

    asked: set[int]

    def __contains__(self, name: Any) -> bool:
        from pydicom.tag import Tag

        self.__dict__.setdefault("asked", set()).add(int(Tag(name)))
        return super().__contains__(name)


@pytest.mark.parametrize("modality", ["CT", "MR", "NM", "OT", "US", "XA", "MG"])
def test_no_attribute_decides_that_the_short_cut_does_not_look_for(modality: str) -> None:
    from dcmark.read.tags import BY_TAG

    for image_type in (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "ADC"]):
        header = Watched()
        header.Modality, header.ImageType, header.Manufacturer = modality, image_type, "SIEMENS"
        header.RescaleSlope, header.RescaleIntercept = "1", "0"
        header.PixelRepresentation = 0
        for kind in (np.dtype(np.uint16), np.dtype(np.float32)):
            header.__dict__["asked"] = set()
            for quantity in quantities(header):
                recipe_of(header, kind, 0, quantity)
            marks = _marks(modality, "int" if kind.kind == "u" else "float", "<")
            looked_for = {int.from_bytes(m[:2], "little") << 16 | int.from_bytes(m[2:4], "little") for m in marks}
            columns = {tag for tag, column in BY_TAG.items() if column.name in DECIDING_COLUMNS}
            private = {tag for tag in header.__dict__["asked"] if tag >> 16 & 1}
            assert header.__dict__["asked"] - looked_for - columns - private == set()


def test_what_a_header_adds_is_seen_and_equal_slices_are_looked_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    mapping, unit = Dataset(), Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "mg/ml", "UCUM", "mg/ml"
    mapping.MeasurementUnitsCodeSequence = [unit]
    mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = 0, 32767
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept, mapping.LUTLabel = 0.5, 1.0, "iodine"
    plain = a_file(folder / "a", a_slice(1))
    mapped = a_file(folder / "b", a_slice(2), RealWorldValueMappingSequence=[mapping])
    ranged = a_file(folder / "c", a_slice(3), PixelPaddingValue=0, PixelPaddingRangeLimit=500)
    archive = archived(folder)
    files = {bytes.fromhex(sha): file for sha, file in zip((plain, mapped, ranged), (None,) * 3, strict=True)}
    files = stored_files(archive, [plain, mapped, ranged])  # type: ignore[assignment]
    assert [columns_suffice(file) for file in files.values()] == [True, False, False]  # type: ignore[arg-type]
    iodine = stack_values(archive, [(mapped, 0)], "rwv")
    assert iodine.unit == "mg/ml"
    np.testing.assert_allclose(iodine.values[0], a_slice(2) * 0.5 + 1)
    both = stack_values(archive, [(plain, 0), (mapped, 0), (ranged, 0)], "hu")
    np.testing.assert_array_equal(both.mask[2], a_slice(3) <= 500)
    assert not both.mask[:2].any()
    recipes = Recipes("hu")
    (first, *_) = files.values()
    assert recipes.of(first, 0) is recipes.of(first, 0)  # type: ignore[arg-type]


# What a file may be like ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.uint8, np.int8, np.int32, np.uint32])
def test_every_kind_of_word_in_every_native_syntax(tmp_path: Path, syntax: str, kind: type) -> None:
    info = np.iinfo(kind)
    stored = np.random.default_rng(1).integers(info.min, info.max, (3, 9, 11), kind, endpoint=True)
    sha256 = a_file(tmp_path / "in" / "one", stored, syntax)
    archive = archived(tmp_path / "in")
    keys = [(sha256, number) for number in (2, 0, 1)]
    found = stack_stored(archive, keys)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, stored[[2, 0, 1]])  # 99 bytes a frame: in words they share one


def test_bits_outside_the_stored_ones_are_taken_away(tmp_path: Path) -> None:
    stored = np.random.default_rng(2).integers(-2048, 2048, (16, 16)).astype(np.int16)
    overlay = (stored & 0x0FFF) | 0x3000
    sha256 = a_file(tmp_path / "in" / "one", overlay.astype(np.int16), BitsStored=12, HighBit=11)
    shifted = a_file(tmp_path / "in" / "two", (stored << 4).astype(np.int16), BitsStored=12, HighBit=15)
    archive = archived(tmp_path / "in")
    for one in (sha256, shifted):
        np.testing.assert_array_equal(frame(archive, one).stored, stored)


def test_padding_has_no_value_in_a_stack(tmp_path: Path) -> None:
    stored = a_slice()
    stored[:3] = -2000
    sha256 = a_file(tmp_path / "in" / "one", stored, PixelPaddingValue=-2000)
    archive = archived(tmp_path / "in")
    found = stack_values(archive, [(sha256, 0)])
    np.testing.assert_array_equal(found.mask[0], stored == -2000)
    np.testing.assert_array_equal(found.values[0, 3:], stored[3:] - 1024.0)
    np.testing.assert_array_equal(stack_stored(archive, [(sha256, 0)])[0], stored)
    shown = stack_display(archive, [(sha256, 0)])
    assert not shown[0, :3].any()


def test_each_frame_of_an_enhanced_file_has_its_own_scale(tmp_path: Path) -> None:
    def group(slope: str) -> Dataset:
        inner, item = Dataset(), Dataset()
        inner.RescaleSlope, inner.RescaleIntercept, inner.RescaleType = slope, "-10", "HU"
        item.PixelValueTransformationSequence = [inner]
        return item

    stored = a_slice(4, (3, 16, 12))
    sha256 = a_file(
        tmp_path / "in" / "one", stored, RescaleSlope=None, RescaleIntercept=None,
        PerFrameFunctionalGroupsSequence=[group("1"), group("2"), group("0.5")],
    )  # fmt: skip
    archive = archived(tmp_path / "in")
    found = stack_values(archive, [(sha256, 0), (sha256, 1), (sha256, 2)], threads=2)
    np.testing.assert_array_equal(found.values, stored * np.array([1, 2, 0.5])[:, None, None] - 10)


def test_a_damaged_frame_leaves_the_others_readable(tmp_path: Path) -> None:
    stored = np.random.default_rng(5).integers(0, 4000, (3, 32, 32)).astype(np.uint16)
    frames = [imagecodecs.jpeg2k_encode(one, level=0, codecformat="j2k", reversible=True) for one in stored]
    frames[1] = frames[1][:150] + b"\xff" * 40
    sha256 = a_file(tmp_path / "in" / "one", stored, J2K, frames)
    archive = archived(tmp_path / "in")
    np.testing.assert_array_equal(stack_stored(archive, [(sha256, 0), (sha256, 2)]), stored[[0, 2]])
    with pytest.raises(DecodeError):
        frame(archive, sha256, 1)
    for threads in (1, 2):
        got = []
        with pytest.raises(DecodeError):
            for one in read_frames(archive, [(sha256, 0), (sha256, 1), (sha256, 2)], threads=threads):
                got.append(one.number)
        assert got == [0]


def test_a_large_header_and_one_frame_of_many(tmp_path: Path) -> None:
    stored = a_slice(6)
    noise = np.random.default_rng(0).bytes(3 << 20)
    block = Dataset()
    block.EncapsulatedDocument = noise
    sha256 = a_file(tmp_path / "in" / "one", stored, ReferencedImageSequence=[block])
    archive = archived(tmp_path / "in")
    np.testing.assert_array_equal(stack_values(archive, [(sha256, 0)], "hu").values[0], stored - 1024.0)


def test_a_nifti_comes_out_with_its_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcmark.read import formats
    from dcmark.read.nifti import NiftiReader

    nibabel = pytest.importorskip("nibabel")
    monkeypatch.setattr(formats, "readers", lambda *_: (NiftiReader(),))
    stored = np.random.default_rng(7).integers(-500, 500, (12, 16, 3)).astype(np.int16)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    (tmp_path / "in").mkdir()
    for name in ("plain.nii", "packed.nii.gz"):
        nibabel.save(image, tmp_path / "in" / name)
    archive = archived(tmp_path / "in")
    for path in sorted((tmp_path / "in").iterdir()):
        keys = [(hashlib.sha256(path.read_bytes()).hexdigest(), number) for number in range(3)]
        expected = nibabel.load(path)
        held = np.asarray(expected.dataobj.get_unscaled()).transpose(2, 1, 0)
        np.testing.assert_array_equal(stack_stored(archive, keys), held)
        found = stack_values(archive, keys)
        np.testing.assert_allclose(found.values, expected.get_fdata().transpose(2, 1, 0), rtol=1e-6)
        assert found.quantity == "rescaled"
        assert stack_display(archive, keys, Window(0, 100)).shape == (3, 16, 12)


# PET ------------------------------------------------------------------------------------------------------------------


def a_pet_series(folder: Path, beds: tuple[str, ...] = ("115000", "115400"), **more: Any) -> list[str]:
    """370 MBq with a half-life of 6,600 s at 10:00 into 74 kg; scanned from 11:50, one half-life later."""
    drug = Dataset()
    drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = "370000000", "6600"
    drug.RadiopharmaceuticalStartTime = "100000"
    values = {
        "SOPClassUID": PET_CLASS, "Modality": "PT", "Units": "BQML", "DecayCorrection": "START", "PatientWeight": "74",
        "CorrectedImage": ["DECY", "ATTN"], "SeriesDate": "20240501", "SeriesTime": "115000",
        "AcquisitionDate": "20240501", "RescaleIntercept": "0", "RadiopharmaceuticalInformationSequence": [drug],
    }  # fmt: skip
    return [
        a_file(
            folder / f"{place}",
            a_slice(place),
            **(values | {"AcquisitionTime": time, "RescaleSlope": f"{place + 1}"} | more),
        )
        for place, time in enumerate(beds)
    ]


def test_uptake_of_a_series_with_a_scale_for_each_slice(tmp_path: Path) -> None:
    keys = [(sha256, 0) for sha256 in a_pet_series(tmp_path / "in")]
    archive = archived(tmp_path / "in")
    found = stack_values(archive, keys, "suvbw")
    assert (found.quantity, found.unit) == ("suvbw", "g/ml{SUVbw}")
    # 74,000 g / (370 MBq / 2) = 0.0004 g/Bq, times the slope of each slice
    for place, values in enumerate(found.values):
        np.testing.assert_allclose(values, a_slice(place) * (place + 1) * 0.0004, rtol=1e-6)
        np.testing.assert_array_equal(frame(archive, keys[place][0]).physical("suvbw").values, values)
    assert stack_values(archive, keys).unit == "Bq/ml"


def test_a_slice_alone_of_a_scan_takes_the_start_from_its_series(tmp_path: Path) -> None:
    a_pet_series(tmp_path / "in")
    archive = archived(tmp_path / "in")
    start = series_start(archive, "2.25.2")
    assert start is not None and (start.hour, start.minute) == (11, 50)
    assert series_start(archive, "x' OR '1' = '1") is None  # a UID is data, not SQL


@pytest.mark.parametrize(
    ("attribute", "change"),
    [
        ("PatientWeight", {"PatientWeight": None}),
        ("RadiopharmaceuticalInformationSequence", {"RadiopharmaceuticalInformationSequence": None}),
        ("AcquisitionTime", {"SeriesTime": None, "AcquisitionTime": None, "DecayCorrection": "NONE"}),
    ],
)
def test_what_uptake_lacks_is_named(tmp_path: Path, attribute: str, change: dict[str, Any]) -> None:
    keys = [(sha256, 0) for sha256 in a_pet_series(tmp_path / "in", **change)]
    archive = archived(tmp_path / "in")
    with pytest.raises(ValueMeaningError, match=attribute):
        stack_values(archive, keys, "suvbw", threads=2)
    assert stack_values(archive, keys).quantity == "bqml"


# Display --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, "lung", Window(0, 500), 0])
def test_equal_values_are_equally_bright_in_all_slices(tmp_path: Path, window: Any) -> None:
    """Slices with windows, scales, signs and ranges of their own; the same 45 HU everywhere gets one grey."""
    hu = 45
    keys = []
    for place, (slope, intercept) in enumerate([(1, -1024), (2, -1001), (1, 0), (0.5, -200)]):
        stored = np.full((16, 12), round((hu - intercept) / slope), np.int16)
        stored[0] = np.arange(12) * 100 * (place + 1)  # every slice has a range of its own
        header = {"RescaleSlope": str(slope), "RescaleIntercept": str(intercept)}
        header |= {"WindowCenter": str(40 + 30 * place), "WindowWidth": str(300 + 100 * place)}
        keys.append((a_file(tmp_path / "in" / f"{place}", stored, **header), 0))
    archive = archived(tmp_path / "in")
    values = stack_values(archive, keys).values
    assert (values[:, 5, 5] == hu).all()
    for bits in (8, 16):
        shown = stack_display(archive, keys, window, bits=bits, threads=2)
        assert len(np.unique(shown[:, 1:])) == 1
        for level in np.unique(values):
            assert len(np.unique(shown[values == level])) == 1, level
    assert stack_display(archive, keys, "lung")[0, 5, 5] != stack_display(archive, keys, "bone")[0, 5, 5]


def test_slices_without_windows_share_one_by_percentiles(tmp_path: Path) -> None:
    keys = [(a_file(tmp_path / "in" / f"{n}", (a_slice(n) // (n + 1)).astype(np.int16)), 0) for n in range(3)]
    archive = archived(tmp_path / "in")
    window = common_window(archive, keys)
    assert isinstance(window, Window) and "percentiles" in window.explanation
    shown, values = stack_display(archive, keys), stack_values(archive, keys).values
    order = np.argsort(values, axis=None)
    assert (np.diff(shown.ravel()[order].astype(int)) >= 0).all()
    assert common_window(archive, keys, "bone") == NAMED["bone"]
    with pytest.raises(UsageError, match="name of a window"):
        common_window(archive, keys, "no such window")


def test_a_volume_in_monochrome_1_is_inverted_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    bright = a_file(folder / "a", a_slice(), WindowCenter="400", WindowWidth="2000")
    dark = a_file(
        folder / "b", a_slice(), WindowCenter="400", WindowWidth="2000", PhotometricInterpretation="MONOCHROME1"
    )
    archive = archived(folder)
    one, other = stack_display(archive, [(bright, 0), (dark, 0)])
    assert np.abs(one.astype(int) + other - 255).max() <= 1


def test_colours_have_no_window(bundled_archive: tuple[Archive, list[Path]], bundled: Path) -> None:
    archive, _ = bundled_archive
    key = (hashlib.sha256((bundled / "SC_rgb_rle_2frame.dcm").read_bytes()).hexdigest(), 0)
    assert common_window(archive, [key]) is None
    shown = stack_display(archive, [key, (key[0], 1)])
    assert shown.shape == (2, 100, 100, 3) and shown.dtype == np.uint8


# Refusals -------------------------------------------------------------------------------------------------------------


def test_wrong_calls_are_refused_with_what_was_expected(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    good, small = a_file(folder / "a", a_slice()), a_file(folder / "b", a_slice(shape=(8, 8)))
    scaled = a_file(folder / "c", a_slice(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    unsigned = a_file(folder / "d", a_slice().astype(np.uint16))
    text = folder / "note.txt"
    text.write_text("no image")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([str(folder)], archive)
    calls: list[tuple[type[DcmarkError], str, list[tuple[Any, int]]]] = [
        (UsageError, "one frame or more", []),
        (UsageError, "not there", [("00" * 32, 0)]),
        (UsageError, "64 hexadecimal digits", [("xyz", 0)]),
        (UsageError, "number of a frame from 0 to 0; found 1", [(good, 1)]),
        (UsageError, "number of a frame", [(good, -1)]),
        (UnsupportedError, r"\(16, 12\).*found float32 of \(8, 8\)", [(good, 0), (small, 0)]),
        (ValueMeaningError, "one quantity", [(good, 0), (scaled, 0)]),
        (UnsupportedError, "a file with frames", [(hashlib.sha256(b"no image").hexdigest(), 0)]),
    ]
    for kind, words, keys in calls:
        with pytest.raises(kind, match=words):
            stack_values(archive, keys)
    with pytest.raises(UnsupportedError, match="uint16"):
        stack_stored(archive, [(good, 0), (unsigned, 0)])
    with pytest.raises(UsageError, match="1 thread or more"):
        list(map_frames(archive, [(good, 0)], lambda *_: None, threads=0))
    with pytest.raises(LimitError, match="frame_bytes"):
        stack_values(archive, [(good, 0)], limits=Limits(frame_bytes=100))
    with pytest.raises(UsageError, match="for out"):
        stack_values(archive, [(good, 0)], out=np.empty((2, 16, 12), np.float32))
    with pytest.raises(UnsupportedError, match="found float32"):
        stack_values(archive, [(good, 0)], out=np.empty((1, 8, 8), np.float32))
    with pytest.raises(ValueMeaningError, match=r"hu, stored; found 'gy'"):
        stack_values(archive, [(good, 0)], "gy")


def test_many_runs_come_in_order_with_bytes_or_digits_as_keys(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shas = [a_file(folder / f"{n}", np.full((8, 8), n, np.int16)) for n in range(7)]
    archive = archived(folder)
    keys: list[tuple[str | bytes, int]] = [
        (shas[n % 7], 0) if n % 2 else (bytes.fromhex(shas[n % 7]), 0) for n in range(700)
    ]
    for threads in (1, 3):
        found = [int(one.stored[0, 0]) for one in read_frames(archive, keys, threads=threads)]
        assert found == [n % 7 for n in range(700)]
    one = frame(archive, shas[3])
    assert one.file.sha256 == shas[3] and one.physical().values[0, 0] == 3 - 1024
    assert one.dataset.Modality == "CT" and "PixelData" not in one.dataset
    assert one.display(Window(-1021, 10)).dtype == np.uint8
