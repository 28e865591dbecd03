"""Every reader that comes with dcmark keeps the contract of readers."""

from __future__ import annotations

import gzip
import io
import tempfile
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from dcmark.read.dicom import DicomReader
from dcmark.read.images import ImageReader
from dcmark.read.metaimage import MetaImageReader
from dcmark.read.nifti import AnalyzeReader, NiftiReader
from dcmark.read.nrrd import NrrdReader
from dcmark.testing.corpus import bundled
from dcmark.testing.readers import ReaderContract
from test_formats import mha_bytes, nifti_bytes, nrrd_bytes, values

nibabel = pytest.importorskip("nibabel")
tifffile = pytest.importorskip("tifffile")
SMALL = (3, 4, 5)


def nifti_files() -> dict[str, bytes]:
    array = values(shape=SMALL)
    plain = nifti_bytes(array)
    return {"one.nii": plain, "two.nii": nifti_bytes(array, version=2), "packed.nii.gz": gzip.compress(plain, mtime=0)}


def analyze_files() -> dict[str, bytes]:
    header = nibabel.AnalyzeHeader()
    header.set_data_shape(SMALL[::-1])
    header.set_data_dtype(np.int16)
    return {"alone.hdr": header.binaryblock}


def nrrd_files() -> dict[str, bytes]:
    array = values(shape=SMALL)
    with tempfile.TemporaryDirectory() as folder:
        return {
            f"{encoding}.nrrd": nrrd_bytes(array, encoding, place=Path(folder) / "a.nrrd")
            for encoding in ("raw", "gzip", "bzip2")
        }


def meta_files() -> dict[str, bytes]:
    array = values(shape=SMALL)
    return {"plain.mha": mha_bytes(array), "packed.mha": mha_bytes(array, packed=True)}


def picture_files() -> dict[str, bytes]:
    grey, deep, stack = values("|u1", (16, 16)), values("<u2", (16, 16)), io.BytesIO()
    tifffile.imwrite(stack, values("<u2", (2, 6, 5)), photometric="minisblack")
    return {
        "a.png": imagecodecs.png_encode(grey),
        "b.png": imagecodecs.png_encode(values("<u2", (9, 9, 3))),
        "c.jpg": imagecodecs.jpeg8_encode(grey),
        "d.j2k": imagecodecs.jpeg2k_encode(deep, codecformat="j2k"),
        "e.jls": imagecodecs.jpegls_encode(deep),
        "f.tif": stack.getvalue(),
    }


def dicom_files() -> dict[str, bytes]:
    names = ("CT_small.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm")
    return {name: (bundled() / name).read_bytes() for name in names}


class TestNifti(ReaderContract):
    reader = NiftiReader()
    samples = staticmethod(nifti_files)


class TestAnalyze(ReaderContract):
    reader = AnalyzeReader()
    samples = staticmethod(analyze_files)
    frames = False  # the pixels stand in another file


class TestNrrd(ReaderContract):
    reader = NrrdReader()
    samples = staticmethod(nrrd_files)


class TestMetaImage(ReaderContract):
    reader = MetaImageReader()
    samples = staticmethod(meta_files)


class TestPictures(ReaderContract):
    reader = ImageReader()
    samples = staticmethod(picture_files)


class TestDicom(ReaderContract):
    reader = DicomReader()
    samples = staticmethod(dicom_files)

    def test_it_leaves_others_alone(self) -> None:
        """What has the mark of DICOM is its own, however little follows."""
        assert self.claimed(bytes(128) + b"DICM" + bytes(500), "a")
        assert not self.claimed(b"a text\n" * 50, "a")
