"""The private CSA header of Siemens MR, read just far enough for a mosaic.

A mosaic holds all slices of a moment in one picture. How many there are and which way they are stacked stands
only in element "CSA Image Header Info" (0029,xx10) of the private block SIEMENS CSA HEADER. Its newer form
(software VB and later) is understood: ``SV10`` and four more bytes, then, little-endian, the number of elements
and four more bytes; each element has a name of 64 bytes, its multiplicity, VR, type, number of items and four
more bytes; each item four numbers, of which the second is its length, and text padded to four bytes.
"""

from __future__ import annotations

import struct

_MAGIC = b"SV10"
_MOST_ELEMENTS = 1000
_MOST_ITEMS = 1000


def csa_values(data: bytes, names: frozenset[str]) -> dict[str, list[str]]:
    """Values of the named elements of a CSA header, as text.

    Bad content yields what could be read before it went bad; nothing is allocated by what it declares. The
    older form (software VA) yields nothing.
    """
    found: dict[str, list[str]] = {}
    if data[:4] != _MAGIC:
        return found
    try:
        (count,) = struct.unpack_from("<I", data, 8)
        position = 16
        for _ in range(min(count, _MOST_ELEMENTS)):
            name = data[position : position + 64].partition(b"\0")[0].decode("latin-1")
            (items,) = struct.unpack_from("<I", data, position + 76)
            position += 84
            if items > _MOST_ITEMS:
                break
            values = []
            for _ in range(items):
                (length,) = struct.unpack_from("<I", data, position + 4)
                position += 16
                if length > len(data) - position:
                    return found
                text = data[position : position + length].partition(b"\0")[0].decode("latin-1").strip()
                if text:
                    values.append(text)
                position += (length + 3) // 4 * 4
            if name in names:
                found[name] = values
    except struct.error:
        pass
    return found
