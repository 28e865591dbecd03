"""Images of other formats than DICOM: byte for byte back, slices as frames, a place where they have one."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dcmark
from dcmark import plugins
from dcmark.config import Limits
from dcmark.geometry import affine_from_nifti
from dcmark.read import arrays
from dcmark.read.formats import GROUP
from dcmark.read.images import ImageReader
from dcmark.read.metaimage import MetaImageReader
from dcmark.read.nifti import AnalyzeReader, NiftiReader
from dcmark.read.nrrd import NrrdReader
from dcmark.view.export.nifti import export_nifti, originals
from dcmark.view.frames import read_frames

nibabel = pytest.importorskip("nibabel")
nrrd = pytest.importorskip("nrrd")
tifffile = pytest.importorskip("tifffile")

AFFINE = np.array([[-0.7, 0.0, 0.1, 90.0], [0.0, -0.7, 0.2, 120.0], [0.05, 0.1, 2.5, -300.0], [0, 0, 0, 1.0]])
"""RAS, of (column, row, slice): oblique and a little sheared."""


def values(kind: str = "<i2", shape: tuple[int, ...] = (5, 7, 9)) -> np.ndarray:
    """(slices, rows, columns)."""
    rng = np.random.default_rng(7)
    if np.dtype(kind).kind == "f":
        return rng.normal(0, 1000, shape).astype(kind)
    info = np.iinfo(kind)
    return rng.integers(
        max(info.min, -30000), min(info.max, 30000), shape, dtype=np.dtype(kind).newbyteorder("=")
    ).astype(kind)


def nifti_bytes(array: np.ndarray, affine: np.ndarray | None = AFFINE, version: int = 1, **changes) -> bytes:
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = kind(array.transpose(*range(array.ndim)[::-1]), affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm", "sec")
    for name, value in changes.items():
        image.header[name] = value
    return image.to_bytes()


def nrrd_bytes(array: np.ndarray, encoding: str = "raw", **header) -> bytes:
    affine = affine_from_nifti(AFFINE)
    place = Path(header.pop("place"))
    whole = {
        "space": "left-posterior-superior",
        "space directions": affine[:3, 2::-1].T,
        "space origin": affine[:3, 3],
        "encoding": encoding,
        **header,
    }
    apart = header.pop("detached", False)
    whole.pop("detached", None)
    nrrd.write(str(place), array.transpose(2, 1, 0), whole, detached_header=apart, index_order="F")
    return place.read_bytes()


def mha_bytes(array: np.ndarray, *, packed: bool = False, msb: bool = False) -> bytes:
    affine = affine_from_nifti(AFFINE)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    names = {"i2": "MET_SHORT", "u1": "MET_UCHAR", "f4": "MET_FLOAT"}
    cosines = (affine[:3, :3] / spacing)[:, ::-1].T
    body = array.astype(array.dtype.newbyteorder(">" if msb else "<")).tobytes()
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        f"BinaryDataByteOrderMSB = {msb}",
        f"CompressedData = {packed}",
        "TransformMatrix = " + " ".join(repr(float(x)) for x in cosines.ravel()),
        "Offset = " + " ".join(repr(float(x)) for x in affine[:3, 3]),
        "ElementSpacing = " + " ".join(repr(float(x)) for x in spacing[::-1]),
        "DimSize = " + " ".join(str(n) for n in array.shape[::-1]),
        f"ElementType = {names[array.dtype.str[1:]]}",
        "ElementDataFile = LOCAL",
    ]
    return "\n".join(lines).encode() + b"\n" + (zlib.compress(body) if packed else body)


def archive_of(folder: Path, place: Path):
    archive = dcmark.open_archive(place, create=True)
    return archive, dcmark.ingest(folder, archive)


def test_the_readers_are_found_as_plugins() -> None:
    assert {"analyze", "image", "metaimage", "nifti", "nrrd"} <= set(plugins.names(GROUP))


# Arrays with a place


@pytest.mark.parametrize("kind", ["<i2", ">i2", "|u1", "|i1", "<u2", "<i4", "<f4", "<f8", ">f4"])
def test_slices_of_every_type_come_out_as_they_went_in(tmp_path: Path, kind: str) -> None:
    array = values(kind)
    (tmp_path / "in").mkdir()
    data = nifti_bytes(array)
    (tmp_path / "in" / "a.nii").write_bytes(data)
    (tmp_path / "in" / "b.nii.gz").write_bytes(gzip.compress(data))
    archive, report = archive_of(tmp_path / "in", tmp_path / "a.dcmark")
    assert (report.files, report.frames, report.opaque, report.errors) == (2, 10, 0, 0)
    for volume in archive.volumes():
        np.testing.assert_array_equal(dcmark.values(volume).values, array.astype(np.float32))
        np.testing.assert_allclose(volume.affine, affine_from_nifti(AFFINE), atol=1e-4)
        assert "tilted" in {finding.code for finding in volume.findings}
    dcmark.restore(archive, tmp_path / "out")
    for name in ("a.nii", "b.nii.gz"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


def test_all_formats_give_the_same_volume(tmp_path: Path) -> None:
    array = values()
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.nii").write_bytes(nifti_bytes(array))
    (folder / "2.nii").write_bytes(nifti_bytes(array, version=2))
    for k, encoding in enumerate(("raw", "gzip", "bzip2")):
        (folder / f"{k}.nrrd").write_bytes(nrrd_bytes(array, encoding, place=tmp_path / "x.nrrd"))
    (folder / "1.mha").write_bytes(mha_bytes(array))
    (folder / "2.mha").write_bytes(mha_bytes(array, packed=True))
    (folder / "3.mha").write_bytes(mha_bytes(array, msb=True))
    archive, report = archive_of(folder, tmp_path / "a.dcmark")
    assert (report.files, report.opaque) == (8, 0)
    volumes = archive.volumes()
    assert len(volumes) == 8
    for volume in volumes:
        np.testing.assert_array_equal(dcmark.values(volume).values, array)
        np.testing.assert_allclose(volume.affine, affine_from_nifti(AFFINE), atol=1e-4)
        assert volume.grid == "tilted"
    assert dcmark.verify(archive).whole


def test_scaled_values_and_times_and_lengths_in_other_units(tmp_path: Path) -> None:
    array = values(shape=(2, 3, 5, 4))
    folder = tmp_path / "in"
    folder.mkdir()
    metres = np.diag([0.001, 0.001, 0.001, 1.0]) @ AFFINE
    data = nifti_bytes(array, metres, scl_slope=0.5, scl_inter=-3.0, xyzt_units=1)
    (folder / "a.nii").write_bytes(data)
    archive, _ = archive_of(folder, tmp_path / "a.dcmark")
    one, two = archive.volumes()
    assert [(v.phase, v.phases) for v in (one, two)] == [(1, 2), (2, 2)]
    for volume, part in zip((one, two), array, strict=True):
        np.testing.assert_array_equal(dcmark.values(volume).values, part.astype(np.float32) * 0.5 - 3)
        np.testing.assert_array_equal(dcmark.values(volume, "stored").values, part)
        np.testing.assert_allclose(volume.affine, affine_from_nifti(AFFINE), atol=1e-3)
        assert "units" in {finding.code for finding in volume.findings}


def test_a_file_whose_slices_run_against_the_normal_is_turned_with_its_affine(tmp_path: Path) -> None:
    array = values()
    folder = tmp_path / "in"
    folder.mkdir()
    mirrored = np.diag([0.7, -0.7, 2.5, 1.0])
    (folder / "a.nii").write_bytes(nifti_bytes(array, mirrored))
    archive, _ = archive_of(folder, tmp_path / "a.dcmark")
    (volume,) = archive.volumes()
    np.testing.assert_array_equal(dcmark.values(volume).values, array[::-1])
    first = affine_from_nifti(mirrored) @ [len(array) - 1, 0, 0, 1]
    np.testing.assert_allclose(volume.affine[:3, 3], first[:3], atol=1e-4)
    assert volume.affine[:3, 0] @ np.cross(volume.affine[:3, 2], volume.affine[:3, 1]) > 0


def test_an_orientation_that_nobody_stated_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.nii").write_bytes(nifti_bytes(values(), None))
    archive, report = archive_of(folder, tmp_path / "a.dcmark")
    assert report.codes["assumed-geometry"] == 1
    assert "assumed-geometry" in {finding.code for finding in archive.volumes()[0].findings}


@pytest.mark.corpus
def test_every_orientation_of_the_corpus_shows_the_same_brain_at_the_same_place(corpus: Path, tmp_path: Path) -> None:
    folder = corpus / "niivue+niivue/packages/niivue/tests/images/nifti_space"
    archive, _ = archive_of(folder, tmp_path / "a.dcmark")
    names = dcmark.query(archive, "SELECT id, path FROM volumes").to_pylist()
    paths = {row["id"]: row["path"] for row in names}
    for volume in archive.volumes():
        reference = nibabel.load(folder / paths[volume.id])
        found = dcmark.values(volume).values
        expected = reference.get_fdata().transpose(2, 1, 0)
        if volume.frames[0].frame:
            expected = expected[::-1]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        corner = np.array([volume.shape[0] - 1.0, 0, 3, 1])
        source = corner.copy()
        if volume.frames[0].frame:
            source[0] = volume.shape[0] - 1 - corner[0]
        np.testing.assert_allclose(volume.affine @ corner, affine_from_nifti(reference.affine) @ source, atol=1e-3)
    assert len(paths) == 17


@pytest.mark.corpus
def test_other_formats_of_the_corpus_come_back_byte_for_byte(corpus: Path, tmp_path: Path) -> None:
    folders = ["nipy+nibabel", "niivue+niivue", "AIM-Harvard+pyradiomics", "derived/ct-segmentation-import"]
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([corpus / name for name in folders], archive)
    kinds = {row["kind"] for row in dcmark.query(archive, "SELECT DISTINCT kind FROM files").to_pylist()}
    assert {"nifti", "nrrd", "metaimage"} <= kinds
    dcmark.restore(archive, tmp_path / "out")
    there = {hashlib.sha256(p.read_bytes()).digest() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    wanted = {hashlib.sha256(p.read_bytes()).digest() for n in folders for p in (corpus / n).rglob("*") if p.is_file()}
    assert there == wanted


def test_a_header_and_its_pixels_in_two_files_are_one_volume(tmp_path: Path) -> None:
    array = values()
    folder = tmp_path / "in"
    folder.mkdir()
    pair = nibabel.Nifti1Pair(array.transpose(2, 1, 0), AFFINE, dtype=array.dtype)
    nibabel.save(pair, folder / "pair.hdr")
    analyze = nibabel.AnalyzeImage(array.transpose(2, 1, 0), np.diag([-2.0, 2, 3, 1]))
    nibabel.save(analyze, folder / "old.hdr")
    nrrd_bytes(array, place=folder / "apart.nhdr", detached=True)
    for name, packed in (("plain.mhd", False), ("packed.mhd", True)):
        data = mha_bytes(array, packed=packed)
        at = data.index(b"LOCAL\n")
        raw = name.replace(".mhd", ".zraw" if packed else ".raw")
        (folder / name).write_bytes(data[:at] + raw.encode() + b"\n")
        (folder / raw).write_bytes(data[at + 6 :])
    (folder / "alone.mhd").write_bytes((folder / "plain.mhd").read_bytes().replace(b"plain.raw", b"../gone.raw"))
    archive, report = archive_of(folder, tmp_path / "a.dcmark")
    assert (report.opaque, report.errors) == (0, 0)
    volumes = archive.volumes()
    assert len(volumes) == 5
    for volume in volumes:
        order = [frame.frame for frame in volume.frames]  # from the top down in the Analyze pair
        np.testing.assert_array_equal(dcmark.values(volume).values, array[order])
        if "assumed-geometry" not in {finding.code for finding in volume.findings}:
            np.testing.assert_allclose(volume.affine, affine_from_nifti(AFFINE), atol=1e-4)
    (left,) = dcmark.query(archive, "SELECT code, level FROM leftovers WHERE level = 'warning'").to_pylist()
    assert left["code"] == "detached"
    report = export_nifti(archive, tmp_path / "nifti")
    assert (report.items, report.files) == (5, 7)  # four headers share the same bytes of pixels
    assert len(originals(tmp_path / "nifti")) == 7


# Pictures


def test_pictures_become_frames(tmp_path: Path) -> None:
    import imagecodecs

    folder = tmp_path / "in"
    folder.mkdir()
    grey, deep, rgb = values("|u1", (31, 17)), values("<u2", (31, 17)), values("|u1", (32, 16, 3))
    (folder / "grey.png").write_bytes(imagecodecs.png_encode(grey))
    (folder / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    (folder / "rgb.png").write_bytes(imagecodecs.png_encode(rgb))
    (folder / "lossless.jls").write_bytes(imagecodecs.jpegls_encode(deep))
    (folder / "wavelet.j2k").write_bytes(imagecodecs.jpeg2k_encode(deep, codecformat="j2k", reversible=True))
    (folder / "photo.jpg").write_bytes(imagecodecs.jpeg8_encode(rgb, level=95))
    stack = values("<f4", (4, 9, 8))
    tifffile.imwrite(folder / "stack.tif", stack, photometric="minisblack")
    tifffile.imwrite(folder / "packed.tif", deep, compression="zlib")
    archive, report = archive_of(folder, tmp_path / "a.dcmark")
    assert (report.files, report.frames, report.opaque, report.errors) == (8, 11, 0, 0)
    rows = dcmark.query(archive, "SELECT path, sha256, frames FROM files").to_pylist()
    stored = {row["path"]: _stored(archive, row["sha256"], row["frames"]) for row in rows}
    np.testing.assert_array_equal(stored["grey.png"][0], grey)
    for name in ("deep.png", "lossless.jls", "wavelet.j2k", "packed.tif"):
        np.testing.assert_array_equal(stored[name][0], deep)
    np.testing.assert_array_equal(stored["rgb.png"][0], rgb)
    np.testing.assert_array_equal(np.stack(stored["stack.tif"]), stack)
    photo = next(row for row in rows if row["path"] == "photo.jpg")
    (shown,) = read_frames(archive, [(photo["sha256"], 0)])
    expected = imagecodecs.jpeg8_decode((folder / "photo.jpg").read_bytes())
    assert np.abs(shown.display().astype(int) - expected).max() <= 2
    dcmark.restore(archive, tmp_path / "out")
    for place in folder.iterdir():
        assert (tmp_path / "out" / place.name).read_bytes() == place.read_bytes()


def _stored(archive, sha256: str, frames: int) -> list[np.ndarray]:
    return [frame.stored for frame in read_frames(archive, [(sha256, k) for k in range(frames)])]


# Hostile input

READERS = (NiftiReader(), AnalyzeReader(), NrrdReader(), MetaImageReader(), ImageReader())
SMALL = Limits(in_memory=1 << 20, frame_bytes=1 << 20, container_grace=1 << 16, container_ratio=100)


def seeds(tmp: Path) -> list[bytes]:
    import imagecodecs

    array = values(shape=(3, 4, 5))
    stack = io.BytesIO()
    tifffile.imwrite(stack, values("<u2", (2, 6, 5)), photometric="minisblack")
    return [
        nifti_bytes(array),
        gzip.compress(nifti_bytes(array)),
        nifti_bytes(array, version=2),
        nibabel.AnalyzeHeader().binaryblock,
        nrrd_bytes(array, place=tmp / "a.nrrd"),
        nrrd_bytes(array, "gzip", place=tmp / "b.nrrd"),
        mha_bytes(array),
        mha_bytes(array, packed=True),
        imagecodecs.png_encode(values("|u1", (9, 9))),
        imagecodecs.jpeg8_encode(values("|u1", (16, 16))),
        imagecodecs.jpeg2k_encode(values("<u2", (16, 16)), codecformat="j2k"),
        stack.getvalue(),
    ]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return seeds(tmp_path_factory.mktemp("seeds"))


@settings(max_examples=400)
@given(st.data())
def test_damaged_files_are_kept_and_never_raise(good: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(good)))
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, min(len(content) - 1, 600)))
        content[at] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    view = memoryview(bytes(content))
    for reader in READERS:
        if reader.claims(view[:4096], data.draw(st.sampled_from(["a.hdr", "a.mha", "a.nii.gz"]))):
            instance = type(reader)(SMALL).take_apart(view, "a.hdr")
            assert sum(segment.length for segment in instance.segments) == len(view)
            assert all(segment.length > 0 for segment in instance.segments)
            if instance.derived:
                assert len(list(instance.derived)) == len(instance.derived) == instance.frames
            else:
                held = {segment.part for segment in instance.segments if segment.part >= 0}
                assert len(held) == instance.frames


@pytest.mark.parametrize("sizes", [(32767, 32767, 32767), (30000, 30000, 1), (1, 1, 32767)])
def test_declared_sizes_are_never_allocated(sizes: tuple[int, int, int]) -> None:
    import tracemalloc

    header = nibabel.Nifti1Header()
    header.set_data_shape(sizes)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    plain = header.binaryblock + b"\0" * 4
    words = " ".join(map(str, sizes))
    mha = f"NDims = 3\nDimSize = {words}\nElementType = MET_DOUBLE\nElementDataFile = LOCAL\n".encode()
    png = (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
        + sizes[0].to_bytes(4, "big")
        + sizes[1].to_bytes(4, "big")
        + b"\x10\x06"
        + b"\0" * 20
    )
    import nrrd as _warm  # noqa: F401 - imports are not what is measured

    tracemalloc.start()
    for data in (plain, gzip.compress(plain), mha, png):
        for reader in READERS:
            if reader.claims(memoryview(data)[:4096], "a.nii"):
                instance = reader.take_apart(memoryview(data), "a.nii")
                assert instance.frames == 0
                assert instance.findings
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_a_bomb_is_not_unpacked() -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((1000, 1000, 400))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    data = memoryview(gzip.compress(header.binaryblock + bytes(4 + 300 * 10**6), 9))
    strict = Limits(container_grace=1 << 20, container_ratio=100)
    instance = NiftiReader(strict).take_apart(data, "a.nii.gz")
    assert (instance.frames, instance.findings[-1].code) == (0, "too-large")


def test_a_cut_file_gives_the_slices_it_has() -> None:
    array = values()
    data = nifti_bytes(array)
    for whole, cut in ((data, data[:-100]), (gzip.compress(data), gzip.compress(data)[:-60])):
        full = NiftiReader().take_apart(memoryview(whole), "a")
        part = NiftiReader().take_apart(memoryview(cut), "a")
        assert full.frames == 5
        assert part.frames in (3, 4)
        assert "truncated" in {finding.code for finding in part.findings}


def test_a_missing_extra_keeps_the_file_and_is_named(monkeypatch: pytest.MonkeyPatch, good: list[bytes]) -> None:
    import sys

    for name in ("nibabel", "nrrd", "tifffile"):
        monkeypatch.setitem(sys.modules, name, None)
    for reader, data in ((NiftiReader(), good[0]), (NrrdReader(), good[4]), (ImageReader(), good[-1])):
        instance = reader.take_apart(memoryview(data), "a")
        assert [(f.level, f.code) for f in instance.findings] == [("info", "missing-extra")]
        assert "dcmark[formats]" in instance.findings[0].message
        assert instance.kind != "opaque"
        assert arrays.KINDS
