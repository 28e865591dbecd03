"""New values: dummies, texts without what identifies, and elements as bytes."""

from __future__ import annotations

import re
import struct
from functools import lru_cache

from dcmark.read.elements import LONG_VRS, Encoding

# Dates, long numbers, addresses of mail, names of persons as DICOM writes them.
IDENTIFYING = re.compile(
    rb"(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}|\d{6,}|[\w.+-]+@[\w.-]+|[A-Z][\w'-]+\^[A-Z][\w'-]*)"
)
_DUMMIES = {
    b"DA": b"19000101", b"TM": b"000000", b"DT": b"19000101000000", b"AS": b"000Y", b"DS": b"0", b"IS": b"0",
    b"CS": b"REMOVED", b"SH": b"REMOVED", b"LO": b"REMOVED", b"LT": b"REMOVED", b"ST": b"REMOVED", b"UT": b"REMOVED",
    b"UC": b"REMOVED", b"PN": b"REMOVED", b"AE": b"REMOVED", b"UR": b"", b"UI": b"2.25.0",
    b"US": b"\0" * 2, b"SS": b"\0" * 2, b"UL": b"\0" * 4, b"SL": b"\0" * 4, b"FL": b"\0" * 4, b"FD": b"\0" * 8,
    b"AT": b"\0" * 4, b"UV": b"\0" * 8, b"SV": b"\0" * 8,
}  # fmt: skip


def document(head: bytes) -> bytes:
    """A document that says nothing, of the kind of the one it replaces, of even length."""
    if head.startswith(b"%PDF"):
        return _EMPTY_PDF + b"\n" * (len(_EMPTY_PDF) % 2)
    return b"<removed/>" if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<") else b"\0\0"


_EMPTY_PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>endobj trailer<</Root 1 0 R>>\n%%EOF\n"
)


def dummy(vr: bytes) -> bytes:
    """A value that is valid for a VR and says nothing (PS3.15 E.1, action D)."""
    return _DUMMIES.get(vr, b"")


@lru_cache(8192)
def dictionary_vr(tag: int) -> bytes:
    """VR of a standard element; of several the first; empty where the dictionary does not know it."""
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag)[:2].encode("ascii")
    except KeyError:
        return b""


def header(tag: int, vr: bytes, length: int, encoding: Encoding) -> bytes:
    """Tag, VR where the encoding writes it, and length of an element or item (PS3.5 7.1)."""
    order = encoding.order
    if tag >> 16 == 0xFFFE or not encoding.explicit or not vr:
        return struct.pack(order + "HHI", tag >> 16, tag & 0xFFFF, length)
    if vr in LONG_VRS:
        return struct.pack(order + "HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length)
    return struct.pack(order + "HH2sH", tag >> 16, tag & 0xFFFF, vr, length)


def valued(tag: int, vr: bytes, value: bytes, encoding: Encoding) -> bytes:
    """An element with a value, padded to even length (PS3.5 6.2); ``vr`` as the file writes it, if it does."""
    if len(value) % 2:
        meant = vr if vr not in (b"", b"UN") else dictionary_vr(tag)
        value += b"\0" if meant in (b"UI", b"OB", b"UN", b"") else b" "
    return header(tag, vr, len(value), encoding) + value
