"""Pictures without a place in the patient: PNG, JPEG (all processes), JPEG-LS, JPEG 2000, JPEG XL, TIFF.

A codestream that DICOM knows is a frame as it lies. PNG and TIFF are kept as they came, and their decoded pictures
stand beside as frames (``derived``). Sizes are read from the headers and checked before anything is decoded.
"""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.config import LIMITS, Limits
from dcmark.findings import Finding
from dcmark.read.base import Instance, PixelLayout, Segment

PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_SYNTAX = {
    0xC0: "1.2.840.10008.1.2.4.50",
    0xC1: "1.2.840.10008.1.2.4.51",
    0xC2: "1.2.840.10008.1.2.4.55",
    0xC3: "1.2.840.10008.1.2.4.57",
    0xF7: "1.2.840.10008.1.2.4.81",
}
"""Transfer syntaxes by start-of-frame marker (ISO/IEC 10918-1 table B.1; 14495-1 C.1.1)."""
_J2K, _J2K_SYNTAX = b"\xff\x4f\xff\x51", "1.2.840.10008.1.2.4.91"
MOST_PAGES = 10_000


class ImageReader:
    """Takes PNG, JPEG and TIFF pictures apart."""

    name = "image"

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits

    def claims(self, head: memoryview, path: str) -> bool:
        """By their first bytes."""
        del path
        start = bytes(head[:8])
        return start == PNG or start[:3] == b"\xff\xd8\xff" or start[:4] in (_J2K, *_TIFF)

    def take_apart(self, data: memoryview, path: str) -> Instance:
        """Segments and tags; never raises for the file's content."""
        del path
        start = bytes(data[:8])
        if len(data) > self.limits.in_memory and (start == PNG or start[:4] in _TIFF):
            text = f"a file of {len(data)} bytes is above the limit for one that is decoded on the way in"
            return _whole(data, "image", Finding("warning", "too-large", text, "kept whole, without frames"))
        if start == PNG:
            return self._png(data)
        if start[:4] in _TIFF:
            return self._tiff(data)
        if start[:4] == _J2K:
            return self._codestream(data, _j2k(data), _J2K_SYNTAX)
        found = _jpeg(data)
        return self._codestream(data, found[0], found[1])

    def _codestream(self, data: memoryview, layout: PixelLayout | None, syntax: str) -> Instance:
        """A file that is one frame, to be decoded when it is asked for."""
        if layout is None or not syntax:
            text = "expected the sizes of the picture in its header, found none that is understood"
            return _whole(data, "image", Finding("warning", "malformed", text, "kept whole"))
        return Instance(
            kind="image",
            segments=(Segment(0, len(data)),),
            frames=1,
            native=False,
            transfer_syntax=syntax,
            tags=_tags(layout),
            layout=layout,
        )

    def _png(self, data: memoryview) -> Instance:
        if len(data) < 33 or bytes(data[12:16]) != b"IHDR":
            return _whole(data, "image", Finding("error", "malformed", "a PNG without image header", "kept whole"))
        columns, rows, depth, colour = struct.unpack(">IIBB", data[16:26])
        samples = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}.get(colour, 4)
        if not self._fits(rows, columns, samples * max(1, depth // 8)):
            return _whole(data, "image", _too_large(rows, columns))
        import imagecodecs

        try:
            picture = imagecodecs.png_decode(bytes(data))
        except Exception as error:  # noqa: BLE001 - the decoder's own errors, of hostile bytes
            text = f"the picture cannot be decoded ({type(error).__name__})"
            return _whole(data, "image", Finding("error", "truncated", text, "kept whole"))
        return _derived(data, [picture])

    def _tiff(self, data: memoryview) -> Instance:
        try:
            import tifffile
        except ModuleNotFoundError:
            text = "reading TIFF needs tifffile: pip install 'dcmark[formats]'"
            return _whole(data, "image", Finding("info", "missing-extra", text, "kept whole"))
        try:
            with tifffile.TiffFile(io.BytesIO(data)) as tiff:
                return self._pages(data, tiff)
        except Exception as error:  # noqa: BLE001 - tifffile's own errors, of hostile bytes
            text = f"the file cannot be read as TIFF ({type(error).__name__})"
            return _whole(data, "image", Finding("error", "malformed", text, "kept whole"))

    def _pages(self, data: memoryview, tiff: Any) -> Instance:
        pages: list[Any] = []
        for page in tiff.pages:
            pages.append(page)
            if len(pages) > MOST_PAGES:
                text = f"more than {MOST_PAGES} pages"
                return _whole(data, "image", Finding("warning", "too-many-frames", text, "kept whole"))
        first = pages[0]
        shapes = {(page.shape, page.dtype) for page in pages}
        if len(shapes) > 1 or any(page.is_tiled for page in pages) or first.dtype is None:
            text = f"{len(pages)} pages, tiled or of different sizes: no stack of pictures"
            return _whole(data, "image", Finding("info", "unsupported-type", text, "kept whole"))
        per_pixel = int(np.prod(first.shape[2:], dtype=np.float64)) * first.dtype.itemsize
        if len(first.shape) not in (2, 3) or not self._fits(first.shape[0], first.shape[1], per_pixel * len(pages)):
            return _whole(data, "image", _too_large(first.shape[0], first.shape[1]))
        # A few bytes may declare a picture of gigabytes: strips must at least be there, at the best ratio of deflate.
        if first.nbytes * len(pages) > self.limits.container_grace + self.limits.container_ratio * len(data):
            return _whole(data, "image", _too_large(first.shape[0], first.shape[1]))
        return _derived(data, [page.asarray() for page in pages])

    def _fits(self, rows: int, columns: int, bytes_a_pixel: int) -> bool:
        return 0 < rows * columns * bytes_a_pixel <= self.limits.in_memory


def _too_large(rows: int, columns: int) -> Finding:
    text = f"a picture of {rows} x {columns} pixels is above the limit for one that is decoded on the way in"
    return Finding("warning", "too-large", text, "kept whole, without frames")


def _whole(data: memoryview, kind: str, finding: Finding) -> Instance:
    return Instance(kind=kind, segments=(Segment(-1, len(data)),), findings=(finding,))


def _derived(data: memoryview, pictures: list[NDArray[Any]]) -> Instance:
    """Decoded pictures as frames beside the file."""
    first = pictures[0]
    if first.dtype == np.bool_:
        pictures = [picture.astype(np.uint8) for picture in pictures]
        first = pictures[0]
    samples = 1 if first.ndim == 2 else first.shape[2]
    if first.ndim not in (2, 3) or not 1 <= samples <= 4 or first.dtype.kind not in "iuf" or first.dtype.itemsize > 8:
        text = "values of a type that is not read as frames"
        return _whole(data, "image", Finding("info", "unsupported-type", text, "kept whole"))
    kind = first.dtype
    layout = _layout(first.shape[0], first.shape[1], samples, kind.itemsize * 8, signed=kind.kind == "i")
    if kind.kind == "f":
        if kind.itemsize < 4:
            text = "values of a type that is not read as frames"
            return _whole(data, "image", Finding("info", "unsupported-type", text, "kept whole"))
        layout = _layout(
            first.shape[0],
            first.shape[1],
            samples,
            kind.itemsize * 8,
            number="float" if kind.itemsize == 4 else "double",
        )
    little = kind.newbyteorder("<")
    return Instance(
        kind="image",
        segments=(Segment(-1, len(data)),),
        frames=len(pictures),
        derived=[np.ascontiguousarray(picture, little).tobytes() for picture in pictures],
        tags=_tags(layout) | {"number_of_frames": len(pictures)},
        layout=layout,
    )


def _layout(
    rows: int, columns: int, samples: int, bits: int, *, signed: bool = False, number: Any = "int"
) -> PixelLayout:
    allocated = max(8, -(-bits // 8) * 8)
    return PixelLayout(
        rows=rows,
        columns=columns,
        samples=samples,
        bits_allocated=allocated,
        bits_stored=bits,
        high_bit=bits - 1,
        signed=signed,
        planar=False,
        photometric="MONOCHROME2" if samples < 3 else "RGB",
        number=number,
    )


def _tags(layout: PixelLayout) -> dict[str, Any]:
    return {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": 1,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "high_bit": layout.high_bit,
        "pixel_representation": int(layout.signed),
    }


def _jpeg(data: memoryview) -> tuple[PixelLayout | None, str]:
    """Layout and transfer syntax from the first start-of-frame segment (ISO/IEC 10918-1 B.2.2)."""
    at, colours = 2, "YBR_FULL_422"
    while at + 4 <= len(data) and at < 1 << 24:
        if data[at] != 0xFF:
            return None, ""
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _JPEG_SYNTAX and at + 10 <= len(data):
            bits, rows, columns, samples = struct.unpack(">BHHB", data[at + 4 : at + 10])
            if not (rows and columns and 1 <= samples <= 4 and 2 <= bits <= 16):
                return None, ""
            layout = _layout(rows, columns, samples, bits)
            if samples == 3 and marker in (0xC0, 0xC1, 0xC2) and bytes(data[at + 10 : at + 17 : 3]) != b"RGB":
                layout = replace(layout, photometric=colours)
            return layout, _JPEG_SYNTAX[marker]
        if marker == 0xDA or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return None, ""
        if marker == 0xEE and bytes(data[at + 4 : at + 9]) == b"Adobe" and at + 16 <= len(data) and data[at + 15] == 0:
            colours = "RGB"  # the transform flag says that the colours are not turned
        at += 2 + max(2, length)
    return None, ""


def _j2k(data: memoryview) -> PixelLayout | None:
    """Layout from the SIZ segment (ISO/IEC 15444-1 A.5.1)."""
    if len(data) < 51:
        return None
    right, bottom, left, top = struct.unpack(">IIII", data[8:24])
    samples, depth = struct.unpack(">HB", data[40:43])
    bits = (depth & 0x7F) + 1
    if right <= left or bottom <= top or not 1 <= samples <= 4 or bits > 16:
        return None
    return _layout(bottom - top, right - left, samples, bits, signed=bool(depth & 0x80))
