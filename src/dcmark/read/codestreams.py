"""What a compressed frame says about itself, read before anything is allocated or decoded.

Every compressed codestream carries its own size. It is compared with what the DICOM header declares, so that
neither of them can make a decoder allocate what only a hostile file asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dcmark.errors import DecodeError

Colour = Literal["rgb", "ybr", "unknown"]

_JPEG_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_JPEG_LOSSLESS_SOF = 0xC3
_JPEG_LS_SOF = 0xF7
_PROGRESSIVE_SOF = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_MOST_SCANS = 500  # a progressive image needs some ten scans; each one passes over all coefficients
_MOST_LEVELS = 32  # decomposition levels, ISO/IEC 15444-1 Table A.15
_MOST_TILES = 65535  # the tile index has 16 bits
_SOT, _SOD, _COD, _COC, _EOC = 0xFF90, 0xFF93, 0xFF52, 0xFF53, 0xFFD9


@dataclass(frozen=True, slots=True)
class CodestreamHeader:
    """What a codestream declares.

    Attributes:
        rows, columns: pixels.
        samples: components per pixel.
        precision: bits per component, 1 to 38.
        signed: components are two's complement (JPEG 2000 only).
        colour: what the codestream itself says about its colour components.
        lossless: JPEG process 14.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool = False
    colour: Colour = "unknown"
    lossless: bool = False


