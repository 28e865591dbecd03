"""NIfTI-1, NIfTI-2 and Analyze 7.5: headers, and where the slices lie. Headers are parsed by nibabel."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from dcmark.config import LIMITS, Limits
from dcmark.errors import UsageError
from dcmark.findings import Finding
from dcmark.geometry import AffineLps, affine_from_nifti
from dcmark.read import arrays
from dcmark.read.arrays import ArrayHeader
from dcmark.read.base import Instance

HEADER_BYTES = {1: 348, 2: 540}
_GZIP = b"\x1f\x8b"
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Length of a unit in mm by the lowest three bits of xyzt_units; 0 states none."""
_RGB = {"|V3": 3, "|V4": 4}


class NiftiReader:
    """Takes NIfTI files apart: ``.nii``, ``.nii.gz``, and the ``.hdr`` of a pair."""

    name = "nifti"

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits

    def claims(self, head: memoryview, path: str) -> bool:
        """By the magic bytes of NIfTI, also behind gzip."""
        del path
        return _version(_start(head)) is not None

    def header(self, data: memoryview, path: str) -> ArrayHeader | Finding:
        """See ``arrays.ArrayReader``."""
        packed = bytes(data[:2]) == _GZIP
        start = _start(data)
        found = _version(start)
        if found is None:
            return Finding("error", "malformed", "expected a NIfTI header, found none", "kept whole")
        version, single = found
        return _parsed(self.name, start, version, "" if single else _image_of(path), packed)

    def take_apart(self, data: memoryview, path: str) -> Instance:
        """Segments and tags; never raises for the file's content."""
        return arrays.take_apart(data, self.header(data, path), self.name, self.limits)


class AnalyzeReader:
    """Takes the ``.hdr`` of an Analyze 7.5 pair apart; the pixels stand in the ``.img`` beside it."""

    name = "analyze"

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits

    def claims(self, head: memoryview, path: str) -> bool:
        """A header of 348 bytes that says so, named ``.hdr``."""
        sized = bytes(head[:4]) in (struct.pack("<i", 348), struct.pack(">i", 348))
        return sized and len(head) >= 348 and path.lower().endswith(".hdr") and _version(bytes(head[:540])) is None

    def header(self, data: memoryview, path: str) -> ArrayHeader | Finding:
        """See ``arrays.ArrayReader``."""
        return _parsed(self.name, bytes(data[:348]), 0, _image_of(path), False)

    def take_apart(self, data: memoryview, path: str) -> Instance:
        """Segments and tags; never raises for the file's content."""
        return arrays.take_apart(data, self.header(data, path), self.name, self.limits)


def _image_of(path: str) -> str:
    name = path.rpartition("/")[2]
    return (name[:-4] if name.lower().endswith(".hdr") else name) + ".img"


def _start(data: memoryview) -> bytes:
    """The first bytes of the header, inflated where they are packed."""
    if bytes(data[:2]) != _GZIP:
        return bytes(data[:540])
    try:
        return zlib.decompressobj(31).decompress(data[:65536], 540)
    except zlib.error:
        return b""


def _version(start: bytes) -> tuple[int, bool] | None:
    """(1 or 2, header and pixels in one file) by the magic bytes; None for anything else."""
    one, two = start[344:348], start[4:12]
    if one in (b"n+1\0", b"ni1\0"):
        return 1, one == b"n+1\0"
    if two in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n"):
        return 2, two[:3] == b"n+2"
    return None


def _parsed(kind: str, start: bytes, version: int, detached: str, packed: bool) -> ArrayHeader | Finding:
    try:
        import nibabel
    except ModuleNotFoundError:
        text = "reading NIfTI and Analyze needs nibabel: pip install 'dcmark[formats]'"
        return Finding("info", "missing-extra", text, "kept whole")
    classes = {0: nibabel.AnalyzeHeader, 1: nibabel.Nifti1Header, 2: nibabel.Nifti2Header}
    if version == 1 and detached:
        classes[1] = nibabel.nifti1.Nifti1PairHeader
    if version == 2 and detached:
        classes[2] = nibabel.nifti2.Nifti2PairHeader
    try:
        header = classes[version].from_fileobj(io.BytesIO(start[: HEADER_BYTES.get(version, 348)]), check=False)
        sizes = [int(size) for size in header.get_data_shape()]
        dtype = np.dtype(header.get_data_dtype())
    except Exception as error:  # noqa: BLE001 - a hostile header may fail anywhere in the parser
        return Finding("error", "malformed", f"the header makes no sense ({type(error).__name__})", "kept whole")
    if version and 3000 <= int(header["intent_code"]) < 3100:
        return Finding("info", "not-a-volume", "a matrix of the brain's surface (CIFTI), no image", "kept whole")
    if not 1 <= len(sizes) <= 7 or min(sizes) < 1 or max(sizes) > 1 << 40:
        return Finding("error", "malformed", "expected one to seven sizes of at least 1, found others", "kept whole")
    columns, rows, slices, *more = [*sizes, 1, 1, 1][: max(4, len(sizes))]
    repeats = int(np.prod([float(size) for size in more]))
    samples, word = 1, dtype.str
    if dtype.fields and all(part[0] == np.uint8 for part in dtype.fields.values()):
        samples, word = len(dtype.fields), "|u1"
    elif dtype.fields or dtype.kind not in "iuf":
        word = ""
    slope, intercept = _scale(header)
    affine, findings = _affine(header, kind)
    return ArrayHeader(
        kind=kind,
        columns=columns,
        rows=rows,
        slices=slices,
        repeats=repeats,
        samples=samples,
        dtype=word,
        offset=_offset(header, detached),
        encoding="gzip" if packed else "raw",
        detached=detached,
        affine=affine,
        slope=slope,
        intercept=intercept,
        findings=tuple(findings),
    )


