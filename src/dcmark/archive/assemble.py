"""From stored parts back to the bytes of files: what restore, verify and reading share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from dcmark.archive import codec as codecs
from dcmark.archive.store import Archive
from dcmark.errors import DamageError

if TYPE_CHECKING:
    import pydicom

ASSEMBLY_COLUMNS = (
    "sha256", "size", "batch", "first_row", "parts", "frames", "segments", "header", "header_codec", "header_length",
)  # fmt: skip
"""Columns of ``files`` that the functions here need."""

WINDOW_BYTES = 32 << 20
"""Unpacked bytes of parts that are read and decoded at once."""

Row = Mapping[str, Any]


class Part:
    """A stored part, read but not unpacked."""

    __slots__ = ("codec", "crc", "highest", "length", "lowest", "number", "payload")

    def __init__(self, row: Row, payload: bytes) -> None:
        self.number: int = row["number"]
        self.codec: str = row["codec"]
        self.length: int = row["length"]
        self.crc: int = row["crc"]
        self.lowest: int | None = row["lowest"]
        self.highest: int | None = row["highest"]
        self.payload = payload

    def unpack(self) -> codecs.Bytes:
        """The part's original bytes. Raises DamageError when the payload is not what was stored."""
        if codecs.checksum(self.payload) != self.crc:
            raise DamageError(f"part {self.number} of a file is not what was stored (checksum); the archive is damaged")
        return codecs.decode(self.codec, self.payload, self.length)


def read_parts(archive: Archive, positions: Sequence[int]) -> list[Part]:
    """Stored parts at positions in ``frames``, in that order."""
    rows = archive.part_rows(positions)
    payloads = archive.payloads(positions)
    if len(rows) != len(payloads):
        raise DamageError("'frames' gives fewer payloads than rows; the archive is damaged there")
    return [Part(row, payload) for row, payload in zip(rows, payloads, strict=True)]


def frame_part(archive: Archive, row: Row, number: int) -> Part:
    """One frame of a file.

    Args:
        row: of ``files`` with batch, first_row, parts, frames.
        number: of the frame, from 0.

    Raises:
        DamageError: it is not there.
    """
    bulk = row["parts"] - row["frames"]
    (position,) = archive.positions(row["batch"], row["first_row"] + bulk + number, 1)
    (part,) = read_parts(archive, [int(position)])
    return part


def header_bytes(archive: Archive, row: Row) -> bytes:
    """All bytes of a file that belong to no frame, joined.

    Raises:
        DamageError: they are not what was stored.
    """
    if row["header"] is not None:
        return bytes(codecs.decode(row["header_codec"] or "raw", row["header"], row["header_length"]))
    positions = archive.positions(row["batch"], row["first_row"], row["parts"] - row["frames"])
    return b"".join(bytes(read_parts(archive, [int(p)])[0].unpack()) for p in positions)


def header_dataset(archive: Archive, row: Row) -> pydicom.Dataset:
    """The attributes of a stored DICOM file, without its pixel data."""
    import io
    import warnings

    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(header_bytes(archive, row)), stop_before_pixels=True, force=True)


def file_pieces(archive: Archive, row: Row, executor: Executor) -> Iterator[codecs.Bytes]:
    """The bytes of one file from its first to its last, piece by piece.

    Memory is bounded by ``WINDOW_BYTES`` and the largest part, not by the file.

    Raises:
        DamageError: a part is missing or not what was stored. Bytes given before are right.
    """
    bulk = row["parts"] - row["frames"]
    parts = _unpacked(archive, row, executor)
    if row["header"] is not None:
        header: Iterator[codecs.Bytes] = iter([header_bytes(archive, row)])
    else:
        # Bulk chunks stand before the frames and are few; they are read on their own.
        header = (
            read_parts(archive, [int(p)])[0].unpack() for p in archive.positions(row["batch"], row["first_row"], bulk)
        )
    head, frame = _Cursor(header), _Cursor(iter(()))
    current = -1
    for segment in row["segments"]:
        if segment["part"] < 0:
            yield from head.take(segment["length"])
            continue
        if segment["part"] != current:
            current = segment["part"]
            frame = _Cursor(iter([next(parts, b"")]))
        yield from frame.take(segment["length"])


def _unpacked(archive: Archive, row: Row, executor: Executor) -> Iterator[codecs.Bytes]:
    """Frames of a file in order, decoded on the executor, a window at a time."""
    bulk = row["parts"] - row["frames"]
    if not row["frames"] or not any(s["part"] >= 0 for s in row["segments"]):
        return
    positions = archive.positions(row["batch"], row["first_row"] + bulk, row["frames"])
    typical = max(1, row["size"] // row["frames"])
    step = max(1, WINDOW_BYTES // typical)
    for start in range(0, len(positions), step):
        parts = read_parts(archive, [int(p) for p in positions[start : start + step]])
        if len(parts) == 1:
            yield parts[0].unpack()
        else:
            yield from executor.map(Part.unpack, parts)


class _Cursor:
    """Takes runs of bytes off a sequence of pieces."""

    def __init__(self, pieces: Iterator[codecs.Bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def take(self, length: int) -> Iterator[memoryview]:
        while length:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    raise DamageError(f"a file is {length} bytes short: its stored parts do not cover its segments")
                self._rest = memoryview(piece)
            run = self._rest[:length]
            self._rest = self._rest[length:]
            length -= len(run)
            yield run
