"""Colour spaces and palettes (PS3.3 C.7.6.3.1.2, C.7.6.3.1.5, C.7.6.3.1.6, C.7.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import ValueMeaningError
from dcmark.read.attributes import value

if TYPE_CHECKING:
    from pydicom import Dataset

Array = NDArray[Any]

_FULL = np.array(
    [[0.2990, 0.5870, 0.1140], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]],
)
"""R, G, B to Y, Cb, Cr of ITU-R BT.601 over the full range, before the offset of Cb and Cr."""
_RED_BLUE_709 = (0.2126, 0.0722)
_MOST_ENTRIES = 65536


def ybr_to_rgb(frame: Array, photometric: str = "YBR_FULL", bits: int | None = None) -> Array:
    """YCbCr to RGB, rounded and clipped.

    ``YBR_FULL`` and ``YBR_FULL_422`` use the full range, ``YBR_PARTIAL_422`` and ``YBR_PARTIAL_420`` Y from 16 to 235
    and Cb, Cr from 16 to 240 (of 8 bits). Pictures of 720 lines and more in YBR_PARTIAL_420 are high-definition video
    and use the primaries of ITU-R BT.709 (PS3.5 8.2.6 to 8.2.8), all others those of BT.601.

    Args:
        frame: (rows, columns, 3) unsigned, chroma already at full resolution.
        bits: stored; None for all bits of the type.

    Returns:
        The same shape and type.
    """
    bits = bits or frame.dtype.itemsize * 8
    half = float(1 << (bits - 1))
    matrix = _partial_709() if photometric == "YBR_PARTIAL_420" and frame.shape[0] >= 720 else _FULL
    inverse = np.linalg.inv(matrix)
    offset = np.array([0.0, half, half])
    if photometric.startswith("YBR_PARTIAL"):
        inverse = inverse @ np.diag([255 / 219, 255 / 224, 255 / 224])
        offset[0] = half / 8
    return _linear(frame, inverse, -inverse @ offset, bits)


def rgb_to_ybr(frame: Array, bits: int | None = None) -> Array:
    """RGB to YBR_FULL, rounded and clipped; shape and type are kept. ``bits`` as for ``ybr_to_rgb``."""
    bits = bits or frame.dtype.itemsize * 8
    half = float(1 << (bits - 1))
    return _linear(frame, _FULL, np.array([0.0, half, half]), bits)


def _partial_709() -> NDArray[np.float64]:
    red, blue = _RED_BLUE_709
    luma = np.array([red, 1 - red - blue, blue])
    return np.stack(
        [luma, (np.array([0, 0, 1]) - luma) / (2 * (1 - blue)), (np.array([1, 0, 0]) - luma) / (2 * (1 - red))]
    )


def _linear(frame: Array, matrix: NDArray[np.float64], shift: NDArray[np.float64], bits: int) -> Array:
    values = frame.astype(np.float32) @ matrix.T.astype(np.float32)
    values += shift.astype(np.float32) + np.float32(0.5)
    np.clip(values, 0, np.float32((1 << bits) - 1), out=values)
    return values.astype(frame.dtype)


class Palette(NamedTuple):
    """A colour look-up table.

    first: stored value of the first entry.
    bits: of the entries, 8 or 16.
    entries: (entries, 3) uint16, red, green, blue.
    """

    first: int
    bits: int
    entries: NDArray[np.uint16]


class LutDescriptor(NamedTuple):
    """Number of entries, first stored value mapped, bits of an entry (PS3.3 C.7.6.3.1.5, C.11.1.1)."""

    entries: int
    first: int
    bits: int


def lut_descriptor(dataset: Dataset, keyword: str, *, signed: bool) -> LutDescriptor:
    """A LUT Descriptor, whatever VR it was written in.

    Args:
        signed: the values the table is looked up with are signed, so is the first value mapped.

    Raises:
        ValueMeaningError: it is missing or has not three values.
    """
    found = value(dataset, keyword)
    try:
        entries, first, bits = (int(one) for one in found)
    except (TypeError, ValueError):
        raise ValueMeaningError(f"expected three numbers in {keyword}; found none or others") from None
    entries &= 0xFFFF  # read as SS where the header is implicit and signed
    first &= 0xFFFF
    return LutDescriptor(entries or _MOST_ENTRIES, first - 0x10000 if signed and first & 0x8000 else first, bits)


def lut_data(dataset: Dataset, keyword: str, descriptor: LutDescriptor) -> NDArray[np.uint16]:
    """The entries of a look-up table as uint16.

    Entries of 8 bits may be packed by two into words or take a word each; the length tells (PS3.3 C.11.1.1.1).

    Raises:
        ValueMeaningError: missing, or fewer entries than the descriptor says.
    """
    found = value(dataset, keyword)
    words = _words(found, keyword)
    if descriptor.bits <= 8 and words.size < descriptor.entries:
        words = words.astype("<u2").view(np.uint8).astype(np.uint16)
    if words.size < descriptor.entries:
        raise ValueMeaningError(f"expected {descriptor.entries} entries in {keyword}; found {words.size}")
    return words[: descriptor.entries]


def _words(found: Any, keyword: str) -> NDArray[np.uint16]:
    if found is None:
        raise ValueMeaningError(f"expected {keyword} beside its descriptor; found none")
    if isinstance(found, bytes):
        return np.frombuffer(found + b"\0" * (len(found) % 2), "<u2").astype(np.uint16)
    try:
        return (np.atleast_1d(np.asarray(found, np.int64)) & 0xFFFF).astype(np.uint16)
    except (TypeError, ValueError, OverflowError):
        raise ValueMeaningError(f"expected numbers in {keyword}; found something else") from None


def palette_of(dataset: Dataset, *, signed: bool = False) -> Palette:
    """The palette of a PALETTE COLOR image, plain or segmented (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6, C.7.9.2).

    Raises:
        ValueMeaningError: a descriptor or table is missing, too short or contradictory.
    """
    channels: list[NDArray[np.uint16]] = []
    descriptors: list[LutDescriptor] = []
    for name in ("Red", "Green", "Blue"):
        descriptor = lut_descriptor(dataset, f"{name}PaletteColorLookupTableDescriptor", signed=signed)
        if descriptor.bits not in (8, 16):
            raise ValueMeaningError(f"expected 8 or 16 bits a palette entry; found {descriptor.bits}")
        segmented = f"Segmented{name}PaletteColorLookupTableData"
        if segmented in dataset:
            channels.append(_expand(value(dataset, segmented), descriptor, segmented))
        else:
            channels.append(lut_data(dataset, f"{name}PaletteColorLookupTableData", descriptor))
        descriptors.append(descriptor)
    if any(one != descriptors[0] for one in descriptors):
        raise ValueMeaningError("expected equal descriptors of the red, green and blue palette; found others")
    entries = np.stack(channels, axis=-1)
    bits = descriptors[0].bits
    if bits == 16 and entries.size and int(entries.max()) < 256:
        bits = 8  # says 16 and holds 8, as some ultrasound machines write
    return Palette(descriptors[0].first, bits, entries)


def _expand(found: Any, descriptor: LutDescriptor, keyword: str) -> NDArray[np.uint16]:
    """Segments to entries (PS3.3 C.7.9.2): 0 discrete, 1 linear, 2 indirect."""
    if isinstance(found, bytes) and descriptor.bits == 8:
        data = list(found)
    else:
        data = _words(found, keyword).tolist()
    out: list[int] = []

    def read(count: int, at: int) -> list[int]:
        if at + count > len(data):
            raise ValueMeaningError(f"expected complete segments in {keyword}; found the last one cut short")
        return data[at : at + count]

    def segment(at: int, *, inside: bool) -> int:
        """Expand the segment at ``at``; returns where the next one begins."""
        opcode, length = read(2, at)
        at += 2
        if not length:
            raise ValueMeaningError(f"expected segments of one entry or more in {keyword}; found an empty one")
        if opcode == 0:
            out.extend(read(length, at))
            at += length
        elif opcode == 1:
            (last,) = read(1, at)
            at += 1
            if not out:
                raise ValueMeaningError(f"expected a discrete segment first in {keyword}; found a linear one")
            first = out[-1]
            out.extend((first + (last - first) * step / length + 0.5).__floor__() for step in range(1, length + 1))
        elif opcode == 2 and not inside:
            low_first = read(4 if descriptor.bits == 8 else 2, at)
            at += len(low_first)
            width = 8 if descriptor.bits == 8 else 16
            target = sum(part << (width * place) for place, part in enumerate(low_first))
            if descriptor.bits == 16:
                target //= 2  # the offset counts bytes
            for _ in range(length):
                target = segment(target, inside=True)
        else:
            raise ValueMeaningError(f"expected a segment type 0, 1 or 2 in {keyword}; found {opcode}")
        if len(out) > descriptor.entries:
            raise ValueMeaningError(f"expected {descriptor.entries} entries in {keyword}; found more")
        return at

    at = 0
    while len(out) < descriptor.entries and at + 2 <= len(data):
        at = segment(at, inside=False)
    if len(out) != descriptor.entries:
        raise ValueMeaningError(f"expected {descriptor.entries} entries in {keyword}; found {len(out)}")
    return np.array(out, np.uint16)


def apply_palette(stored: Array, palette: Palette) -> Array:
    """Stored values to colours: (..., 3) uint8 or uint16 by the bits of the palette.

    Values below and above the table take its first and last entry (PS3.3 C.7.6.3.1.5).
    """
    index = np.clip(stored.astype(np.int64) - palette.first, 0, len(palette.entries) - 1)
    table = palette.entries.astype(np.uint8 if palette.bits == 8 else np.uint16)
    return table[index]