def _offset(header: Any, detached: str) -> int:
    try:
        offset = int(header.get_data_offset())
    except (OverflowError, ValueError):
        return 0
    return max(0, offset) if detached else max(offset, len(header.binaryblock))


def _scale(header: Any) -> tuple[float | None, float | None]:
    try:
        slope, intercept = header.get_slope_inter()
    except Exception:  # noqa: BLE001 - a scale that makes no sense is none
        return None, None
    if slope is None or (slope, intercept or 0.0) == (1.0, 0.0):
        return None, None
    return float(slope), float(intercept or 0.0)


def _affine(header: Any, kind: str) -> tuple[AffineLps | None, list[Finding]]:
    """By sform, else qform, else a guess that is told."""
    findings: list[Finding] = []
    scale = 1.0
    if kind == "nifti":
        unit = int(header["xyzt_units"]) & 7
        scale = _MM.get(unit, 1.0)
        if unit not in _MM:
            findings.append(Finding("warning", "units", f"the header's unit of length, {unit}, is none", "taken as mm"))
        stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    else:
        stated = False
    try:
        best = np.array(header.get_best_affine(), np.float64)
        best[:3] *= scale
        affine = affine_from_nifti(best)
    except (UsageError, ValueError, ArithmeticError):
        text = "the affine of the header cannot be (parallel directions, a size of 0, not finite)"
        return None, [Finding("warning", "impossible-geometry", text, "no affine")]
    except Exception:  # noqa: BLE001 - nibabel's own errors
        return None, [Finding("warning", "impossible-geometry", "the header's orientation cannot be read", "no affine")]
    if not stated:
        text = "the header states voxel sizes and no place in the patient; which side is left is a guess"
        findings.append(Finding("warning", "assumed-geometry", text, "axes taken as left, anterior, superior; centred"))
    if scale != 1.0:
        findings.append(Finding("info", "units", "the header's lengths are not in mm", "turned into mm"))
    return affine, findings


def extensions(stream: BinaryIO, largest: int) -> Iterator[tuple[int, bytes]]:
    """Header extensions of a single-file NIfTI (NIfTI-1 standard, section "Extended Header").

    Args:
        stream: at the first byte of a ``.nii`` or ``.nii.gz``.
        largest: bytes of all extensions; what is longer is not read.

    Returns:
        Code and bytes of each. Nothing where the file is no NIfTI or is damaged.
    """
    head = stream.read(2)
    read = _Unpacked(stream, head).read if head == _GZIP else _Plain(stream, head).read
    start = read(540)
    found = _version(start)
    if found is None or not found[1]:
        return
    size = HEADER_BYTES[found[0]]
    order = "<" if struct.unpack_from("<i", start)[0] == size else ">"
    offset = (
        struct.unpack_from(order + "f", start, 108)[0]
        if found[0] == 1
        else struct.unpack_from(order + "q", start, 168)[0]
    )
    if not size + 4 <= offset <= size + largest:
        return
    body = (start[size:] + read(int(offset) - len(start)) if offset > len(start) else start[size : int(offset)])[4:]
    at = 0
    while at + 8 <= len(body):
        length, code = struct.unpack_from(order + "ii", body, at)
        if length < 8:
            return
        yield code, body[at + 8 : at + length]
        at += length


class _Plain:
    def __init__(self, stream: BinaryIO, head: bytes) -> None:
        self._stream, self._head = stream, head

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, never more than the file has."""
        head, self._head = self._head[:size], self._head[size:]
        return head + self._stream.read(size - len(head))


class _Unpacked:
    """A gzip stream, inflated as far as it is asked for."""

    def __init__(self, stream: BinaryIO, head: bytes) -> None:
        self._stream, self._waiting = stream, head
        self._inflater = zlib.decompressobj(31)

    def read(self, size: int) -> bytes:
        """Up to ``size`` inflated bytes; fewer where the stream is damaged or ends."""
        found = bytearray()
        try:
            while len(found) < size and not self._inflater.eof:
                self._waiting = self._waiting or self._stream.read(1 << 16)
                if not self._waiting:
                    break
                found += self._inflater.decompress(self._waiting, size - len(found))
                self._waiting = self._inflater.unconsumed_tail
        except zlib.error:
            pass
        return bytes(found)
