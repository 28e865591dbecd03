"""DICOM bytes to segments and typed tags, for every transfer syntax, without decoding pixels.

The order of work reads as the format does (PS3.10 section 7): preamble, file meta information,
data set, pixel data, what lies behind.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from dcmark.config import LIMITS, Limits
from dcmark.findings import Finding
from dcmark.read import tags as tag_table
from dcmark.read.base import Instance, Segment
from dcmark.read.elements import (
    PIXEL_TAGS,
    UNDEFINED,
    Encoding,
    MalformedError,
    Scan,
    read_element,
    scan,
    sniff_encoding,
)
from dcmark.read.pixeldata import FrameSpans, Span, encapsulated_frames, layout_from, native_frames

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
ENCODINGS = {IMPLICIT_LE: Encoding(False, "<"), EXPLICIT_BE: Encoding(True, ">")}
GE_PRIVATE_BE = "1.2.840.113619.5.2"  # implicit, its pixel data big endian
EXTENDED_OFFSETS = 0x7FE00001
_MEDIA_CLASS, _TRANSFER_SYNTAX = 0x00020002, 0x00020010
# How long a value may be to be looked at, bytes. An offset table holds 8 bytes a frame.
_WANTED = dict.fromkeys(tag_table.BY_TAG, tag_table.LONGEST) | {EXTENDED_OFFSETS: 64 << 20}

# Roots of the UIDs of storage classes whose objects always hold pixels: the image classes of PS3.4 B.5.
_IMAGE_CLASS = "1.2.840.10008.5.1.4.1.1."
_IMAGE_BRANCHES = ("1", "2", "3", "4", "6", "7", "12", "20", "77", "128", "481.1", "481.2", "66.4", "30")
# What objects without pixels are there to carry: a data set of the class that ends before it was cut.
_CARRIERS = {
    "1.2.840.10008.1.3.10": 0x00041220,  # DICOMDIR: Directory Record Sequence
    _IMAGE_CLASS + "88": 0x0040A730,  # structured reports: Content Sequence
    _IMAGE_CLASS + "9": 0x54000100,  # waveforms: Waveform Sequence
    _IMAGE_CLASS + "104": 0x00420011,  # encapsulated documents
    _IMAGE_CLASS + "481.3": 0x30060039,  # RT Structure Set: ROI Contour Sequence
    _IMAGE_CLASS + "481.5": 0x300A0002,  # RT Plan: RT Plan Label
    _IMAGE_CLASS + "11": 0x00081115,  # presentation states: Referenced Series Sequence
}
_NO_IMAGE = ("77.1.5.3", "4.2", "4.4", "77.1.5.4")


class Meta(NamedTuple):
    """What precedes the data set."""

    start: int
    syntax: str
    sop_class: str
    findings: list[Finding]


class DicomReader:
    """Takes DICOM files apart; see ``dcmark.read.base.Reader`` for the contract."""

    name = "dicom"

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits

    def claims(self, head: memoryview, path: str) -> bool:
        """A DICM mark at 128, or a first element as data sets have it."""
        del path
        return bytes(head[128:132]) == b"DICM" or bytes(head[:4]) == b"DICM" or sniff_encoding(head, 0) is not None

    def take_apart(self, data: memoryview, path: str) -> Instance:
        """Segments, tags and findings of one file; never raises for its content."""
        del path
        meta = read_meta(data)
        body, offset = data, meta.start
        findings = list(meta.findings)
        if meta.syntax == DEFLATED:
            inflated, note = inflate(data[meta.start :], self.limits)
            findings += note
            body, offset = memoryview(inflated), 0
        encoding = data_set_encoding(body, offset, meta.syntax)
        found = scan(body, offset, encoding, _WANTED, self.limits.depth)
        tags = tag_table.typed(found.raw, encoding.order)
        findings += [Finding("warning", code, message, "kept as it is") for code, message in found.notes.items()]
        findings += _ending(body, found, tags)
        if found.pixels is None and (found.stop is not None or found.end == offset):
            if not any(f.level == "error" for f in findings):
                findings.append(Finding("error", "no-dicom", "no DICOM element was found", "kept whole"))
            return _whole(data, "opaque", meta.syntax, tags, findings)
        kind = "dicomdir" if meta.sop_class == MEDIA_DIRECTORY else "dicom"
        if found.pixels is None:
            findings += _missing(meta.sop_class, found.last, tags)
            return _whole(data, kind, meta.syntax, tags, findings)

        number = PIXEL_TAGS[found.pixels.tag]
        layout = layout_from(tags, number, encoding.order == ">" or meta.syntax == GE_PRIVATE_BE)
        frames = _frames(body, found, encoding, tags, layout, meta.syntax)
        findings += frames.findings
        if meta.syntax == DEFLATED and frames.spans:
            derived = [body[start : start + size] for ((start, size),) in frames.spans if size]
            frames = FrameSpans([], [], derived)
        return Instance(
            kind=kind,
            segments=_segments(len(data), frames.spans),
            frames=len(frames.spans) or len(frames.derived),
            derived=frames.derived,
            native=found.pixels.length != UNDEFINED,
            transfer_syntax=meta.syntax,
            tags=tags,
            layout=layout,
            findings=tuple(findings),
        )


def read_meta(data: memoryview) -> Meta:
    """Preamble and file meta information (PS3.10 7.1); either may be missing."""
    findings: list[Finding] = []
    if bytes(data[128:132]) == b"DICM":
        pos = 132
    else:
        pos = 4 if bytes(data[:4]) == b"DICM" else 0
        findings.append(Finding("warning", "no-preamble", "the 128-byte preamble and DICM are missing", "read without"))
    raw: dict[int, bytes] = {}
    encoding = sniff_encoding(data, pos) or Encoding(True, "<")
    first = pos
    try:
        while pos < len(data):
            tag, _, value, length = read_element(data, pos, len(data), encoding)
            if tag >> 16 != 0x0002 or length == UNDEFINED or value + length > len(data):
                break
            pos = value + length
            if tag in (_MEDIA_CLASS, _TRANSFER_SYNTAX) and length <= tag_table.LONGEST:
                raw.setdefault(tag, bytes(data[value:pos]))
    except MalformedError:
        pass
    if pos == first:
        findings.append(Finding("warning", "no-meta", "the file meta information is missing", "syntax found by trial"))
    return Meta(pos, _uid(raw.get(_TRANSFER_SYNTAX)), _uid(raw.get(_MEDIA_CLASS)), findings)


def _uid(raw: bytes | None) -> str:
    return (raw or b"").rstrip(b" \0").decode("ascii", "replace")


def data_set_encoding(data: memoryview, start: int, syntax: str) -> Encoding:
    """Encoding of the data set: what the transfer syntax says where the bytes bear it out, else what they show."""
    shown = sniff_encoding(data, start, strict=False)
    if syntax.startswith("1.2.840.10008.1.2"):
        said = ENCODINGS.get(syntax, Encoding(True, "<"))
        if shown is None or _begins(data, start, said):
            return said
    return shown or Encoding(True, "<")


def _begins(data: memoryview, start: int, encoding: Encoding) -> bool:
    """Could the first element be one of this encoding?"""
    try:
        tag, vr, value, length = read_element(data, start, len(data), encoding)
    except MalformedError:
        return False
    fits = length == UNDEFINED or value + length <= len(data)
    return bool(vr) == encoding.explicit and 0x00010000 <= tag < 0x80000000 and fits


def inflate(data: memoryview, limits: Limits) -> tuple[bytes, list[Finding]]:
    """The deflated data set (PS3.5 A.5), at most ``limits.in_memory`` bytes of it."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(data, limits.in_memory)
    except zlib.error:
        # What inflates before the damage still carries the tags.
        return _inflate_until_damage(data, limits), [
            Finding("error", "truncated", "the deflated data set is damaged", "kept whole")
        ]
    if inflater.unconsumed_tail:
        message = f"the data set inflates to more than {limits.in_memory} bytes"
        return body, [Finding("error", "too-large", message, "kept whole, read up to the limit")]
    if not inflater.eof:
        return body, [Finding("error", "truncated", "the deflated data set ends early", "kept whole")]
    return body, []


