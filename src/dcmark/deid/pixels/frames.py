"""The frames of a DICOM file as pictures, and the file again with parts of them made blank.

Pixels change inside the boxes only. Native frames are changed where they lie. Compressed ones are decoded, blanked,
packed without loss in their family, unpacked and compared; JPEG, which cannot be packed again without loss, becomes
JPEG 2000 that holds exactly the values that JPEG gave.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray

from dcmark.config import LIMITS, Limits
from dcmark.deid.pixels.detector import Box, Grey
from dcmark.errors import DcmarkError, HeldBackError
from dcmark.read.base import Instance, PixelLayout
from dcmark.read.codecs import decode_frame
from dcmark.read.colour import palette_of
from dcmark.read.dicom import DEFLATED, DicomReader, data_set_encoding, read_meta
from dcmark.read.display import display
from dcmark.read.elements import UNDEFINED, scan
from dcmark.read.native import dtype_of

Array = NDArray[Any]
CHUNK = 16
"""Frames of which one darkest and one brightest picture are made: all text shows in one of the two."""
_J2K, _HTJ2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"
_BASE = "1.2.840.10008.1.2."
_BECOMES = {
    **{_BASE + one: _BASE + one for one in ("5", "4.80", "4.81", "4.90", "4.91", "4.201", "4.203")},
    **{_BASE + one: _J2K for one in ("4.50", "4.51", "4.57", "4.70")},
    _BASE + "4.202": _HTJ2K,
}
"""Transfer syntax of a compressed file that was made blank in places, by the one that it had; all as long as theirs."""
_PIXELS, _OFFSETS = 0x7FE00010, 0x7FE00001


@dataclass
class Pictures:
    """The pixels of a DICOM file.

    Args:
        data: the whole file.
        limits: what decoding may cost.
    """

    data: memoryview
    limits: Limits = LIMITS

    @cached_property
    def instance(self) -> Instance:
        """Taken apart."""
        return DicomReader(self.limits).take_apart(self.data, "")

    @cached_property
    def header(self) -> pydicom.Dataset:
        """Without pixels."""
        return pydicom.dcmread(BytesIO(self.data), force=True, stop_before_pixels=True)

    @cached_property
    def spans(self) -> list[list[tuple[int, int]]]:
        """(start, end) of the parts of each frame in the file."""
        found: list[list[tuple[int, int]]] = [[] for _ in range(self.instance.frames)]
        at = 0
        for part, length in self.instance.segments:
            if part >= 0:
                found[part].append((at, at + length))
            at += length
        return found

    @cached_property
    def range(self) -> tuple[int, int]:
        """Where the value of the pixel element begins in the file, and the first byte behind it; none: (end, end)."""
        meta = read_meta(self.data)
        encoding = data_set_encoding(self.data, meta.start, meta.syntax)
        found = scan(self.data, meta.start, encoding, {}, self.limits.depth)
        return (len(self.data),) * 2 if found.pixels is None else (found.pixels.value, found.pixels_end)

    def stored(self, number: int) -> Array:
        """Stored values of a frame, see ``read.codecs``. Raises DcmarkError where it cannot be decoded."""
        layout = self.instance.layout
        if layout is None:
            raise HeldBackError("expected rows, columns and bits of the pixels in the header, found none")
        if self.instance.derived:
            data: bytes | memoryview = self.instance.derived[number]
        else:
            data = b"".join(bytes(self.data[start:end]) for start, end in self.spans[number])
        return decode_frame(data, self.instance.transfer_syntax, layout, self.limits, index=number)

    def shown(self) -> Iterator[Grey]:
        """Pictures in which all text of all frames is to be seen: as displayed, and over the whole range of values.

        Raises:
            DcmarkError: a frame cannot be decoded.
        """
        count = self.instance.frames
        for start in range(0, count, CHUNK):
            gathered: list[list[Grey]] = []
            for number in range(start, min(count, start + CHUNK)):
                for place, picture in enumerate(_greys(self.stored(number), self.header, number)):
                    if place == len(gathered):
                        gathered.append([picture, picture])
                    darkest, brightest = gathered[place]
                    if picture.shape != darkest.shape:
                        raise HeldBackError("expected frames of one size, found several")
                    gathered[place] = [np.minimum(darkest, picture), np.maximum(brightest, picture)]
            for darkest, brightest in gathered:
                yield darkest
                if not np.array_equal(darkest, brightest):
                    yield brightest

    def blanked(self, boxes: Sequence[Box]) -> bytes:
        """The file with the boxes of all frames made background.

        Raises:
            HeldBackError: its pixels are in a form that cannot be changed alone.
        """
        instance, layout = self.instance, self.instance.layout
        if layout is None or layout.number != "int" or layout.bits_allocated not in (8, 16, 32):
            raise HeldBackError("expected pixels of 8, 16 or 32 bits, found others")
        if instance.derived or instance.transfer_syntax == DEFLATED:
            raise HeldBackError("expected frames that lie in the file as bytes, found a deflated data set")
        try:
            made = self._native(layout, boxes) if instance.native else self._packed(layout, boxes)
            again = Pictures(memoryview(made), self.limits)
            for number in range(instance.frames):
                wanted = self.stored(number)
                self._blank(wanted, layout, boxes)
                if not np.array_equal(again.stored(number), wanted):
                    raise HeldBackError("expected the blanked frame back from the codec, found another")
        except HeldBackError:
            raise
        except (DcmarkError, ValueError, RuntimeError) as error:
            raise HeldBackError(f"expected frames that can be packed again; {type(error).__name__}") from error
        return made

    def _blank(self, values: Array, layout: PixelLayout, boxes: Sequence[Box]) -> None:
        value = self._background(values, layout)
        for box in boxes:
            values[box.top : box.bottom, box.left : box.right] = value

    def _background(self, values: Array, layout: PixelLayout) -> Any:
        """The darkest value as shown, for each sample."""
        photometric = layout.photometric
        if photometric == "PALETTE COLOR":
            table = palette_of(self.header, signed=layout.signed)
            colours = np.asarray(table.entries, np.float64).sum(axis=-1)
            return table.first + int(colours.argmin())
        if values.ndim == 3:
            if not photometric.startswith("YBR") or photometric in ("YBR_RCT", "YBR_ICT"):
                return np.zeros(values.shape[2], values.dtype)
            middle = 1 << (layout.bits_stored - 1)
            return np.array([16 if "PARTIAL" in photometric else 0, middle, middle], values.dtype)
        return values.max() if photometric == "MONOCHROME1" else values.min()

    def _native(self, layout: PixelLayout, boxes: Sequence[Box]) -> bytes:
        if layout.high_bit != layout.bits_stored - 1:
            raise HeldBackError("expected values in the low bits of their words, found them elsewhere")
        if "42" in layout.photometric and layout.samples == 3:
            raise HeldBackError("expected a value of each colour for each pixel, found pixels that share them")
        whole = bytearray(self.data)
        kind = dtype_of(layout).newbyteorder(">" if layout.big_endian else "<")
        for number, ((start, end),) in enumerate(self.spans):
            words = np.frombuffer(whole, np.uint8)[start:end].view(kind)
            count = layout.rows * layout.columns * layout.samples
            shape = (layout.rows, layout.columns, layout.samples)
            if layout.planar and layout.samples > 1:
                frame = np.moveaxis(words[:count].reshape(layout.samples, layout.rows, layout.columns), 0, -1)
            else:
                frame = words[:count].reshape(shape if layout.samples > 1 else shape[:2])
            value = self._background(self.stored(number), layout)
            for box in boxes:
                frame[box.top : box.bottom, box.left : box.right] = value
        return bytes(whole)

    def _packed(self, layout: PixelLayout, boxes: Sequence[Box]) -> bytes:
        from pydicom.encaps import encapsulate

        old = self.instance.transfer_syntax
        new = _BECOMES.get(old)
        if new is None:
            raise HeldBackError("expected a transfer syntax whose frames can be packed again, found another")
        meta = read_meta(self.data)
        encoding = data_set_encoding(self.data, meta.start, meta.syntax)
        found = scan(self.data, meta.start, encoding, {_OFFSETS: 1 << 30}, self.limits.depth)
        if found.pixels is None or found.pixels.length != UNDEFINED or found.raw.get(_OFFSETS):
            raise HeldBackError("expected frames without an extended offset table, found one")
        photometric = _photometric(layout.photometric, new)
        packed = []
        for number in range(self.instance.frames):
            values = self.stored(number)
            self._blank(values, layout, boxes)
            packed.append(_pack(values, new, replace(layout, photometric=photometric)))
        head = bytearray(self.data[: found.pixels.value])
        _swap(head, meta.start, old, new, 0)
        _swap(head, len(head), layout.photometric, photometric, meta.start)
        body = encapsulate(packed, has_bot=True) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return bytes(head) + body + bytes(self.data[found.pixels_end :])


def _greys(values: Array, header: pydicom.Dataset, number: int) -> list[Grey]:
    """A frame as displayed, and with its smallest value black and its largest white; of colours their brightest too."""
    try:
        shown = display(values, header, number)
    except DcmarkError:
        shown = _stretched(values if values.ndim == 2 else values.max(axis=-1))
    if shown.ndim == 3:
        luma = (shown @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
        return [luma, shown.max(axis=-1)]
    whole = _stretched(values) if values.ndim == 2 else shown
    return [shown] if np.abs(whole.astype(np.int16) - shown).max(initial=0) < 24 else [shown, whole]


def _stretched(values: Array) -> Grey:
    low, high = float(values.min()), float(values.max())
    return ((values.astype(np.float32) - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)


def _photometric(name: str, new: str) -> str:
    """What the header says of frames that were packed again; no longer than before."""
    if new in (_J2K, _BASE + "4.91", _HTJ2K, _BASE + "4.203"):
        return {"YBR_ICT": "YBR_RCT", "YBR_FULL_422": "YBR_FULL"}.get(name, name)
    return name


def _pack(values: Array, syntax: str, layout: PixelLayout) -> bytes:
    """One frame as a codestream without loss."""
    given = np.ascontiguousarray(values)
    rct = layout.photometric == "YBR_RCT"
    if syntax in (_J2K, _BASE + "4.91"):
        return bytes(imagecodecs.jpeg2k_encode(given, 0, codecformat="j2k", reversible=True, mct=rct))
    if syntax in (_HTJ2K, _BASE + "4.203"):
        return bytes(imagecodecs.htj2k_encode(given, reversible=True, rgb=rct))
    if given.dtype.kind == "i":
        given = given.view(given.dtype.str.replace("i", "u"))
    if syntax in (_BASE + "4.80", _BASE + "4.81"):
        mask = np.array((1 << layout.bits_stored) - 1, given.dtype)
        return bytes(imagecodecs.jpegls_encode(given & mask))
    from pydicom.pixels import get_encoder  # type: ignore[attr-defined]
    from pydicom.uid import RLELossless

    return get_encoder(RLELossless).encode(
        given, encoding_plugin="pydicom", rows=layout.rows, columns=layout.columns, number_of_frames=1,
        samples_per_pixel=layout.samples, bits_allocated=layout.bits_allocated, bits_stored=layout.bits_allocated,
        pixel_representation=0, photometric_interpretation=layout.photometric, planar_configuration=0,
    )  # fmt: skip


def _swap(head: bytearray, end: int, old: str, new: str, start: int) -> None:
    """A value for another in the header, in its place."""
    if old == new:
        return
    was = old.encode("ascii")
    if head.count(was, start, end) != 1 or len(new) > len(old):
        raise HeldBackError("expected the transfer syntax and the kind of colour once in the header, found otherwise")
    at = head.index(was, start, end)
    head[at : at + len(was)] = new.encode("ascii").ljust(len(was))
