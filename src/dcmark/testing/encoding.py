"""DICOM bytes by hand: elements, items, file heads, pixel encodings and UIDs, all deterministic.

``write`` goes through pydicom for what is valid; ``element``, ``item`` and ``encapsulated`` make what a
writer should refuse: odd and wrong lengths, undefined lengths, files without preamble or meta information.
"""

from __future__ import annotations

import io
import struct
import uuid
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "SYNTAXES",
    "UNDEFINED",
    "codestream",
    "element",
    "encapsulated",
    "file_head",
    "item",
    "sequence",
    "syntax_uid",
    "uid",
    "write",
]

SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "big": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5",
    "jpegls": "1.2.840.10008.1.2.4.80",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
    "htj2k": "1.2.840.10008.1.2.4.201",
    "encapsulated": "1.2.840.10008.1.2.1.98",
}
"""Short names of the transfer syntaxes that can be written (PS3.5 annex A)."""

UNDEFINED = 0xFFFFFFFF
_LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
_NAMESPACE = uuid.UUID("8a6c1f0e-3f5b-5d0a-9c55-6d6e6f746861")
IMPLEMENTATION = f"2.25.{uuid.uuid5(_NAMESPACE, 'implementation').int}"
VERSION_NAME = "DCMARK_TESTING"


def uid(*parts: object) -> str:
    """A UID under 2.25 (PS3.5 B.2) that is the same for the same parts."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}"


def syntax_uid(name: str) -> str:
    """The UID behind a short name; a UID stays as it is."""
    return SYNTAXES.get(name, name)


def element(
    group: int,
    number: int,
    vr: str,
    value: bytes = b"",
    *,
    length: int | None = None,
    implicit: bool = False,
    big: bool = False,
) -> bytes:
    """One data element as bytes (PS3.5 7.1), the value as it is, odd or not.

    Args:
        length: written instead of the true length: any lie, or UNDEFINED.
    """
    order, size = (">" if big else "<"), (len(value) if length is None else length)
    head = struct.pack(f"{order}HH", group, number)
    if implicit:
        return head + struct.pack(f"{order}L", size) + value
    if vr in _LONG:
        return head + vr.encode() + b"\0\0" + struct.pack(f"{order}L", size) + value
    return head + vr.encode() + struct.pack(f"{order}H", size & 0xFFFF) + value


def item(content: bytes = b"", *, undefined: bool = False, length: int | None = None, big: bool = False) -> bytes:
    """An item (PS3.5 7.5), of explicit or undefined length."""
    order = ">" if big else "<"
    size = UNDEFINED if undefined else (len(content) if length is None else length)
    end = struct.pack(f"{order}HHL", 0xFFFE, 0xE00D, 0) if undefined else b""
    return struct.pack(f"{order}HHL", 0xFFFE, 0xE000, size) + content + end


def sequence(
    group: int,
    number: int,
    items: Sequence[bytes],
    *,
    undefined: bool = False,
    vr: str = "SQ",
    implicit: bool = False,
    big: bool = False,
) -> bytes:
    """A sequence of items made by ``item``, of explicit or undefined length."""
    content = b"".join(items)
    if not undefined:
        return element(group, number, vr, content, implicit=implicit, big=big)
    content += struct.pack(f"{'>' if big else '<'}HHL", 0xFFFE, 0xE0DD, 0)
    return element(group, number, vr, content, length=UNDEFINED, implicit=implicit, big=big)


def encapsulated(fragments: Sequence[bytes], offsets: Sequence[int] | None = None, *, vr: str = "OB") -> bytes:
    """Encapsulated Pixel Data (PS3.5 A.4): offset table (empty where None), fragments, delimiter.

    Fragments are padded to even length; the offsets are written as they are, right or wrong.
    """
    table = struct.pack(f"<{len(offsets)}L", *offsets) if offsets else b""
    content = item(table) + b"".join(item(part + b"\0" * (len(part) % 2)) for part in fragments)
    content += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return element(0x7FE0, 0x0010, vr, content, length=UNDEFINED)


def file_head(
    syntax: str = "explicit",
    *,
    sop_class: str = "1.2.840.10008.5.1.4.1.1.7",
    instance: str = "",
    preamble: bytes = b"\0" * 128,
    prefix: bytes = b"DICM",
) -> bytes:
    """Preamble, prefix and File Meta Information (PS3.10 7.1)."""

    def text(value: str, pad: bytes) -> bytes:
        raw = value.encode("ascii")
        return raw + pad * (len(raw) % 2)

    group = (
        element(2, 1, "OB", b"\0\1")
        + element(2, 2, "UI", text(sop_class, b"\0"))
        + element(2, 3, "UI", text(instance or uid("file_head", syntax), b"\0"))
        + element(2, 0x10, "UI", text(syntax_uid(syntax), b"\0"))
        + element(2, 0x12, "UI", text(IMPLEMENTATION, b"\0"))
        + element(2, 0x13, "SH", text(VERSION_NAME, b" "))
    )
    return preamble + prefix + element(2, 0, "UL", struct.pack("<L", len(group))) + group


def deflated(dataset: bytes) -> bytes:
    """A data set as the deflated transfer syntax stores it: raw deflate, padded to even length (PS3.5 A.5)."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(dataset) + packer.flush()
    return packed + b"\0" * (len(packed) % 2)