def _inflate_until_damage(data: memoryview, limits: Limits) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = bytearray()
    for start in range(0, len(data), 512):
        try:
            body += inflater.decompress(data[start : start + 512], limits.in_memory - len(body))
        except zlib.error:
            break
        if len(body) >= limits.in_memory:
            break
    return bytes(body)


def _ending(data: memoryview, found: Scan, tags: Mapping[str, Any]) -> list[Finding]:
    """Findings on how the walk over the data set ended."""
    if found.stop is None:
        return []
    left = len(data) - found.end
    stop = found.stop
    if found.pixels is not None and found.end >= found.pixels_end and stop.offset >= found.pixels_end:
        return [Finding("warning", "trailing-bytes", f"{left} bytes behind the data set are no elements", "kept")]
    if found.pixels is not None:
        if found.pixels.length == UNDEFINED:
            return []  # the fragments say it better
        return [] if "rows" in tags else [Finding("error", "truncated", "pixel data ends early", "kept as it is")]
    message = f"{stop.message}; the last {left} bytes could not be read as elements"
    return [Finding("error", stop.code, message, "kept whole")]


def _missing(sop_class: str, last: int, tags: Mapping[str, Any]) -> list[Finding]:
    """Findings for a data set without pixels that looks cut at the edge of an element."""
    sop_class = sop_class or tags.get("sop_class_uid", "")
    for root, carrier in _CARRIERS.items():
        if (sop_class == root or sop_class.startswith(root + ".")) and last < carrier:
            message = f"the object ends before ({carrier >> 16:04X},{carrier & 0xFFFF:04X}), which it is there to carry"
            return [Finding("warning", "no-content", message, "kept")]
    if sop_class == MEDIA_DIRECTORY:
        return []
    branch = sop_class.removeprefix(_IMAGE_CLASS)
    image = sop_class.startswith(_IMAGE_CLASS) and not branch.startswith(_NO_IMAGE)
    image = image and any(branch == b or branch.startswith(b + ".") for b in _IMAGE_BRANCHES)
    if image or ("rows" in tags and "bits_allocated" in tags):
        return [
            Finding(
                "warning",
                "no-pixel-data",
                "an image object without pixel data (cut, or sent without)",
                "kept",
            )
        ]
    missing = [k for k in ("study_instance_uid", "series_instance_uid", "sop_instance_uid") if k not in tags]
    if missing:
        return [Finding("warning", "missing-identity", f"missing: {', '.join(missing)} (cut, or never there)", "kept")]
    return []


