"""The series that the benchmarks run on: real CT slices, and a longer series made from them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pydicom

from dcmark.testing import corpus

REAL_SLICES = "FNNDSC+data"
"""Folder of the corpus with 100 contiguous 512 x 512 chest CT slices, 1 mm, 12 bits in 16."""
LONG_AGO_NS = 1_700_000_000_000_000_000
"""Files changed within seconds of an ingest are read again by the next; real data is older."""


def real_slices() -> list[Path]:
    """The real CT slices by position along z; empty where the corpus is absent."""
    found = corpus.find()
    if found is None:
        return []
    slices = [path for path in (found / REAL_SLICES).rglob("*") if path.suffix == ".dcm"]
    return sorted(slices, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def generated_slices(folder: Path, count: int) -> list[Path]:
    """Slices of a chest that does not exist, for where the corpus is absent."""
    from dcmark.testing.phantom import phantom
    from dcmark.testing.synthetic import ct_series

    spacing = (1.0, 0.7, 0.7)
    volume = phantom((count, 512, 512), seed=1, spacing_mm=spacing, region="chest")
    return ct_series(folder, volume, spacing_mm=spacing)


def copy(slices: list[Path], folder: Path) -> None:
    """The slices themselves in one folder, as old as real data is."""
    folder.mkdir(parents=True)
    for number, path in enumerate(slices):
        target = folder / f"{number:05d}.dcm"
        shutil.copyfile(path, target)
        os.utime(target, ns=(LONG_AGO_NS + number,) * 2)


def grow(slices: list[Path], folder: Path, count: int, seed: int = 1) -> None:
    """Write ``count`` slices, 1 mm apart, made from real ones; a series for each 1,000.

    Every slice is a real one rolled by its own amount, with one in 200 pixels changed by 1: the
    content is another, the statistics that codecs live on stay those of a real CT.
    """
    folder.mkdir(parents=True)
    chance = np.random.default_rng(seed)
    sources = [pydicom.dcmread(path) for path in slices]
    for i in range(count):
        # To and fro, so that neighbours stay neighbours.
        lap, step = divmod(i, len(sources))
        ds = sources[step if lap % 2 == 0 else len(sources) - 1 - step]
        stored = np.frombuffer(ds.PixelData, "<i2" if ds.PixelRepresentation else "<u2")
        pixels = np.roll(stored.reshape(ds.Rows, ds.Columns), (lap * 7, lap * 13), (0, 1)).copy()
        touched = chance.integers(0, pixels.size, pixels.size // 200)
        pixels.reshape(-1)[touched] ^= 1
        made = pydicom.Dataset(ds)
        made.file_meta = pydicom.dataset.FileMetaDataset(ds.file_meta)
        made.PixelData = pixels.tobytes()
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"2.25.{seed}{i:06d}"
        made.SeriesInstanceUID = made.FrameOfReferenceUID = f"2.25.9{seed}{i // 1000:03d}"
        made.InstanceNumber = i + 1
        x, y, _ = ds.ImagePositionPatient
        made.ImagePositionPatient = [x, y, float(i)]
        made.SliceLocation = float(i)
        target = folder / f"{i:05d}.dcm"
        made.save_as(target, enforce_file_format=True)
        os.utime(target, ns=(LONG_AGO_NS + i,) * 2)
