"""Taking DICOM files apart: every byte covered, every frame found, every truncation noticed."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate, encapsulate_extended

from dcmark.config import Limits
from dcmark.read.base import Instance
from dcmark.read.dicom import DicomReader
from dcmark.read.formats import take_apart

JPEG2000 = "1.2.840.10008.1.2.4.90"
RLE = "1.2.840.10008.1.2.5"
HEADS = {"no-preamble", "no-meta"}


def apart(data: bytes) -> Instance:
    instance = take_apart(memoryview(data), "file.dcm")
    assert sum(s.length for s in instance.segments) == len(data)
    assert all(s.length > 0 for s in instance.segments)
    return instance


def codes(instance: Instance) -> set[str]:
    return {f.code for f in instance.findings}


def frame_bytes(data: bytes, instance: Instance) -> list[bytes]:
    frames: dict[int, bytes] = {}
    pos = 0
    for part, length in instance.segments:
        if part >= 0:
            frames[part] = frames.get(part, b"") + data[pos : pos + length]
        pos += length
    return [frames[n] for n in sorted(frames)] or [bytes(f) for f in instance.derived]


def image(frames: int = 1, rows: int = 8, columns: int = 8, **changes: object) -> pydicom.Dataset:
    """A small image object, not written yet."""
    ds = pydicom.Dataset()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    ds.SOPInstanceUID = "2.25.1"
    ds.StudyInstanceUID = ds.SeriesInstanceUID = "2.25.2"
    ds.Modality = "OT"
    ds.PatientID = "P1"
    ds.Rows, ds.Columns, ds.NumberOfFrames = rows, columns, frames
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.arange(frames * rows * columns, dtype="<u2").tobytes()
    for name, value in changes.items():
        setattr(ds, name, value)
    return ds


def written(ds: pydicom.Dataset, syntax: str = "1.2.840.10008.1.2.1") -> bytes:
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds["PixelData"].VR = "OB" if ds["PixelData"].is_undefined_length else "OW"
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def encapsulated(frames: list[bytes], **changes: object) -> pydicom.Dataset:
    ds = image(len(frames), **changes)
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].is_undefined_length = True
    return ds


def test_tags_and_frames_agree_with_pydicom_on_every_bundled_file(bundled: Path) -> None:
    seen = 0
    for path in sorted(p for p in bundled.rglob("*") if p.is_file()):
        data = path.read_bytes()
        instance = apart(data)
        if instance.kind == "opaque":
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = pydicom.dcmread(path, force=True)
        except Exception:
            continue
        seen += 1
        for keyword, column in (("SOPInstanceUID", "sop_instance_uid"), ("Rows", "rows"), ("Modality", "modality")):
            value = expected.get(keyword)
            if value not in (None, ""):
                assert instance.tags.get(column) == value, (path.name, keyword)
        frames = frame_bytes(data, instance)
        if (
            frames
            and "PixelData" in expected
            and not expected["PixelData"].is_undefined_length
            and not instance.derived
        ):
            assert expected.PixelData.startswith(b"".join(frames)), path.name
    assert seen > 100


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm", "693_J2KI.dcm"]
)
def test_every_truncation_of_an_image_is_noticed(bundled: Path, name: str) -> None:
    data = (bundled / name).read_bytes()
    cuts = {*range(1, 2000), *random.Random(0).sample(range(len(data)), 300), *range(len(data) - 50, len(data))}
    for cut in sorted(c for c in cuts if 0 < c < len(data)):
        instance = apart(data[:cut])
        assert any(f.level != "info" and f.code not in HEADS for f in instance.findings), cut


def test_a_truncated_native_image_keeps_its_whole_frames() -> None:
    data = written(image(frames=5))
    instance = apart(data[:-200])
    assert instance.frames == 3
    assert "truncated" in codes(instance)


def test_an_icon_is_no_frame() -> None:
    ds = image()
    icon = image(rows=2, columns=2)
    ds.IconImageSequence = [icon]
    instance = apart(written(ds))
    assert instance.frames == 1
    assert frame_bytes(written(ds), instance)[0] == ds.PixelData


@pytest.mark.parametrize("kind", ["basic", "extended", "absent", "wrong"])
def test_fragments_become_frames_whatever_the_offset_table(kind: str) -> None:
    frames = [b"\xff\x4f\xff\x51" + bytes([n]) * 40 for n in range(4)]
    ds = encapsulated(frames)
    if kind == "extended":
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    elif kind == "absent":
        ds.PixelData = encapsulate(frames, has_bot=False)
    elif kind == "wrong":
        good = encapsulate(frames)
        ds.PixelData = good[:8] + struct.pack("<4I", 0, 3, 5, 7) + good[24:]
    data = written(ds, JPEG2000)
    instance = apart(data)
    assert frame_bytes(data, instance) == frames
    assert not instance.native
    assert ("offset-table" in codes(instance)) == (kind == "wrong")


def test_several_fragments_a_frame_are_joined() -> None:
    frames = [b"\xff\x4f\xff\x51" + bytes([n]) * 60 for n in range(3)]
    ds = image(3)
    ds.PixelData = encapsulate(frames, fragments_per_frame=2)
    ds["PixelData"].is_undefined_length = True
    data = written(ds, JPEG2000)
    assert frame_bytes(data, apart(data)) == frames


def test_trailing_bytes_are_kept_and_named() -> None:
    data = written(image()) + b"rubbish behind the end"
    instance = apart(data)
    assert instance.frames == 1
    assert "trailing-bytes" in codes(instance)


def test_missing_preamble_and_meta_are_read() -> None:
    data = written(image())
    start = data.index(struct.pack("<HH", 0x0008, 0x0016))
    instance = apart(data[start:])
    assert instance.frames == 1
    assert {"no-preamble", "no-meta"} <= codes(instance)


def test_a_deflated_data_set_gives_derived_frames_and_stays_whole() -> None:
    ds = image(frames=2)
    data = written(ds, "1.2.840.10008.1.2.1.99")
    instance = apart(data)
    assert [s.part for s in instance.segments] == [-1]
    assert b"".join(bytes(f) for f in instance.derived) == ds.PixelData
    damaged = apart(data[:-40])
    assert "truncated" in codes(damaged)


def test_what_inflates_without_end_is_bounded() -> None:
    ds = image()
    plain = written(ds, "1.2.840.10008.1.2.1.99")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(b"\x09\x00\x10\x10OB\0\0" + struct.pack("<I", 64 << 20) + bytes(64 << 20)) + packer.flush()
    start = plain.index(b"1.2.840.10008.1.2.1.99") + 22
    reader = DicomReader(Limits(in_memory=1 << 20))
    instance = reader.take_apart(memoryview(plain[:start] + body), "")
    assert "too-large" in codes(instance)


def test_one_bit_frames_that_do_not_begin_on_a_byte_are_repacked() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (3, 5, 5), dtype=np.uint8)
    ds = image(3, 5, 5, BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    instance = apart(written(ds))
    assert instance.frames == 3
    for n, frame in enumerate(instance.derived):
        unpacked = np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")[:25]
        assert (unpacked == bits[n].ravel()).all()


def test_a_declared_size_is_never_believed() -> None:
    ds = image(Rows=65535, Columns=65535, NumberOfFrames=2**31 - 1)
    instance = apart(written(ds))
    assert instance.frames == 0
    assert "truncated" in codes(instance)


def test_sequences_nested_beyond_reason_end_the_walk() -> None:
    deep = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    data = written(image())
    start = data.index(struct.pack("<HH", 0x0008, 0x0060))
    instance = apart(data[:start] + deep * 5000)
    assert codes(instance) & {"too-deep", "truncated"}
    assert instance.kind == "opaque"


def test_text_beyond_ascii_is_decoded_by_its_character_set(bundled: Path) -> None:
    import pydicom.data

    folder = Path(pydicom.data.__file__).parent / "charset_files"
    for name in ("chrGerm.dcm", "chrGreek.dcm", "chrRuss.dcm", "chrH32.dcm", "chrX1.dcm"):
        expected = pydicom.dcmread(folder / name)
        assert apart((folder / name).read_bytes()).tags["patient_name"].rstrip("=") == str(expected.PatientName)


@given(st.binary(max_size=400))
def test_no_bytes_can_break_the_reader(data: bytes) -> None:
    reader = DicomReader()
    instance = reader.take_apart(memoryview(b"\0" * 128 + b"DICM" + data), "")
    assert sum(s.length for s in instance.segments) == 132 + len(data)


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.sampled_from([8, 16, 32]), st.sampled_from([1, 3]))
def test_native_frames_are_exactly_the_pixel_data(
    frames: int, rows: int, columns: int, bits: int, samples: int
) -> None:
    ds = image(frames, rows, columns, BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1, SamplesPerPixel=samples)
    if samples == 3:
        ds.PhotometricInterpretation, ds.PlanarConfiguration = "RGB", 0
    size = frames * rows * columns * samples * bits // 8
    ds.PixelData = bytes(n % 251 for n in range(size)) + b"\0" * (size % 2)
    data = written(ds)
    instance = apart(data)
    assert instance.frames == frames
    assert b"".join(frame_bytes(data, instance)) == ds.PixelData[:size]
    assert not {f.level for f in instance.findings} & {"warning", "error"}