def _frames(
    body: memoryview, found: Scan, encoding: Encoding, tags: dict[str, Any], layout: Any, syntax: str
) -> FrameSpans:
    pixels = found.pixels
    assert pixels is not None
    declared = max(1, tags.get("number_of_frames", 1))
    if pixels.length == UNDEFINED:
        extended = found.raw.get(EXTENDED_OFFSETS, b"")
        return encapsulated_frames(body, pixels, found.pixels_end, encoding.order, tags, extended, syntax)
    if syntax and syntax not in (IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED, GE_PRIVATE_BE):
        standard = syntax.startswith("1.2.840.10008.1.2.")
        if standard:
            message = "the transfer syntax is a compressed one, but the pixel data is not encapsulated"
            return FrameSpans([], [Finding("warning", "not-encapsulated", message, "kept as bytes")])
    if layout is None:
        message = "pixel data without Rows, Columns and Bits Allocated"
        return FrameSpans([], [Finding("warning", "no-layout", message, "kept as bytes")])
    return native_frames(body, pixels, found.pixels_end, layout, declared)


def _segments(size: int, spans: list[list[Span]]) -> tuple[Segment, ...]:
    """The file as header bytes and frames, in order and without holes."""
    segments: list[Segment] = []
    pos = 0
    for number, ranges in enumerate(spans):
        for start, length in ranges:
            if start > pos:
                segments.append(Segment(-1, start - pos))
            if length:
                segments.append(Segment(number, length))
            pos = start + length
    if pos < size:
        segments.append(Segment(-1, size - pos))
    return tuple(segments)


def _whole(data: memoryview, kind: str, syntax: str, tags: Mapping[str, Any], findings: list[Finding]) -> Instance:
    segments = (Segment(-1, len(data)),) if len(data) else ()
    return Instance(kind=kind, segments=segments, transfer_syntax=syntax, tags=tags, findings=tuple(findings))