def codestream(
    frame: NDArray[Any],
    syntax: Literal["rle", "jpegls", "jpeg2000", "htj2k", "encapsulated"] | str,
    *,
    bits_stored: int | None = None,
) -> bytes:
    """One frame (rows, columns) or (rows, columns, 3), losslessly encoded.

    ``bits_stored`` is put into JPEG 2000 codestreams; the other encoders write the width of the type.
    """
    name = next((short for short, long in SYNTAXES.items() if syntax in (short, long)), syntax)
    frame = np.ascontiguousarray(frame)
    if name == "encapsulated":
        return frame.astype(frame.dtype.newbyteorder("<")).tobytes()
    if name == "rle":
        return rle(frame)
    import imagecodecs

    if name == "jpegls":
        return bytes(imagecodecs.jpegls_encode(frame))
    if name == "htj2k":
        return bytes(imagecodecs.htj2k_encode(frame, reversible=True))
    if name == "jpeg2000":
        return bytes(
            imagecodecs.jpeg2k_encode(
                frame, codecformat="j2k", reversible=True, level=0, bitspersample=bits_stored, mct=False
            )
        )
    raise ValueError(f"no encoder for {syntax!r}; expected one of: {', '.join(SYNTAXES)}")


def rle(frame: NDArray[Any]) -> bytes:
    """RLE Lossless (PS3.5 annex G): byte planes, most significant first, each row packed on its own."""
    planes = [frame] if frame.ndim == 2 else [frame[..., i] for i in range(frame.shape[2])]
    segments = []
    for plane in planes:
        raw = np.ascontiguousarray(plane.astype(plane.dtype.newbyteorder(">"))).view(np.uint8)
        raw = raw.reshape(*plane.shape, plane.dtype.itemsize)
        for byte in range(plane.dtype.itemsize):
            packed = b"".join(_pack_bits(row.tobytes()) for row in raw[..., byte])
            segments.append(packed + b"\0" * (len(packed) % 2))
    starts = np.cumsum([64, *(len(segment) for segment in segments[:-1])])
    return struct.pack("<16L", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


def _pack_bits(row: bytes) -> bytes:
    packed, literal, place = bytearray(), bytearray(), 0
    while place < len(row):
        run = 1
        while run < 128 and place + run < len(row) and row[place + run] == row[place]:
            run += 1
        if run > 2:
            if literal:
                packed += bytes([len(literal) - 1]) + literal
                literal.clear()
            packed += bytes([257 - run, row[place]])
        else:
            run = 1
            literal.append(row[place])
            if len(literal) == 128:
                packed += bytes([127]) + literal
                literal.clear()
        place += run
    if literal:
        packed += bytes([len(literal) - 1]) + literal
    return bytes(packed)


def write(dataset: Dataset, syntax: str = "explicit") -> bytes:
    """A data set as a file (PS3.10): the native pixel data of ``dataset`` encoded for the syntax.

    The pixel data of ``dataset`` are expected native, little endian, and are encoded frame by frame where
    the syntax asks for it. Overlays, waveforms and the like are written as they are.
    The same data set gives the same bytes.
    """
    from pydicom import dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    chosen = UID(syntax_uid(syntax))
    dataset = _encoded(dataset, chosen)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = chosen
    meta.ImplementationClassUID = UID(IMPLEMENTATION)
    meta.ImplementationVersionName = VERSION_NAME
    dataset.file_meta = meta
    out = io.BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True, overwrite=True)
    return out.getvalue()


def _encoded(dataset: Dataset, syntax: Any) -> Dataset:
    """A shallow copy whose pixel data are in the form that the syntax wants."""
    from pydicom.dataset import Dataset as Copy

    copy = Copy()
    copy.update(dict(dataset.items()))
    copy.preamble = b"\0" * 128
    if "PixelData" not in copy:
        return copy
    if syntax.is_encapsulated:
        frames = [codestream(frame, str(syntax), bits_stored=int(copy.BitsStored)) for frame in native_frames(dataset)]
        copy.PixelData = encapsulated_value(frames)
        copy["PixelData"].VR = "OB"
        copy["PixelData"].is_undefined_length = True
    elif not syntax.is_little_endian and copy.BitsAllocated > 8:
        width = copy.BitsAllocated // 8
        copy.PixelData = np.frombuffer(copy.PixelData, f"<u{width}").astype(f">u{width}").tobytes()
        copy["PixelData"].VR = "OW"
    else:
        copy["PixelData"].VR = "OW" if copy.BitsAllocated > 8 or syntax.is_implicit_VR else "OB"
    return copy


def encapsulated_value(frames: Sequence[bytes]) -> bytes:
    """The value field of encapsulated Pixel Data: a right offset table, a fragment a frame (PS3.5 A.4)."""
    padded = [frame + b"\0" * (len(frame) % 2) for frame in frames]
    starts = np.cumsum([0, *(len(frame) + 8 for frame in padded[:-1])])
    return item(struct.pack(f"<{len(starts)}L", *starts)) + b"".join(map(item, padded))


def native_frames(dataset: Dataset) -> NDArray[Any]:
    """The native pixel data as (frames, rows, columns[, samples]), colour by pixel or by plane alike."""
    samples, width = int(dataset.SamplesPerPixel), int(dataset.BitsAllocated) // 8
    kind = "i" if dataset.PixelRepresentation else "u"
    frames = int(dataset.get("NumberOfFrames", 1))
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    values = np.frombuffer(dataset.PixelData, f"<{kind}{width}", count=frames * rows * columns * samples)
    if samples == 1:
        return values.reshape(frames, rows, columns)
    if dataset.get("PlanarConfiguration", 0):
        return values.reshape(frames, samples, rows, columns).transpose(0, 2, 3, 1)
    return values.reshape(frames, rows, columns, samples)
