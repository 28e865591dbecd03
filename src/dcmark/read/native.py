"""Pixel layout and uncompressed frames: bytes to stored values (PS3.5 section 8, PS3.3 C.7.6.3)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.config import LIMITS, Limits
from dcmark.errors import DecodeError, LimitError
from dcmark.read.base import PixelLayout

if TYPE_CHECKING:
    from typing import Literal

    from pydicom import Dataset

Bytes = bytes | memoryview
Array = NDArray[Any]

_ALLOCATED = (1, 8, 16, 32, 64)


def layout_of(dataset: Dataset, *, big_endian: bool = False) -> PixelLayout:
    """The pixel layout a DICOM header declares (PS3.3 C.7.6.3; floating point: C.7.6.24).

    What is missing gets its usual meaning: Bits Stored = Bits Allocated, High Bit = Bits Stored - 1, unsigned,
    one sample, interleaved, MONOCHROME2 (RGB for three samples). A header of 32 or 64 bits with neither Bits
    Stored nor Pixel Representation is one of Float or Double Float Pixel Data, which has neither.

    Args:
        dataset: the header; its pixel data are not looked at.
        big_endian: how the native words lie (the transfer syntax says so); see ``native_frame``.

    Raises:
        DecodeError: Rows, Columns or Bits Allocated is missing, or the numbers contradict each other.
    """
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
    samples = _number(dataset, "SamplesPerPixel", 1)
    floating = "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset
    if "BitsAllocated" not in dataset and floating:
        allocated = 32 if "FloatPixelData" in dataset else 64
    else:
        allocated = _number(dataset, "BitsAllocated")
    number: Literal["int", "float", "double"] = "int"
    if floating or not any(word in dataset for word in ("BitsStored", "PixelRepresentation", "PixelData")):
        number = {32: "float", 64: "double"}.get(allocated, "int")  # type: ignore[assignment]
    stored = _number(dataset, "BitsStored", allocated)
    default = "MONOCHROME2" if samples == 1 else "RGB"
    layout = PixelLayout(
        rows=rows,
        columns=columns,
        samples=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=_number(dataset, "HighBit", stored - 1),
        signed=_number(dataset, "PixelRepresentation", 0) == 1,
        planar=_number(dataset, "PlanarConfiguration", 0) == 1,
        photometric=str(dataset.get("PhotometricInterpretation") or default).strip(),
        number=number,
        big_endian=big_endian,
    )
    check_layout(layout)
    return layout


def _number(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is None:
            raise DecodeError(f"expected {keyword} in the header of an image; found none")
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise DecodeError(f"expected one whole number for {keyword}; found something else") from None


@lru_cache(256)
def check_layout(layout: PixelLayout) -> None:
    """Refuse a layout that cannot be. Remembered: the frames of a series share theirs.

    Raises:
        DecodeError: naming the attribute, what was expected and what was found.
    """

    def expect(good: bool, what: str, found: object) -> None:
        if not good:
            raise DecodeError(f"expected {what}; found {found}")

    expect(
        0 < layout.rows < 1 << 32 and 0 < layout.columns < 1 << 32,
        "Rows and Columns above 0",
        [layout.rows, layout.columns],
    )
    expect(1 <= layout.samples <= 4, "Samples per Pixel from 1 to 4", layout.samples)
    expect(layout.bits_allocated in _ALLOCATED, f"Bits Allocated to be one of {_ALLOCATED}", layout.bits_allocated)
    expect(
        1 <= layout.bits_stored <= layout.bits_allocated,
        f"Bits Stored from 1 to {layout.bits_allocated}",
        layout.bits_stored,
    )
    expect(
        layout.bits_stored - 1 <= layout.high_bit < layout.bits_allocated,
        f"High Bit from {layout.bits_stored - 1} to {layout.bits_allocated - 1}",
        layout.high_bit,
    )


def dtype_of(layout: PixelLayout) -> np.dtype[Any]:
    """The type of the stored values of a layout; 1-bit values are uint8 0 and 1."""
    if layout.number != "int":
        return np.dtype(np.float32 if layout.number == "float" else np.float64)
    kind = "i" if layout.signed else "u"
    return np.dtype(f"{kind}{max(8, layout.bits_allocated) // 8}")


def shape_of(layout: PixelLayout) -> tuple[int, ...]:
    """(rows, columns), or (rows, columns, samples) where there are several samples."""
    shape = (layout.rows, layout.columns)
    return shape if layout.samples == 1 else (*shape, layout.samples)


def check_size(layout: PixelLayout, limits: Limits) -> None:
    """Refuse what would take more than ``limits.frame_bytes`` once decoded.

    Raises:
        LimitError, DecodeError.
    """
    check_layout(layout)
    size = layout.rows * layout.columns * layout.samples * dtype_of(layout).itemsize
    if size > limits.frame_bytes:
        raise LimitError(
            f"expected a frame of at most {limits.frame_bytes} bytes; the header declares "
            f"{layout.rows} x {layout.columns} x {layout.samples}, which is {size} bytes; "
            "raise the limit frame_bytes if that is meant"
        )


def native_frame(data: Bytes, layout: PixelLayout, limits: Limits = LIMITS) -> Array:
    """Stored values of one uncompressed frame (PS3.5 8.1, 8.2; PS3.3 C.7.6.3.1).

    Bits outside Bits Stored (overlays of old files) are taken away, and the sign is extended from High Bit.
    Chroma of YBR_FULL_422 and YBR_PARTIAL_422 is repeated, so every pixel has its three values.

    Args:
        data: the bytes of the frame; one more byte of padding may follow.
        layout: ``big_endian`` is the order of 16-, 32- and 64-bit words. For 1- and 8-bit values it must be
            set only where the value representation is OW: then the bytes lie swapped in pairs.

    Returns:
        (rows, columns) or (rows, columns, samples), of ``dtype_of(layout)``, owning its memory.

    Raises:
        DecodeError: the number of bytes does not fit the layout.
        LimitError: the frame is larger than ``limits.frame_bytes``.
    """
    check_size(layout, limits)
    pixels = layout.rows * layout.columns
    shared_chroma = layout.samples == 3 and layout.photometric.endswith("_422")
    if shared_chroma and len(data) * 8 >= pixels * 3 * layout.bits_allocated:
        shared_chroma = False  # says 4:2:2 and holds 4:4:4, as many secondary captures do
    values = pixels * (2 if shared_chroma else layout.samples)
    expected = (values * layout.bits_allocated + 7) // 8
    swapped = layout.big_endian and layout.bits_allocated <= 8
    if swapped and len(data) == expected and expected % 2:
        raise DecodeError("expected the byte that shares a word with the last one of the frame (8-bit OW); found none")
    if not expected <= len(data) <= expected + 1:
        raise DecodeError(
            f"expected {expected} bytes for a frame of {layout.rows} x {layout.columns} x {layout.samples} at "
            f"{layout.bits_allocated} bits ({layout.photometric}); found {len(data)}"
        )
    if swapped:
        even = len(data) - len(data) % 2
        data = np.frombuffer(data, ">u2", even // 2).astype("<u2").tobytes()
    flat: Array
    if layout.bits_allocated == 1:
        flat = np.unpackbits(np.frombuffer(data, np.uint8, expected), count=values, bitorder="little")
    else:
        order = ">" if layout.big_endian else "<"
        if layout.number != "int":
            kind = dtype_of(layout)
            flat = np.frombuffer(data, f"{order}f{kind.itemsize}", values).astype(kind)
        else:
            size = layout.bits_allocated // 8
            words = np.frombuffer(data, f"{order}u{size}", values).astype(f"u{size}")
            flat = stored_bits(words, layout)
    if shared_chroma:
        return _spread_chroma(flat, layout)
    if layout.samples == 1:
        return flat.reshape(layout.rows, layout.columns)
    if layout.planar:
        return np.ascontiguousarray(flat.reshape(layout.samples, layout.rows, layout.columns).transpose(1, 2, 0))
    return flat.reshape(layout.rows, layout.columns, layout.samples)


def stored_bits(words: Array, layout: PixelLayout) -> Array:
    """Bits Stored of unsigned words up to High Bit, the sign extended where the layout is signed. In place."""
    width = words.dtype.itemsize * 8
    above, below = width - 1 - layout.high_bit, layout.high_bit + 1 - layout.bits_stored
    if layout.signed:
        signed: Array = words.view(f"i{words.dtype.itemsize}")
        if above:
            signed <<= above
        if above + below:
            signed >>= above + below
        return signed
    if below:
        words >>= below
    if above:
        words &= (1 << layout.bits_stored) - 1
    return words


def _spread_chroma(flat: Array, layout: PixelLayout) -> Array:
    """Y1 Y2 Cb Cr of two pixels to three values a pixel (PS3.3 C.7.6.3.1.2, YBR_FULL_422)."""
    if layout.columns % 2:
        raise DecodeError(f"expected an even number of Columns for {layout.photometric}; found {layout.columns}")
    pairs = flat.reshape(layout.rows, layout.columns // 2, 4)
    frame = np.empty((layout.rows, layout.columns, 3), flat.dtype)
    frame[:, 0::2, 0] = pairs[:, :, 0]
    frame[:, 1::2, 0] = pairs[:, :, 1]
    for offset in (0, 1):
        frame[:, offset::2, 1:] = pairs[:, :, 2:]
    return frame
