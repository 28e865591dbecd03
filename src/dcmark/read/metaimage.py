"""MetaImage: ``.mha`` (header and array in one file) and ``.mhd`` (the array in another).

Keys are those of the MetaIO documentation of ITK; its world is the patient's LPS.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dcmark.config import LIMITS, Limits
from dcmark.errors import UsageError
from dcmark.findings import Finding
from dcmark.geometry import AffineLps, affine_lps
from dcmark.read import arrays
from dcmark.read.arrays import ArrayHeader
from dcmark.read.base import Instance

LARGEST_HEADER = 1 << 20
MOST_KEYS = 10_000
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_TRUE = ("true", "t", "1", "yes")


class MetaImageReader:
    """Takes MetaImage files apart."""

    name = "metaimage"

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits

    def claims(self, head: memoryview, path: str) -> bool:
        """By the first key; the name helps where that is not the usual one."""
        start = bytes(head[:256]).lstrip()
        named = path.lower().endswith((".mha", ".mhd"))
        return start.startswith((b"ObjectType", b"NDims")) or (named and b"=" in start.partition(b"\n")[0])

    def header(self, data: memoryview, path: str) -> ArrayHeader | Finding:
        """See ``arrays.ArrayReader``."""
        del path
        keys, end = _keys(bytes(data[:LARGEST_HEADER]))
        try:
            return _parsed(keys, end, len(data))
        except (KeyError, ValueError, OverflowError) as error:
            text = f"the header makes no sense ({type(error).__name__})"
            return Finding("error", "malformed", text, "kept whole")

    def take_apart(self, data: memoryview, path: str) -> Instance:
        """Segments and tags; never raises for the file's content."""
        return arrays.take_apart(data, self.header(data, path), self.name, self.limits)


def _keys(head: bytes) -> tuple[dict[str, str], int]:
    """The keys of a header up to ElementDataFile, which is the last one, and where it ends."""
    keys: dict[str, str] = {}
    at = 0
    while at < len(head) and len(keys) < MOST_KEYS:
        stop = head.find(b"\n", at)
        line = head[at : stop if stop >= 0 else len(head)]
        at = stop + 1 if stop >= 0 else len(head)
        name, equals, value = line.decode("latin-1").partition("=")
        if equals:
            keys[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            break
    return keys, at


def _parsed(keys: Mapping[str, str], end: int, size: int) -> ArrayHeader | Finding:
    dimensions = int(keys["NDims"])
    sizes = [int(word) for word in keys["DimSize"].split()]
    if not 1 <= dimensions <= 10 or len(sizes) != dimensions or min(sizes) < 1 or max(sizes) > 1 << 40:
        return Finding(
            "error", "malformed", "expected NDims sizes of at least 1 in DimSize, found others", "kept whole"
        )
    columns, rows, slices, *more = [*sizes, 1, 1, 1][: max(4, dimensions)]
    repeats = int(np.prod([float(one) for one in more]))
    samples = int(keys.get("ElementNumberOfChannels", "1"))
    big = keys.get("BinaryDataByteOrderMSB", keys.get("ElementByteOrderMSB", "False")).lower() in _TRUE
    kind = _TYPES.get(keys.get("ElementType", "").upper(), "")
    word = np.dtype(kind).newbyteorder(">" if big else "<").str if kind else ""
    where = keys.get("ElementDataFile", "")
    detached = "" if where.upper() == "LOCAL" else where or "?"
    packed = keys.get("CompressedData", "False").lower() in _TRUE
    text = keys.get("BinaryData", "True").lower() not in _TRUE
    skip = int(keys.get("HeaderSize", "0"))
    offset = skip if detached else end
    if skip < 0 and not detached and kind:  # the array ends the file
        offset = max(end, size - int(np.prod([float(one) for one in sizes])) * samples * np.dtype(kind).itemsize)
    findings: list[Finding] = []
    affine: AffineLps | None = None
    try:
        affine = _affine(keys, dimensions)
    except (UsageError, ValueError):
        said = "directions, spacing or origin that cannot be (parallel, of length 0, not finite)"
        findings.append(Finding("warning", "impossible-geometry", said, "no affine"))
    if affine is None and not findings and dimensions >= 3:
        findings.append(Finding("info", "no-geometry", "the header states no place in the patient", "no affine"))
    return ArrayHeader(
        kind="metaimage",
        columns=columns,
        rows=rows,
        slices=slices,
        repeats=repeats,
        samples=samples,
        dtype=word,
        offset=0 if packed and not detached else max(0, offset),
        encoding="" if text else "gzip" if packed else "raw",
        packed_from=end if packed and not detached else 0,
        detached=detached,
        affine=affine,
        findings=tuple(findings),
    )


def _affine(keys: Mapping[str, str], dimensions: int) -> AffineLps | None:
    """Rows of TransformMatrix are the directions of the axes, columns first."""
    if dimensions < 3:
        return None

    def numbers(*names: str) -> list[float] | None:
        text = next((keys[name] for name in names if name in keys), None)
        return None if text is None else [float(word) for word in text.split()]

    origin, spacing = numbers("Offset", "Position", "Origin"), numbers("ElementSpacing", "ElementSize")
    matrix = numbers("TransformMatrix", "Rotation", "Orientation")
    if origin is None or spacing is None:
        return None
    turned = np.eye(dimensions) if matrix is None else np.array(matrix).reshape(dimensions, dimensions)
    affine = np.eye(4)
    affine[:3, :3] = (turned[:3, :3] * np.array(spacing[:3])[:, None])[::-1].T
    affine[:3, 3] = origin[:3]
    return affine_lps(affine)