class _Bytes:
    """A cursor over bytes that raises DecodeError instead of running past the end."""

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data, self.at, self.end = data, at, len(data) if end is None else min(end, len(data))

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > self.end:
            raise DecodeError(
                f"expected a complete codestream header; found the end of the data after {self.end} bytes: "
                "the frame is truncated"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def unsigned(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")


def jpeg(data: bytes) -> CodestreamHeader:
    """Header of a JPEG (ISO/IEC 10918-1) or JPEG-LS (ISO/IEC 14495-1) codestream.

    Raises:
        DecodeError: no such codestream, truncated, or without an end-of-image marker.
    """
    cursor = _Bytes(data)
    if cursor.take(2) != b"\xff\xd8":
        raise DecodeError(f"expected a JPEG codestream (FF D8); found it to begin with {data[:2].hex(' ')}")
    colour: Colour = "unknown"
    jfif = False
    while True:
        marker = _jpeg_marker(cursor)
        if marker in (0xD9, 0xDA):
            raise DecodeError("expected a JPEG frame header (SOF) before the first scan; found none")
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        length = cursor.unsigned(2)
        segment = cursor.take(length - 2)
        if marker == 0xE0 and segment.startswith(b"JFIF\0"):
            jfif = True
        elif marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            colour = "ybr" if segment[11] == 1 else "rgb"
        elif marker in _JPEG_SOF or marker == _JPEG_LS_SOF:
            break
    if len(segment) < 6 or len(segment) < 6 + 3 * segment[5]:
        raise DecodeError("expected a complete JPEG frame header (SOF); found it cut short")
    if data.rfind(b"\xff\xd9", cursor.at) < 0:
        raise DecodeError("expected an end-of-image marker (FF D9); found none: the frame is truncated")
    if marker in _PROGRESSIVE_SOF and data.count(b"\xff\xda", cursor.at) > _MOST_SCANS:
        raise DecodeError(f"expected at most {_MOST_SCANS} scans in a progressive JPEG; found more")
    samples = segment[5]
    lossless = marker == _JPEG_LOSSLESS_SOF
    pixels = int.from_bytes(segment[1:3], "big") * int.from_bytes(segment[3:5], "big")
    # A sample of a lossless frame takes a bit at least, a block of 8 x 8 of a lossy one too.
    least = 0 if marker == _JPEG_LS_SOF else pixels * samples // 8 if lossless else pixels // 512
    if least > len(data):
        raise DecodeError(
            f"expected at least {least} bytes for the {pixels} pixels declared; found {len(data)}: "
            "the frame is truncated or damaged"
        )
    if samples == 3 and colour == "unknown" and marker != _JPEG_LS_SOF:
        if segment[6:15:3] == b"RGB":
            colour = "rgb"
        elif jfif and not lossless:
            colour = "ybr"
    return CodestreamHeader(
        rows=int.from_bytes(segment[1:3], "big"),
        columns=int.from_bytes(segment[3:5], "big"),
        samples=samples,
        precision=segment[0],
        colour=colour,
        lossless=lossless,
    )


def _jpeg_marker(cursor: _Bytes) -> int:
    """The next marker code; fill bytes FF may precede it (ISO/IEC 10918-1 B.1.1.2)."""
    if cursor.unsigned(1) != 0xFF:
        raise DecodeError(f"expected a JPEG marker at byte {cursor.at - 1}; found none: the header is damaged")
    while (marker := cursor.unsigned(1)) == 0xFF:
        pass
    return marker


def jpeg2000(data: bytes) -> CodestreamHeader:
    """Header of a JPEG 2000 or HTJ2K codestream (ISO/IEC 15444-1 A.5, 15444-15), bare or in JP2 boxes.

    Raises:
        DecodeError: no such codestream, truncated, or one that declares more packets than it has bytes.
    """
    start = _box_content(data, b"jp2c", "JP2")[0] if data[4:8] == b"jP  " else 0
    cursor = _Bytes(data, start)
    if cursor.take(4) != b"\xff\x4f\xff\x51":
        found = data[start : start + 4].hex(" ")
        raise DecodeError(f"expected a JPEG 2000 codestream (FF 4F FF 51); found it to begin with {found}")
    length = cursor.unsigned(2)
    size = _Bytes(cursor.take(length - 2))
    size.take(2)
    width, height, left, top = (size.unsigned(4) for _ in range(4))
    tile_width, tile_height, tile_left, tile_top = (size.unsigned(4) for _ in range(4))
    samples = size.unsigned(2)
    components = [size.take(3) for _ in range(min(samples, 4))]
    if not components or width <= left or height <= top or not tile_width or not tile_height:
        raise DecodeError("expected a JPEG 2000 image area, tiles and components; found one of them to be empty")
    # OpenJPH, the usual decoder of HTJ2K, never returns from tiles that begin inside the image (A.5.1 forbids them).
    if not (tile_left <= left < tile_left + tile_width and tile_top <= top < tile_top + tile_height):
        raise DecodeError("expected the first JPEG 2000 tile to cover the corner of the image; found it elsewhere")
    if any(part != components[0] for part in components) or components[0][1:] != b"\x01\x01":
        raise DecodeError("expected JPEG 2000 components that are alike and not subsampled; found otherwise")
    tiles = -(-(width - tile_left) // tile_width) * -(-(height - tile_top) // tile_height)
    if tiles > _MOST_TILES:
        raise DecodeError(f"expected at most {_MOST_TILES} JPEG 2000 tiles; found {tiles} declared")
    whole = (width - left, height - top)
    tile = (min(tile_width, whole[0]), min(tile_height, whole[1]))
    _check_packets(_Bytes(data, cursor.at), whole, tile, tiles, samples)
    depth = components[0][0]
    return CodestreamHeader(
        rows=height - top,
        columns=width - left,
        samples=samples,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
    )


def _box_content(data: bytes, wanted: bytes, container: str) -> tuple[int, int]:
    """Start and end of the content of the first box of a type."""
    cursor = _Bytes(data)
    while True:
        start = cursor.at
        length, kind = cursor.unsigned(4), cursor.take(4)
        if length == 1:
            length = cursor.unsigned(8)
        end = len(data) if length == 0 else start + length
        if kind == wanted:
            return cursor.at, end
        if end <= cursor.at - 1 or end >= len(data):
            raise DecodeError(f"expected a {wanted.decode()} box in the {container} container; found none")
        cursor.at = end


def _check_packets(cursor: _Bytes, whole: tuple[int, int], tile: tuple[int, int], tiles: int, samples: int) -> None:
    """Refuse a codestream that declares more packets than it has bytes.

    Each packet takes a byte at least (ISO/IEC 15444-1 B.10.3), but a decoder allocates some hundred bytes for
    each of them before it reads one: tiny precincts on a large image are how a small file fills the memory.
    The coding styles of the main header and of every tile-part are looked at (A.6.1, A.6.2).
    """
    available = cursor.end - cursor.at
    layers, tile_part_end, in_main = 1, 0, True
    while True:
        start = cursor.at
        marker = cursor.unsigned(2)
        if marker == _SOD:
            if tile_part_end < cursor.at or tile_part_end > cursor.end:
                raise DecodeError("expected a whole JPEG 2000 tile-part; found it to end elsewhere: damaged or cut")
            if tile_part_end + 2 > cursor.end:
                return
            cursor.at = tile_part_end
            continue
        if marker == _EOC:
            return
        if marker >> 8 != 0xFF:
            raise DecodeError("expected a JPEG 2000 marker; found none: the frame is damaged")
        segment = _Bytes(cursor.take(cursor.unsigned(2) - 2))
        if marker == _SOT:
            in_main = False
            segment.take(2)
            length = segment.unsigned(4)
            tile_part_end = start + length if length else cursor.end
        elif marker in (_COD, _COC):
            if marker == _COD:
                style = segment.unsigned(1)
                segment.take(1)
                layers = max(1, segment.unsigned(2))
                segment.take(1)
            else:
                segment.take(1 if samples < 257 else 2)
                style = segment.unsigned(1)
            width, height = whole if in_main else tile
            packets = layers * (samples if marker == _COD else 1)
            packets *= _precincts(segment, style, width, height, tiles if in_main else 1)
            if packets > available:
                raise DecodeError(
                    f"expected a byte at least for each JPEG 2000 packet; found {packets} packets declared in "
                    f"{available} bytes: the frame is truncated or damaged"
                )


def _precincts(segment: _Bytes, style: int, width: int, height: int, tiles: int) -> int:
    """Precincts of one component over all resolutions; ``segment`` stands at the number of decomposition levels."""
    levels = segment.unsigned(1)
    if levels > _MOST_LEVELS:
        raise DecodeError(f"expected at most {_MOST_LEVELS} decomposition levels; found {levels}")
    segment.take(4)
    count = 0
    for resolution in range(levels + 1):
        shrink = levels - resolution
        exponents = segment.unsigned(1) if style & 1 else 0xFF
        across, down = -(-width >> shrink), -(-height >> shrink)
        tiled = min(tiles, across * down)
        count += max(-(-across >> (exponents & 15)) * -(-down >> (exponents >> 4)), tiled)
    return count


class _Bits:
    """Bits of a JPEG XL header, least significant first (ISO/IEC 18181-1 B.2)."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self.left:
            raise DecodeError("expected a complete JPEG XL header; found the end of the data")
        taken = self.value & ((1 << count) - 1)
        self.value >>= count
        self.left -= count
        return taken

    def choice(self, *ways: tuple[int, int]) -> int:
        """U32: two bits select (bits, offset)."""
        bits, offset = ways[self.take(2)]
        return self.take(bits) + offset


_JXL_SIZE = ((9, 1), (13, 1), (18, 1), (30, 1))
_JXL_RATIO = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def jpegxl(data: bytes) -> CodestreamHeader:
    """Header of a JPEG XL codestream (ISO/IEC 18181-1 annex D), bare or in boxes (18181-2).

    ``samples`` is 3 unless the header says grey.

    Raises:
        DecodeError: no such codestream, truncated, animated, or with extra channels.
    """
    start, end = 0, len(data)
    if data[4:8] == b"JXL ":
        try:
            start, end = _box_content(data, b"jxlc", "JPEG XL")
        except DecodeError:
            start, end = _box_content(data, b"jxlp", "JPEG XL")
            start += 4  # the index of the partial codestream
    if data[start : start + 2] != b"\xff\x0a":
        found = data[start : start + 2].hex(" ")
        raise DecodeError(f"expected a JPEG XL codestream (FF 0A); found it to begin with {found}")
    bits = _Bits(data[start + 2 : min(end, start + 66)])
    rows, columns = _jxl_size(bits)
    precision, grey = 8, False
    if not bits.take(1):  # all_default
        if bits.take(1):  # extra_fields
            orientation = bits.take(3)
            if bits.take(1):  # have_intr_size
                _jxl_size(bits)
            if orientation or bits.take(1) or bits.take(1):
                raise DecodeError("expected a plain JPEG XL image; found a rotation, a preview or an animation")
        if bits.take(1):  # floating-point samples
            precision = bits.choice((0, 32), (0, 16), (0, 24), (6, 1))
            bits.take(4)
        else:
            precision = bits.choice((0, 8), (0, 10), (0, 12), (6, 1))
        bits.take(1)  # modular_16bit_buffers
        if bits.choice((0, 0), (0, 1), (4, 2), (12, 1)):
            raise DecodeError("expected a JPEG XL image without extra channels; found some")
        bits.take(1)  # xyb_encoded
        if not bits.take(1):  # colour encoding: all_default is sRGB
            bits.take(1)  # want_icc
            grey = bits.choice((0, 0), (0, 1), (4, 2), (6, 18)) == 1
    return CodestreamHeader(rows, columns, 1 if grey else 3, precision)


def _jxl_size(bits: _Bits) -> tuple[int, int]:
    """SizeHeader: rows, columns."""
    eighths = bits.take(1)
    rows = 8 * (bits.take(5) + 1) if eighths else bits.choice(*_JXL_SIZE)
    ratio = bits.take(3)
    if ratio:
        over, under = _JXL_RATIO[ratio]
        return rows, rows * over // under
    return rows, 8 * (bits.take(5) + 1) if eighths else bits.choice(*_JXL_SIZE)
