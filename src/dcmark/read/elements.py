"""Walking over the elements of a DICOM data set without decoding values (PS3.5 section 7)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_GROUP = 0x7FE00000
PIXEL_TAGS = {0x7FE00010: "int", 0x7FE00008: "float", 0x7FE00009: "double"}
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())

_EXPLICIT = {"<": struct.Struct("<HH2sH"), ">": struct.Struct(">HH2sH")}
_IMPLICIT = {"<": struct.Struct("<HHI"), ">": struct.Struct(">HHI")}
_LENGTH = {"<": struct.Struct("<I"), ">": struct.Struct(">I")}


class MalformedError(Exception):
    """The bytes at ``offset`` are no element. Internal: becomes a finding."""

    def __init__(self, code: str, offset: int, message: str) -> None:
        super().__init__(message)
        self.code, self.offset, self.message = code, offset, message


class Encoding(NamedTuple):
    """How elements are written: explicit VR or not, byte order ``<`` or ``>``."""

    explicit: bool
    order: str


class Element(NamedTuple):
    """Header of one element. ``value`` and ``length`` are a byte range; length may be UNDEFINED."""

    tag: int
    vr: bytes
    value: int
    length: int


@dataclass(slots=True)
class Scan:
    """What a walk over the top level of a data set found.

    Attributes:
        raw: value bytes of the wanted elements; the first one wins where a tag stands twice.
        pixels: the Pixel Data element (also float and double), its fragments not yet walked.
        pixels_end: first byte behind it.
        last: the greatest tag of the top level.
        end: first byte that is no element any more; the length of the data when all was read.
        notes: messages by code on oddities that did not stop the walk.
        stop: why the walk ended early, if it did.
    """

    raw: dict[int, bytes] = field(default_factory=dict)
    pixels: Element | None = None
    pixels_end: int = 0
    last: int = 0
    end: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    stop: MalformedError | None = None


def read_element(data: memoryview, pos: int, end: int, encoding: Encoding) -> Element:
    """The element header at ``pos``; its value may reach past ``end`` (the caller checks).

    Raises:
        MalformedError: ``truncated`` when the header itself does not fit before ``end``,
            ``malformed`` when the bytes cannot be an element.
    """
    explicit, order = encoding
    if end - pos < 8:
        raise MalformedError("truncated", pos, f"{end - pos} bytes are left where an element of 8 or more should start")
    if explicit:
        group, element, vr, length = _EXPLICIT[order].unpack_from(data, pos)
        tag = group << 16 | element
        if vr in SHORT_VRS:
            return Element(tag, vr, pos + 8, length)
        if group != 0xFFFE:
            if vr in LONG_VRS or (vr.isalpha() and vr.isupper() and length == 0):
                if end - pos < 12:
                    raise MalformedError("truncated", pos, "the file ends inside the header of an element")
                return Element(tag, vr, pos + 12, _LENGTH[order].unpack_from(data, pos + 8)[0])
            if vr.isalpha() and vr.isupper():
                return Element(tag, vr, pos + 8, length)
    # Implicit, a delimiter, or an element some writers left implicit in an explicit data set.
    group, element, length = _IMPLICIT[order].unpack_from(data, pos)
    return Element(group << 16 | element, b"", pos + 8, length)


def skip_items(data: memoryview, pos: int, end: int, encoding: Encoding, depth: int) -> int:
    """First byte behind a sequence of undefined length whose items start at ``pos`` (PS3.5 7.5).

    Iterative, so nesting costs no stack; more than ``depth`` levels raise MalformedError ``too-deep``.
    """
    # An entry per open level: (this level is an item, encoding of its elements).
    open_levels: list[tuple[bool, Encoding]] = [(False, encoding)]
    while open_levels:
        in_item, current = open_levels[-1]
        here = read_element(data, pos, end, current)
        if in_item:
            if here.tag == ITEM_END:
                open_levels.pop()
                pos += 8
                continue
            if here.tag >> 16 == 0xFFFE:
                raise MalformedError("malformed", pos, "a delimiter stands where an element should")
            if here.length == UNDEFINED:
                # UN of undefined length holds implicit little endian items (PS3.5 6.2.2 note 2).
                inner = Encoding(False, "<") if here.vr == b"UN" else current
                open_levels.append((False, inner))
                pos = here.value
            else:
                pos = here.value + here.length
        else:
            if here.tag == SEQUENCE_END:
                open_levels.pop()
                pos += 8
                continue
            if here.tag != ITEM:
                raise MalformedError("malformed", pos, "an item or the end of a sequence was expected")
            if here.length == UNDEFINED:
                open_levels.append((True, current))
                pos += 8
            else:
                pos += 8 + here.length
        if pos > end:
            raise MalformedError("truncated", end, "a sequence reaches past the end of the file")
        if len(open_levels) > 2 * depth:
            raise MalformedError("too-deep", pos, f"sequences are nested more than {depth} levels deep")
    return pos


def scan(data: memoryview, start: int, encoding: Encoding, wanted: Mapping[int, int], depth: int) -> Scan:
    """Walk the top level of a data set from ``start`` to the end of ``data``.

    Values of ``wanted`` tags are collected up to the length given there, bytes; everything else
    is skipped by its length. Never raises: what stops the walk is in ``Scan.stop``.
    """
    found = Scan(end=start)
    pos, end = start, len(data)
    try:
        while (pos := _skip_plain(data, pos, end, encoding, wanted, found)) < end:
            here = read_element(data, pos, end, encoding)
            tag, vr, value, length = here
            if tag >> 16 in (0x0000, 0xFFFE) or (found.pixels is not None and tag < 0x7FE00011):
                raise MalformedError("malformed", pos, f"({tag >> 16:04X},{tag & 0xFFFF:04X}) cannot stand here")
            if encoding.explicit and not vr:
                found.notes["implicit-element"] = "an element has no VR in a data set of explicit VR"
            if tag <= found.last:
                found.notes["tag-order"] = "elements are not in ascending order"
            found.last = max(found.last, tag)
            if length == UNDEFINED:
                inner = Encoding(False, "<") if vr == b"UN" else encoding
                if tag in PIXEL_TAGS:
                    found.pixels = here
                    found.pixels_end = end
                    pos = skip_items(data, value, end, encoding, depth)
                    found.pixels_end = pos
                else:
                    pos = skip_items(data, value, end, inner, depth)
            else:
                pos = value + length
                if tag in PIXEL_TAGS:
                    found.pixels, found.pixels_end = here, min(pos, end)
                if pos > end:
                    raise MalformedError(
                        "truncated",
                        found.end,
                        f"an element declares {length} bytes, {end - value} are there",
                    )
                if tag in wanted and length <= wanted[tag] and tag not in found.raw:
                    found.raw[tag] = bytes(data[value:pos])
            found.end = pos
    except MalformedError as stop:
        found.stop = stop
    return found


def _skip_plain(
    data: memoryview, pos: int, end: int, encoding: Encoding, wanted: Mapping[int, int], found: Scan
) -> int:
    """First byte behind a run of elements that need no second look, which is nearly all of them.

    That is: below the pixel data, in order, of a length that is told and there, with a short VR where
    there is one. Their values are collected as ``scan`` says. Every file goes through here, so this
    loop is kept tight; ``scan`` deals with what stops it.
    """
    explicit, order = encoding
    unpack = (_EXPLICIT if explicit else _IMPLICIT)[order].unpack_from
    raw, last = found.raw, found.last
    while pos + 8 <= end:
        if explicit:
            group, element, vr, length = unpack(data, pos)
            if vr not in SHORT_VRS:
                break
        else:
            group, element, length = unpack(data, pos)
        tag = group << 16 | element
        behind = pos + 8 + length
        if tag <= last or behind > end or not 0x00010000 <= tag < _PIXEL_GROUP or length == UNDEFINED:
            break
        if tag in wanted and length <= wanted[tag]:
            raw[tag] = bytes(data[pos + 8 : behind])
        last, pos = tag, behind
    found.last, found.end = last, pos
    return pos


def sniff_encoding(data: memoryview, pos: int, *, strict: bool = True) -> Encoding | None:
    """Encoding of a data set from its first element; None when there is no plausible one.

    ``strict`` accepts only the groups that files begin with: for deciding whether this is DICOM at
    all. Behind file meta information any even group will do.
    """
    if len(data) - pos < 8:
        return None
    vr = bytes(data[pos + 4 : pos + 6])
    explicit = vr in SHORT_VRS or vr in LONG_VRS
    # A data set begins with its lowest group: of the two readings of the same bytes, the lower one is right.
    order, first = "<", _IMPLICIT["<"].unpack_from(data, pos)
    if (swapped := _IMPLICIT[">"].unpack_from(data, pos))[0] < first[0]:
        order, first = ">", swapped
    group, element, length = first
    if strict:
        plausible = group in (0x0002, 0x0004, 0x0008, 0x0010) and element <= 0x2000
        plausible = plausible and (explicit or length <= len(data) - pos)
    else:
        plausible = 0x0001 <= group <= 0x7FE0
    return Encoding(explicit, order) if plausible else None
