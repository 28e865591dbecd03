"""What a clean file is made of: runs of the original and new bytes, in order."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Copy(NamedTuple):
    """A run of the original's bytes."""

    start: int
    end: int


class Mark(NamedTuple):
    """Where a directory record of a DICOMDIR begins in the original; no bytes."""

    start: int


class Offset(NamedTuple):
    """Four bytes that point at a directory record: its place in the original (PS3.10 8.5, PS3.3 F.3.2.2)."""

    start: int
    order: str


Piece = Copy | bytes
Draft = Copy | bytes | Mark | Offset


class Change(NamedTuple):
    """What was done to an attribute: its path of tags, as ``00081140[0].00081155``, and the action. Never the value."""

    path: str
    action: str


@dataclass(slots=True)
class Clean:
    """A file under a policy.

    Attributes:
        pieces: of the clean file, in order. Copies point into ``body``.
        body: the original; of a deflated file its inflated data set behind the file meta information.
        deflated: where the data set begins that is to be deflated again; 0 where none is.
        changes: what was done, in the order of the file.
        patient: pseudonym.
    """

    pieces: list[Piece]
    body: memoryview
    deflated: int = 0
    changes: list[Change] = field(default_factory=list)
    patient: str = ""

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes of the clean file."""
        plain = (piece if isinstance(piece, bytes) else self.body[piece.start : piece.end] for piece in self.pieces)
        if not self.deflated:
            yield from plain
            return
        whole = b"".join(plain)
        packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = packer.compress(whole[self.deflated :]) + packer.flush()
        yield whole[: self.deflated]
        yield packed + b"\0" * (len(packed) % 2)


def size(piece: Draft) -> int:
    """Bytes that a piece becomes."""
    match piece:
        case bytes():
            return len(piece)
        case Copy():
            return piece.end - piece.start
        case Offset():
            return 4
        case Mark():
            return 0


def joined(drafts: list[Draft]) -> list[Piece]:
    """Directory records found again, and neighbouring pieces of one kind joined."""
    moved: dict[int, int] = {}
    at = 0
    for draft in drafts:
        if isinstance(draft, Mark):
            moved[draft.start] = at
        at += size(draft)
    merged: list[Piece] = []
    for draft in drafts:
        if isinstance(draft, Mark):
            continue
        piece: Piece = draft if not isinstance(draft, Offset) else _pointer(draft, moved)
        last = merged[-1] if merged else None
        if isinstance(piece, bytes):
            if isinstance(last, bytes):
                merged[-1] = last + piece
            elif piece:
                merged.append(piece)
        elif isinstance(last, Copy) and last.end == piece.start:
            merged[-1] = Copy(last.start, piece.end)
        elif piece.end > piece.start:
            merged.append(piece)
    return merged


def _pointer(offset: Offset, moved: dict[int, int]) -> bytes:
    return struct.pack(offset.order + "I", moved.get(offset.start, 0))
