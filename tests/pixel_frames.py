"""Frames of DICOM files for the tests of values: found by pydicom, so that dcmark's own reader is not needed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.encaps import generate_frames

from dcmark.read.codecs import SYNTAXES, decode_frame, layout_of
from dcmark.read.native import dtype_of

__all__ = ["PIXELS", "dtype_of", "frames", "layout", "read", "stored", "syntax_of"]

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read(path: Path) -> pydicom.Dataset:
    """A data set, whatever pydicom has to say about its conformance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        dataset.walk(lambda *_: None)  # converts every value now, with its warnings
        return dataset


def syntax_of(dataset: pydicom.Dataset) -> str:
    meta = getattr(dataset, "file_meta", {})
    return str(meta.get("TransferSyntaxUID", "1.2.840.10008.1.2"))


def layout(dataset: pydicom.Dataset) -> Any:
    big = syntax_of(dataset) == "1.2.840.10008.1.2.2"
    name = next(name for name in PIXELS if name in dataset)
    return layout_of(dataset, big_endian=big and not (dataset[name].VR == "OB" and dataset.BitsAllocated <= 8))


def frames(dataset: pydicom.Dataset) -> Iterator[bytes]:
    """The bytes of each frame; for video the whole stream once."""
    element = next(dataset[name] for name in PIXELS if name in dataset)
    syntax, shape = syntax_of(dataset), layout(dataset)
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    if SYNTAXES[syntax].family != "native" or syntax.endswith(".98"):
        video = SYNTAXES[syntax].family == "video"
        yield from generate_frames(element.value, number_of_frames=1 if video else count)
        return
    bits = shape.rows * shape.columns * shape.samples * shape.bits_allocated
    if shape.photometric.endswith("_422") and len(element.value) * 8 < bits * count:
        bits = bits * 2 // 3
    for number in range(count):
        if bits % 8:
            every = np.unpackbits(np.frombuffer(element.value, np.uint8), bitorder="little")
            yield np.packbits(every[number * bits :][:bits], bitorder="little").tobytes()
        else:
            size = bits // 8
            odd = size % 2 if shape.big_endian else 0
            yield element.value[number * size : (number + 1) * size + odd]


def stored(dataset: pydicom.Dataset, frame: int = 0) -> np.ndarray:
    """Stored values of one frame."""
    data = next(data for number, data in enumerate(frames(dataset)) if number == frame)
    return decode_frame(data, syntax_of(dataset), layout(dataset))
