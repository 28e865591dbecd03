"""Codestreams to stored values, for every transfer syntax (PS3.5 section 8 and annex A).

**What "stored values" are.** The values of the Image Pixel module before the modality transformation, one for every
sample of every pixel, in the colour space that Photometric Interpretation names:

- Grey and palette images: what the encoder was given (exactly so for lossless syntaxes), BitsStored wide,
  sign-extended where Pixel Representation is 1, even where the codestream itself has no sign (JPEG, JPEG-LS, RLE).
- JPEG with YBR_FULL or YBR_FULL_422: Y, Cb and Cr as they come out of the inverse DCT, chroma interpolated to full
  resolution. The conversion to RGB belongs to display (``dcmark.read.colour.ybr_to_rgb``). Where the codestream says by
  its markers (JFIF, Adobe, component names) that it holds the *other* colour space than the header names, it is
  converted, so that the header is true.
- JPEG 2000 and HTJ2K with YBR_RCT or YBR_ICT: red, green and blue. The inverse component transformation is a part of
  decoding (ISO/IEC 15444-1 annex G, PS3.3 C.7.6.3.1.2), so nothing is left to convert.
- JPEG XL recompressed from JPEG: as the JPEG it was made from. Other JPEG XL: the channels as decoded (XYB is
  resolved by the decoder to RGB).
- Video: Y, Cb and Cr as coded (YBR_PARTIAL_420), chroma repeated to full resolution.

Nothing is allocated before the size the header declares has been compared with ``Limits.frame_bytes`` and with the
size the codestream declares. Two decoders of imagecodecs are left aside for what they do to damaged input: ``jpegsof3``
crashes the process (``jpeg8`` decodes lossless JPEG too), and ``htj2k`` prints its error and returns the damaged frame
(OpenJPEG decodes HTJ2K too, at a third of the speed).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dcmark.config import LIMITS, Limits
from dcmark.errors import DecodeError, UnsupportedError
from dcmark.read import codestreams
from dcmark.read.base import PixelLayout
from dcmark.read.codestreams import CodestreamHeader
from dcmark.read.colour import rgb_to_ybr, ybr_to_rgb
from dcmark.read.native import Bytes, check_size, dtype_of, layout_of, native_frame, shape_of, stored_bits
from dcmark.read.video import video_frame, video_frames

__all__ = ["SYNTAXES", "Syntax", "decode_frame", "layout_of", "native_frame", "video_frames"]

Array = NDArray[Any]


class Syntax(NamedTuple):
    """A transfer syntax.

    name: as in PS3.6 table A-1, shortened.
    family: which of the decoders below.
    codec: the library that does the work.
    lossy: its frames may have lost something.
    """

    name: str
    family: str
    codec: str
    lossy: bool = False


_JPEG = "imagecodecs jpeg8 (libjpeg-turbo)"
_OPENJPEG = "imagecodecs jpeg2k (OpenJPEG)"
_JXL = "imagecodecs jpegxl (libjxl)"
_VIDEO = "PyAV (FFmpeg), extra video"
_ROOT = "1.2.840.10008.1.2"

SYNTAXES: dict[str, Syntax] = {
    _ROOT: Syntax("Implicit VR Little Endian", "native", "numpy"),
    f"{_ROOT}.1": Syntax("Explicit VR Little Endian", "native", "numpy"),
    f"{_ROOT}.1.98": Syntax("Encapsulated Uncompressed Explicit VR Little Endian", "native", "numpy"),
    f"{_ROOT}.1.99": Syntax("Deflated Explicit VR Little Endian", "native", "numpy"),
    f"{_ROOT}.2": Syntax("Explicit VR Big Endian", "native", "numpy"),
    "1.2.840.113619.5.2": Syntax("GE Private Implicit VR Big Endian", "native", "numpy"),
    f"{_ROOT}.5": Syntax("RLE Lossless", "rle", "imagecodecs dicomrle"),
    f"{_ROOT}.8.1": Syntax("Deflated Image Frame Compression", "deflate", "zlib"),
    f"{_ROOT}.4.50": Syntax("JPEG Baseline (process 1)", "jpeg", _JPEG, True),
    f"{_ROOT}.4.51": Syntax("JPEG Extended (processes 2, 4)", "jpeg", _JPEG, True),
    f"{_ROOT}.4.53": Syntax("JPEG Spectral Selection (processes 6, 8; retired)", "jpeg", _JPEG, True),
    f"{_ROOT}.4.55": Syntax("JPEG Full Progression (processes 10, 12; retired)", "jpeg", _JPEG, True),
    f"{_ROOT}.4.57": Syntax("JPEG Lossless (process 14)", "jpeg", _JPEG),
    f"{_ROOT}.4.70": Syntax("JPEG Lossless, first-order prediction (process 14 SV1)", "jpeg", _JPEG),
    f"{_ROOT}.4.80": Syntax("JPEG-LS Lossless", "jpegls", "imagecodecs jpegls (CharLS)"),
    f"{_ROOT}.4.81": Syntax("JPEG-LS Near-Lossless", "jpegls", "imagecodecs jpegls (CharLS)", True),
    f"{_ROOT}.4.90": Syntax("JPEG 2000 Lossless Only", "jpeg2000", _OPENJPEG),
    f"{_ROOT}.4.91": Syntax("JPEG 2000", "jpeg2000", _OPENJPEG, True),
    f"{_ROOT}.4.92": Syntax("JPEG 2000 Part 2 Multi-component Lossless Only", "jpeg2000", _OPENJPEG),
    f"{_ROOT}.4.93": Syntax("JPEG 2000 Part 2 Multi-component", "jpeg2000", _OPENJPEG, True),
    f"{_ROOT}.4.201": Syntax("High-Throughput JPEG 2000 Lossless Only", "jpeg2000", _OPENJPEG),
    f"{_ROOT}.4.202": Syntax("High-Throughput JPEG 2000 RPCL Lossless Only", "jpeg2000", _OPENJPEG),
    f"{_ROOT}.4.203": Syntax("High-Throughput JPEG 2000", "jpeg2000", _OPENJPEG, True),
    f"{_ROOT}.4.110": Syntax("JPEG XL Lossless", "jpegxl", _JXL),
    f"{_ROOT}.4.111": Syntax("JPEG XL JPEG Recompression", "jpegxl", f"{_JXL}, then {_JPEG}", True),
    f"{_ROOT}.4.112": Syntax("JPEG XL", "jpegxl", _JXL, True),
} | {
    f"{_ROOT}.4.{number}{fragmentable}": Syntax(name + (", fragmentable" * bool(fragmentable)), "video", _VIDEO, True)
    for number, name in {
        100: "MPEG-2 Main Profile / Main Level",
        101: "MPEG-2 Main Profile / High Level",
        102: "MPEG-4 AVC/H.264 High Profile / Level 4.1",
        103: "MPEG-4 AVC/H.264 BD-compatible",
        104: "MPEG-4 AVC/H.264 High Profile / Level 4.2 for 2-D",
        105: "MPEG-4 AVC/H.264 High Profile / Level 4.2 for 3-D",
        106: "MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
        107: "HEVC/H.265 Main Profile / Level 5.1",
        108: "HEVC/H.265 Main 10 Profile / Level 5.1",
    }.items()
    for fragmentable in ("", ".1")
}
"""Transfer syntaxes whose frames can be decoded, by UID."""


def decode_frame(
    codestream: Bytes, transfer_syntax: str, layout: PixelLayout, limits: Limits = LIMITS, *, index: int = 0
) -> Array:
    """Stored values of one frame.

    Args:
        codestream: the bytes of the frame: its fragments joined, or its part of native pixel data. For video the
            whole stream.
        transfer_syntax: UID.
        layout: what the header declares; see ``layout_of``.
        limits: ``frame_bytes`` is kept.
        index: for video the number of the frame in the stream, from 0; else not used.

    Returns:
        (rows, columns) or (rows, columns, samples); uint8, uint16, uint32, int8, int16, int32, float32 or float64 by
        the layout, 1-bit values as uint8. Colours are in the space the module's text describes.

    Raises:
        DecodeError: damaged, or not what the layout declares; the message says what was expected and found.
        LimitError: larger than ``limits.frame_bytes``.
        MissingExtraError: video without PyAV.
        UnsupportedError: a transfer syntax that holds no pixels or is not known.
    """
    syntax = SYNTAXES.get(transfer_syntax)
    if syntax is None:
        raise UnsupportedError(
            f"expected a transfer syntax that holds pixels; found {transfer_syntax!r}, which dcmark cannot decode"
        )
    check_size(layout, limits)
    if syntax.family == "native":
        return native_frame(codestream, layout, limits)
    if syntax.family == "video":
        return video_frame(codestream, layout, index, limits)
    data = bytes(codestream)
    if layout.number != "int" and syntax.family != "deflate":
        raise DecodeError(f"expected whole numbers in {syntax.name}; the header declares floating-point values")
    return _DECODERS[syntax.family](data, syntax, layout, limits)


def _decode_jpeg(data: bytes, syntax: Syntax, layout: PixelLayout, limits: Limits) -> Array:
    del limits
    header = codestreams.jpeg(data)
    _expect(header, layout)
    plain = {} if header.samples == 1 else {"colorspace": "RGB", "outcolorspace": "RGB"}  # no conversion
    if header.samples == 4:
        plain = {"colorspace": "CMYK", "outcolorspace": "CMYK"}
    frame = _finish(_run(imagecodecs.jpeg8_decode, data, syntax, **plain), header, syntax, layout)
    if header.colour == "ybr" and layout.photometric == "RGB":
        return ybr_to_rgb(frame, bits=layout.bits_stored)
    if header.colour == "rgb" and layout.photometric in ("YBR_FULL", "YBR_FULL_422"):
        return rgb_to_ybr(frame, layout.bits_stored)
    return frame


def _decode_jpegls(data: bytes, syntax: Syntax, layout: PixelLayout, limits: Limits) -> Array:
    del limits
    header = codestreams.jpeg(data)
    _expect(header, layout)
    return _finish(_run(imagecodecs.jpegls_decode, data, syntax), header, syntax, layout)


def _decode_jpeg2000(data: bytes, syntax: Syntax, layout: PixelLayout, limits: Limits) -> Array:
    del limits
    header = codestreams.jpeg2000(data)
    _expect(header, layout)
    return _finish(_run(imagecodecs.jpeg2k_decode, data, syntax, numthreads=1), header, syntax, layout)


def _decode_jpegxl(data: bytes, syntax: Syntax, layout: PixelLayout, limits: Limits) -> Array:
    header = codestreams.jpegxl(data)
    _expect(header, layout)
    if b"jbrd" in data[:4096] and layout.photometric != "RGB":
        jpeg = bytes(_run(imagecodecs.jpegxl_decode_jpeg, data, syntax, out=limits.frame_bytes))
        return _decode_jpeg(jpeg, syntax, layout, limits)
    frame = _run(imagecodecs.jpegxl_decode, data, syntax, index=0, numthreads=1)
    return _finish(frame, header, syntax, layout)


def _decode_rle(data: bytes, syntax: Syntax, layout: PixelLayout, limits: Limits) -> Array:
    """RLE (PS3.5 annex G): a segment for each byte of each sample, most significant byte first."""
    values = layout.rows * layout.columns * layout.samples
    size = max(8, layout.bits_allocated) // 8
    expected = (values * layout.bits_allocated + 7) // 8
    wanted = layout.samples * size
    segments = int.from_bytes(data[:4], "little")
    if len(data) < 64 or segments != wanted:
        raise DecodeError(f"expected an RLE header of {wanted} segments; found {segments} in {len(data)} bytes")
    if expected > 64 * len(data):  # two bytes make 128 at most
        raise DecodeError(f"expected RLE segments of {expected} bytes unpacked; found only {len(data)} bytes packed")
    unpacked = _run(imagecodecs.dicomrle_decode, data, syntax, dtype=np.dtype(f"<u{size}"), out=expected)
    if len(unpacked) != expected:
        raise DecodeError(f"expected RLE segments of {expected} bytes unpacked; found {len(unpacked)}")
    # Unpacked samples stand in planes whatever Planar Configuration says (PS3.5 G.2).
    return native_frame(unpacked, replace(layout, planar=True, big_endian=False, photometric="RLE"), limits)


def _decode_deflate(data: bytes, syntax: Syntax, layout: PixelLayout, limits: Limits) -> Array:
    """Deflated Image Frame (PS3.5 A.4.13): each frame a deflate stream of its own (RFC 1951)."""
    expected = (layout.rows * layout.columns * layout.samples * layout.bits_allocated + 7) // 8
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        frame = inflate.decompress(data, expected + 2)
    except zlib.error as error:
        raise DecodeError(f"expected a deflate stream in {syntax.name}; found damage ({error})") from None
    return native_frame(frame, replace(layout, big_endian=False), limits)


_DECODERS: dict[str, Callable[[bytes, Syntax, PixelLayout, Limits], Array]] = {
    "jpeg": _decode_jpeg,
    "jpegls": _decode_jpegls,
    "jpeg2000": _decode_jpeg2000,
    "jpegxl": _decode_jpegxl,
    "rle": _decode_rle,
    "deflate": _decode_deflate,
}


def _expect(header: CodestreamHeader, layout: PixelLayout) -> None:
    """The codestream must be what the DICOM header declares, before it is decoded."""
    declared = (layout.rows, layout.columns, layout.samples)
    found = (header.rows, header.columns, header.samples)
    if declared != found:
        raise DecodeError(
            f"expected a codestream of {declared} rows, columns and samples, as the header declares; found {found}"
        )
    if not 1 <= header.precision <= max(8, layout.bits_allocated):
        raise DecodeError(
            f"expected a codestream of at most {layout.bits_allocated} bits a sample; found {header.precision}"
        )


def _run(decode: Callable[..., Any], data: bytes, syntax: Syntax, **options: Any) -> Any:
    """Call a decoder; whatever it raises for bad input becomes a DecodeError."""
    try:
        return decode(data, **options)
    except Exception as error:  # noqa: BLE001 (decoders raise errors of their own, ValueError, MemoryError, ...)
        raise DecodeError(f"expected a whole {syntax.name} frame; the decoder found damage: {error}") from None


def _finish(frame: Array, header: CodestreamHeader, syntax: Syntax, layout: PixelLayout) -> Array:
    """Decoded samples to stored values: Bits Stored wide, with the sign the header declares."""
    if frame.ndim == 3 and frame.shape[2] == 1:
        frame = frame[:, :, 0]
    if frame.shape != shape_of(layout) or frame.dtype.kind not in "iu":
        raise DecodeError(
            f"expected whole numbers of shape {shape_of(layout)}; the decoder gave {frame.dtype} of {frame.shape}"
        )
    target = dtype_of(layout)
    bits = min(header.precision, layout.bits_stored)
    if header.signed == layout.signed and header.precision <= layout.bits_stored:
        return np.ascontiguousarray(frame, target)
    if header.signed == layout.signed and syntax.lossy:
        # What overshoots the range after lossy compression must not wrap around.
        low = -(1 << (bits - 1)) if layout.signed else 0
        return np.clip(frame, low, low + (1 << bits) - 1).astype(target)
    words = np.ascontiguousarray(frame).astype(f"u{target.itemsize}")
    return stored_bits(words, replace(layout, bits_stored=bits, high_bit=bits - 1))
