"""NRRD (attached and detached): headers parsed by pynrrd, and where the slices lie.

The format is described at teem.sourceforge.net/nrrd/format.html; numbers of sections below are those of that page.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from dcmark.config import LIMITS, Limits
from dcmark.errors import UsageError
from dcmark.findings import Finding
from dcmark.geometry import AffineLps, affine_lps
from dcmark.read import arrays
from dcmark.read.arrays import ArrayHeader, Encoding
from dcmark.read.base import Instance

LARGEST_HEADER = 1 << 20
_ENCODINGS: dict[str, Encoding] = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_SIGNS = {"left": 1, "l": 1, "right": -1, "r": -1, "posterior": 1, "p": 1, "anterior": -1, "a": -1}
_HEIGHT = {"superior": 1, "s": 1, "inferior": -1, "i": -1}


class NrrdReader:
    """Takes NRRD files apart."""

    name = "nrrd"

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits

    def claims(self, head: memoryview, path: str) -> bool:
        """By the magic line ``NRRD000X``."""
        del path
        return bytes(head[:7]) == b"NRRD000"

    def header(self, data: memoryview, path: str) -> ArrayHeader | Finding:
        """See ``arrays.ArrayReader``."""
        del path
        return _header(data)

    def take_apart(self, data: memoryview, path: str) -> Instance:
        """Segments and tags; never raises for the file's content."""
        return arrays.take_apart(data, self.header(data, path), self.name, self.limits)


def _header(data: memoryview) -> ArrayHeader | Finding:
    try:
        import nrrd
    except ModuleNotFoundError:
        return Finding(
            "info", "missing-extra", "reading NRRD needs pynrrd: pip install 'dcmark[formats]'", "kept whole"
        )
    head = bytes(data[:LARGEST_HEADER])
    ends = [head.find(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in head]
    end = min(ends, default=len(head))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fields: Mapping[str, Any] = nrrd.read_header(io.BytesIO(head[:end]))
        return _parsed(fields, data, end)
    except Exception as error:  # noqa: BLE001 - a hostile header may fail anywhere in the parser
        return Finding("error", "malformed", f"the header makes no sense ({type(error).__name__})", "kept whole")


def _parsed(fields: Mapping[str, Any], data: memoryview, end: int) -> ArrayHeader | Finding:
    sizes = [int(size) for size in fields["sizes"]]
    if not 1 <= len(sizes) <= 16 or min(sizes) < 1 or max(sizes) > 1 << 40:
        return Finding("error", "malformed", "expected one to sixteen sizes of at least 1, found others", "kept whole")
    findings: list[Finding] = []
    spatial = _spatial(fields, len(sizes))
    if spatial is None:
        text = "axes that are no columns, rows and slices in this order, before or behind values or times"
        return Finding("info", "unsupported-axes", text, "kept whole")
    samples = int(np.prod([float(size) for size in sizes[: spatial.start]]))
    columns, rows, slices = ([*sizes[spatial], 1, 1, 1])[:3]
    repeats = int(np.prod([float(size) for size in sizes[spatial.stop :]]))
    kind = _TYPES.get(str(fields.get("type", "")).lower().strip(), "")
    word = kind and np.dtype(kind).newbyteorder(">" if str(fields.get("endian", "")).lower() == "big" else "<").str
    detached = str(fields.get("data file", fields.get("datafile", "")) or "")
    encoding = _ENCODINGS.get(str(fields.get("encoding", "")).lower(), "")
    offset, packed_from = _where(fields, data, end, encoding, detached)
    if encoding == "raw" and offset < 0:  # byte skip -1: the array ends the file (section 5)
        size = samples * columns * rows * slices * repeats * (np.dtype(kind).itemsize if kind else 1)
        offset = max(end, len(data) - size)
    try:
        affine = _affine(fields, spatial)
    except (UsageError, ValueError, TypeError):
        affine = None
        text = "space directions or origin cannot be (parallel, of length 0, not finite)"
        findings.append(Finding("warning", "impossible-geometry", text, "no affine"))
    return ArrayHeader(
        kind="nrrd",
        columns=columns,
        rows=rows,
        slices=slices,
        repeats=repeats,
        samples=samples,
        dtype=word,
        offset=offset,
        encoding=encoding,
        packed_from=packed_from,
        detached=detached,
        affine=affine,
        findings=tuple(findings),
    )


def _spatial(fields: Mapping[str, Any], count: int) -> slice | None:
    """Which axes are columns, rows and slices; None where these do not follow one another."""
    directions = fields.get("space directions")
    if directions is not None:
        known = [direction is not None and np.isfinite(np.asarray(direction, float)).all() for direction in directions]
    elif fields.get("kinds"):
        known = [str(kind).lower() in ("domain", "space") for kind in fields["kinds"]]
    else:
        known = [True] * min(count, 3) + [False] * max(0, count - 3)
    places = [i for i, one in enumerate(known) if one]
    if not 1 <= len(places) <= 3 or len(known) != count or places != list(range(places[0], places[-1] + 1)):
        return None
    return slice(places[0], places[-1] + 1)


def _where(fields: Mapping[str, Any], data: memoryview, end: int, encoding: Encoding, detached: str) -> tuple[int, int]:
    """(offset of the array, in what it inflates to where it is packed; where packed bytes begin)."""
    lines, skip = int(fields.get("line skip", 0)), int(fields.get("byte skip", 0))
    if detached:
        return max(0, skip), 0
    start = end
    for _ in range(min(lines, 10_000)):
        found = bytes(data[start : start + LARGEST_HEADER]).find(b"\n")
        start += found + 1 if found >= 0 else 0
    if encoding == "raw":
        return (-1, 0) if skip < 0 else (start + skip, 0)
    # Of compressed data, bytes are skipped in what they inflate to (section 5).
    return max(0, skip), start


def _affine(fields: Mapping[str, Any], spatial: slice) -> AffineLps | None:
    """From ``space directions`` and ``space origin`` (section 6); None where the space is not the patient's."""
    directions, origin = fields.get("space directions"), fields.get("space origin")
    signs = _signs(str(fields.get("space", "")))
    if directions is None or origin is None or signs is None or spatial.stop - spatial.start != 3:
        return None
    columns = np.asarray([directions[i] for i in range(spatial.start, spatial.stop)], np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = (columns[::-1] * signs).T
    matrix[:3, 3] = np.asarray(origin, np.float64) * signs
    return affine_lps(matrix)


def _signs(space: str) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """What turns a space into LPS, by its name: ``left-posterior-superior``, ``RAS``, ...; else None."""
    text = space.lower().strip()
    words = text.split("-") if "-" in text else list(text)
    if len(words) != 3 or words[0] not in ("left", "l", "right", "r") or words[2] not in _HEIGHT:
        return None
    if words[1] not in ("posterior", "p", "anterior", "a"):
        return None
    return np.array([_SIGNS[words[0]], _SIGNS[words[1]], _HEIGHT[words[2]]], np.float64)
