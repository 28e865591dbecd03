"""A few words inside an image file that lead from a picture on its own back to the file it was made from.

PNG carries them in a ``tEXt`` chunk (ISO/IEC 15948, 11.3.4.3), JPEG in a comment segment (ISO/IEC 10918-1,
B.2.4.5), TIFF in its Image Description (TIFF 6.0, tag 270): JSON with ``sha256`` and ``frame``.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

KEYWORD = b"dcmark"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST = 1 << 16
"""The words are looked for in the first bytes of a file only, and are no longer than this."""
_TIFF_DESCRIPTION = 270
_ASCII = 2


def words(reference: Mapping[str, Any]) -> str:
    """The reference as it stands in an image file: ASCII JSON."""
    return json.dumps({"dcmark": reference}, separators=(",", ":"))


def in_png(image: bytes, reference: Mapping[str, Any]) -> bytes:
    """A PNG with the reference behind its image header."""
    data = KEYWORD + b"\0" + words(reference).encode("ascii")
    body = b"tEXt" + data
    chunk = struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    return image[:33] + chunk + image[33:]


def in_jpeg(image: bytes, reference: Mapping[str, Any]) -> bytes:
    """A JPEG with the reference as a comment, behind the JFIF header that must stand first."""
    data = words(reference).encode("ascii")
    at = 2
    if image[2:4] == b"\xff\xe0":
        at += 2 + int.from_bytes(image[4:6], "big")
    return image[:at] + b"\xff\xfe" + struct.pack(">H", len(data) + 2) + data + image[at:]


def find(stream: BinaryIO) -> Any | None:
    """The reference inside a PNG, JPEG or TIFF, as parsed from its JSON and not validated; None without one.

    Reads at most some 128 KiB of the stream, whatever it declares.
    """
    head = stream.read(LONGEST)
    found: bytes | None = None
    if head.startswith(PNG_SIGNATURE):
        found = _from_png(head)
    elif head.startswith(b"\xff\xd8"):
        found = _from_jpeg(head)
    elif head[:4] in (b"II*\0", b"MM\0*"):
        found = _from_tiff(stream, head)
    if found is None:
        return None
    try:
        parsed = json.loads(found.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return parsed.get("dcmark") if isinstance(parsed, dict) else None


def _from_png(head: bytes) -> bytes | None:
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(head):
        length = int.from_bytes(head[at : at + 4], "big")
        kind, data = head[at + 4 : at + 8], head[at + 8 : at + 8 + length]
        keyword, _, text = data.partition(b"\0")
        if kind == b"tEXt" and keyword == KEYWORD:
            return text
        at += 12 + length
    return None


def _from_jpeg(head: bytes) -> bytes | None:
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF and head[at + 1] != 0xDA:
        length = int.from_bytes(head[at + 2 : at + 4], "big")
        data = head[at + 4 : at + 2 + length]
        if head[at + 1] == 0xFE and data.startswith(b'{"dcmark":'):
            return data
        at += 2 + max(2, length)
    return None


def _from_tiff(stream: BinaryIO, head: bytes) -> bytes | None:
    order = "<" if head[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", head.ljust(8, b"\0"), 4)
    stream.seek(directory)
    block = stream.read(LONGEST)
    count = struct.unpack_from(order + "H", block)[0] if len(block) >= 2 else 0
    for at in range(2, min(2 + 12 * count, len(block) - 11), 12):
        tag, kind, length, place = struct.unpack_from(order + "HHII", block, at)
        if tag == _TIFF_DESCRIPTION and kind == _ASCII:
            stream.seek(place)
            return stream.read(min(length, LONGEST)).rstrip(b"\0")
    return None
