"""How the bytes of frames and headers are packed in an archive, bit for bit.

A codec is a name that stands beside every stored part:

``htj2k``   HTJ2K lossless codestream (ISO/IEC 15444-15, DICOM 1.2.840.10008.1.2.4.201) of a native frame.
            ``+be`` the frame's 16-bit words are big endian in the file; ``+planar`` its samples lie
            plane by plane (Planar Configuration 1). The codestream itself is an ordinary image.
``zstd``    Zstandard frame of the bytes.
``raw``     the bytes as they are.
a UID       an encapsulated frame of that transfer syntax, kept verbatim.
"""

from __future__ import annotations

import threading
import zlib
from typing import NamedTuple

import imagecodecs
import numpy as np
import zstandard
from numpy.typing import NDArray

from dcmark.errors import DamageError
from dcmark.read.base import PixelLayout

Bytes = bytes | memoryview
ZSTD_LEVEL = 3
SMALLEST_IMAGE = 64
"""Fewer pixels than this are not worth an image codec."""


class Encoded(NamedTuple):
    """A packed part: codec name, payload, and the least and greatest stored value where known."""

    codec: str
    payload: bytes
    lowest: int | None = None
    highest: int | None = None


def encode_frame(frame: Bytes, layout: PixelLayout) -> Encoded:
    """Pack a native frame losslessly; proved by decoding it again.

    HTJ2K where it carries the frame bit for bit and is smaller, else zstd, else raw.
    """
    array = _as_image(frame, layout)
    if array is None:
        return encode_bytes(frame)
    lowest, highest = int(array.min()), int(array.max())
    codec = "htj2k" + ("+be" if _swapped(layout) else "") + ("+planar" if _planes(layout) else "")
    image = array.astype(array.dtype.newbyteorder("=")) if _swapped(layout) else array
    if _planes(layout):
        image = np.ascontiguousarray(np.moveaxis(image, 0, -1))
    try:
        payload = bytes(imagecodecs.htj2k_encode(image, reversible=True))
        exact = _local.decodes_to(payload, image)
    except (ValueError, RuntimeError):
        exact = False
    if not exact or len(payload) >= len(frame):
        packed = encode_bytes(frame)
        return Encoded(packed.codec, packed.payload, lowest, highest)
    return Encoded(codec, payload, lowest, highest)


_crc32 = imagecodecs.zlibng_crc32 if imagecodecs.ZLIBNG.available else zlib.crc32
"""zlib-ng takes a tenth of the time."""


def checksum(payload: bytes) -> int:
    """CRC-32 of a stored payload (ISO 3309)."""
    return int(_crc32(payload))


def encode_bytes(data: Bytes) -> Encoded:
    """Pack any bytes: zstd where it helps, else raw; proved by unpacking."""
    payload = _local.compressor.compress(data)
    if len(payload) >= len(data) or _local.decompressor.decompress(payload, len(data)) != data:
        return Encoded("raw", bytes(data))
    return Encoded("zstd", payload)


def decode(codec: str, payload: bytes, length: int) -> Bytes:
    """The original bytes of a part.

    Args:
        codec: its name as stored.
        payload: as stored.
        length: bytes expected.

    Raises:
        DamageError: the payload does not give ``length`` bytes.
    """
    data: Bytes
    try:
        if codec == "zstd":
            data = _local.decompressor.decompress(payload, length)
        elif codec.startswith("htj2k"):
            data = file_order(imagecodecs.htj2k_decode(payload), codec).data.cast("B")
        else:
            data = payload
    except (ValueError, RuntimeError, zstandard.ZstdError) as error:
        raise DamageError(f"a stored part ({codec}) cannot be unpacked; the archive is damaged there") from error
    if len(data) != length:
        raise DamageError(f"a stored part ({codec}) gives {len(data)} bytes, {length} were stored")
    return data


def file_order(image: NDArray[np.generic], codec: str) -> NDArray[np.generic]:
    """A decoded image as its words lay in the file: byte order and planes put back."""
    if codec.endswith("+planar"):
        image = np.moveaxis(image, -1, 0)
    if "+be" in codec:
        image = image.astype(image.dtype.newbyteorder(">"))
    return np.ascontiguousarray(image)


def _as_image(frame: Bytes, layout: PixelLayout) -> NDArray[np.generic] | None:
    """The frame as an array in file order; None where an image codec cannot carry it."""
    if layout.number != "int" or layout.bits_allocated not in (8, 16) or layout.samples not in (1, 3):
        return None
    words = layout.rows * layout.columns * layout.samples
    if len(frame) * 8 != words * layout.bits_allocated or words < SMALLEST_IMAGE:
        return None
    kind = np.dtype(f"{'i' if layout.signed else 'u'}{layout.bits_allocated // 8}")
    if _swapped(layout):
        kind = kind.newbyteorder(">")
    flat = np.frombuffer(frame, kind)
    if layout.samples == 1:
        return flat.reshape(layout.rows, layout.columns)
    if _planes(layout):
        return flat.reshape(layout.samples, layout.rows, layout.columns)
    return flat.reshape(layout.rows, layout.columns, layout.samples)


def _swapped(layout: PixelLayout) -> bool:
    return layout.big_endian and layout.bits_allocated == 16


def _planes(layout: PixelLayout) -> bool:
    return layout.planar and layout.samples == 3


class _Local(threading.local):
    """Compressors are costly to make and not to be shared between threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()
        self._scratch = bytearray()

    def decodes_to(self, payload: bytes, image: NDArray[np.generic]) -> bool:
        """Does an HTJ2K codestream give exactly this image?

        It is decoded into memory that is kept between frames: fresh memory would cost a tenth of the
        decoding. That is a bytearray because two runs of bytes are compared fastest.
        """
        if len(self._scratch) != image.nbytes:
            self._scratch = bytearray(image.nbytes)
        imagecodecs.htj2k_decode(payload, out=np.frombuffer(self._scratch, image.dtype).reshape(image.shape))
        return bool(self._scratch == image.data.cast("B"))


_local = _Local()


def _make_ready() -> None:
    """Use the image codec once, on one thread.

    OpenJPH fills its tables when it is first used and lets threads that come meanwhile decode with half of
    them: one process in fourteen that began on two threads at once got wrong pixels.
    """
    image = np.arange(SMALLEST_IMAGE**2, dtype=np.uint16).reshape(SMALLEST_IMAGE, -1)
    for kind in (np.uint8, np.int16, np.uint16):
        imagecodecs.htj2k_decode(imagecodecs.htj2k_encode(image.astype(kind), reversible=True))


_make_ready()
