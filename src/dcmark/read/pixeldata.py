"""Finding the frames inside Pixel Data, by byte ranges only (PS3.5 section 8 and annex A)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dcmark.findings import Finding
from dcmark.read.base import PixelLayout
from dcmark.read.elements import ITEM, SEQUENCE_END, Element

Span = tuple[int, int]
"""(offset, length) in the file, bytes."""

MOST_FRAMES = 1_000_000
"""More frames than this in one file are kept as one run of bytes: the table row would not fit."""

VIDEO = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (*range(100, 109),)) | frozenset(
    f"1.2.840.10008.1.2.4.{n}.1" for n in range(100, 109)
)
"""Transfer syntaxes in which one stream holds all frames (PS3.5 8.2.5 to 8.2.9)."""


class FrameSpans(NamedTuple):
    """Frames of a file: for each, the byte ranges that make it up, in order.

    derived: frames that are no byte ranges of the file but computed from it; then ``spans`` is empty.
    """

    spans: list[list[Span]]
    findings: list[Finding]
    derived: Sequence[bytes | memoryview] = ()


def layout_from(tags: dict[str, Any], number: str, big_endian: bool) -> PixelLayout | None:
    """Pixel layout from column values; None when Rows, Columns or Bits Allocated are missing."""
    rows, columns = tags.get("rows", 0), tags.get("columns", 0)
    allocated = {"float": 32, "double": 64}.get(number, tags.get("bits_allocated", 0))
    if not (rows and columns and allocated):
        return None
    stored = tags.get("bits_stored", allocated)
    if not 0 < stored <= allocated:
        stored = allocated
    return PixelLayout(
        rows=rows,
        columns=columns,
        samples=tags.get("samples_per_pixel", 1) or 1,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=tags.get("high_bit", stored - 1),
        signed=tags.get("pixel_representation", 0) == 1,
        planar=tags.get("planar_configuration", 0) == 1,
        photometric=tags.get("photometric_interpretation", ""),
        number=number,  # type: ignore[arg-type]
        big_endian=big_endian,
    )


def frame_bits(layout: PixelLayout) -> int:
    """Bits of one native frame. YBR_FULL_422 and PARTIAL_422 share chroma by two pixels (PS3.3 C.7.6.3.1.2)."""
    pixels = layout.rows * layout.columns
    samples = 2 if layout.photometric.endswith("_422") and layout.samples == 3 else layout.samples
    return pixels * samples * layout.bits_allocated


def native_frames(data: memoryview, pixels: Element, end: int, layout: PixelLayout, declared_frames: int) -> FrameSpans:
    """Frames of native Pixel Data that lies in ``data[pixels.value:end]``.

    Whole frames only; what is missing or left over becomes a finding.
    """
    available = end - pixels.value
    bits = frame_bits(layout)
    findings: list[Finding] = []
    fit = available * 8 // bits if bits else 0
    frames = min(declared_frames, fit)
    needed = (declared_frames * bits + 7) // 8
    if available < needed:
        message = f"{declared_frames} frames need {needed} bytes of pixel data, {available} are there"
        findings.append(Finding("error", "truncated", message, f"{frames} whole frames kept as frames"))
    elif available - needed > 1:
        message = f"{declared_frames} frames need {needed} bytes of pixel data, {available} are there"
        findings.append(Finding("warning", "pixel-data-too-long", message, "the rest is kept as bytes"))
    if frames > MOST_FRAMES:
        message = f"{frames} frames in one file, at most {MOST_FRAMES} are taken apart"
        return FrameSpans([], [*findings, Finding("warning", "too-many-frames", message, "kept as bytes")])
    if bits % 8:
        return FrameSpans([], findings, PackedBits(data[pixels.value : end], bits, frames))
    size = bits // 8
    return FrameSpans([[(pixels.value + i * size, size)] for i in range(frames)], findings)


class PackedBits(Sequence[bytes]):
    """Frames of 1-bit pixel data that do not begin on a byte (PS3.5 8.1.1), each repacked from bit 0."""

    def __init__(self, data: memoryview, bits: int, frames: int) -> None:
        self._data, self._bits, self._frames = data, bits, frames

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._frames:
            raise IndexError(index)
        first = index * self._bits
        last = first + self._bits
        raw = np.frombuffer(self._data[first // 8 : (last + 7) // 8], np.uint8)
        bits = np.unpackbits(raw, bitorder="little")[first % 8 :][: self._bits]
        return np.packbits(bits, bitorder="little").tobytes()


def encapsulated_frames(
    data: memoryview,
    pixels: Element,
    end: int,
    order: str,
    tags: dict[str, Any],
    extended: bytes,
    syntax: str,
) -> FrameSpans:
    """Frames of encapsulated Pixel Data (PS3.5 A.4): which fragments make up which frame.

    One fragment a frame, the extended offset table, the basic one and the codestreams' own start
    markers are tried in this order; an offset table that contradicts the fragments is a finding.
    """
    findings: list[Finding] = []
    table, fragments, complete = _fragments(data, pixels.value, end, order)
    if not complete:
        findings.append(
            Finding(
                "error",
                "truncated",
                "the fragments of the pixel data end before their delimiter",
                "kept as it is",
            )
        )
    declared = max(1, tags.get("number_of_frames", 1))
    if syntax in VIDEO or declared == 1:
        spans = [fragments] if fragments else []
        return FrameSpans(spans, findings + _frame_count(1, len(spans)))
    offsets = _extended(extended) or _basic(table, order)
    groups = None
    if offsets:
        groups = _by_offsets(fragments, offsets)
        if groups is None or len(groups) != declared:
            groups = None
            message = f"the offset table has {len(offsets)} entries that do not fit {declared} frames"
            findings.append(Finding("warning", "offset-table", message, "frames found by their fragments"))
    if groups is None and len(fragments) == declared:
        groups = [[fragment] for fragment in fragments]
    if groups is None:
        groups = _by_markers(data, fragments)
    if len(groups) != declared:
        findings += _frame_count(declared, len(groups))
    return FrameSpans(groups, findings)


def _frame_count(declared: int, found: int) -> list[Finding]:
    if declared == found:
        return []
    message = f"{declared} frames are declared, {found} were found"
    return [Finding("error", "frame-count", message, "the frames found are kept")]


def _fragments(data: memoryview, pos: int, end: int, order: str) -> tuple[bytes, list[Span], bool]:
    """The basic offset table, the fragments behind it, and whether the delimiter was reached."""
    header = struct.Struct(order + "HHI")
    table: bytes | None = None
    fragments: list[Span] = []
    while end - pos >= 8:
        group, element, length = header.unpack_from(data, pos)
        tag = group << 16 | element
        if tag == SEQUENCE_END:
            return table or b"", fragments, True
        if tag != ITEM:
            break
        inside = min(length, end - pos - 8)
        if table is None:
            table = bytes(data[pos + 8 : pos + 8 + inside])
        elif inside:
            fragments.append((pos + 8, inside))
        if inside < length:
            break
        pos += 8 + length
    return table or b"", fragments, False


def _extended(table: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(table) // 8}Q", table[: len(table) // 8 * 8]))


def _basic(table: bytes, order: str) -> list[int]:
    return list(struct.unpack(f"{order}{len(table) // 4}I", table[: len(table) // 4 * 4]))


def _by_offsets(fragments: list[Span], offsets: list[int]) -> list[list[Span]] | None:
    """Fragments grouped at offsets, which count from the first fragment's item tag; None if one misses."""
    if not fragments or offsets[0] != 0:
        return None
    origin = fragments[0][0] - 8
    starts = {offset + origin + 8 for offset in offsets}
    if len(starts) != len(offsets) or not starts <= {start for start, _ in fragments}:
        return None
    return _grouped(fragments, starts)


def _by_markers(data: memoryview, fragments: list[Span]) -> list[list[Span]]:
    """Fragments grouped where one begins like a codestream (JPEG family SOI, JPEG 2000 SOC, JPEG XL)."""
    begins = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0c")
    starts = {start for start, length in fragments if bytes(data[start : start + min(4, length)]).startswith(begins)}
    if not starts:
        return [[fragment] for fragment in fragments]
    return _grouped(fragments, starts)


def _grouped(fragments: list[Span], starts: set[int]) -> list[list[Span]]:
    groups: list[list[Span]] = []
    for fragment in fragments:
        if fragment[0] in starts or not groups:
            groups.append([])
        groups[-1].append(fragment)
    return groups


def joined(data: memoryview, spans: Sequence[Span]) -> memoryview | bytes:
    """The bytes of a frame; without a copy where it is one range."""
    if len(spans) == 1:
        offset, length = spans[0]
        return data[offset : offset + length]
    return b"".join(_pieces(data, spans))


def _pieces(data: memoryview, spans: Sequence[Span]) -> Iterator[memoryview]:
    for offset, length in spans:
        yield data[offset : offset + length]
