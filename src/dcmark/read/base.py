"""What flows out of reading: items from sources, and instances taken apart into segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

from dcmark.findings import Finding


@dataclass(frozen=True, slots=True)
class Item:
    """One file as found in a source, not read yet.

    Attributes:
        source: label of the source (its base name); the same for all items of one source.
        path: path inside the source, POSIX separators. Names that are no UTF-8 carry
            surrogate escapes (PEP 383), so ``os.fsencode`` gives the original bytes.
        size: bytes, where known beforehand.
        mtime_ns: modification time in ns since 1970-01-01 UTC, where known.
        sequential: the item can only be opened before the next one is asked for
            (members of a stream); else it may be opened later, from any thread.
        open: opens a binary stream at the first byte. Raises OSError or SourceError.
        root: absolute path of the source; with ``path`` it identifies a place on this machine.
    """

    source: str
    path: str
    size: int | None
    mtime_ns: int | None
    sequential: bool
    open: Callable[[], BinaryIO]
    root: str = ""


class Source(Protocol):
    """A place that files come from.

    Contract:
        - ``items`` yields every file once, in an order that is the same on every run;
        - what cannot be given is yielded as a Finding with its path, never dropped;
        - a yielded Finding never ends the iteration; only an unusable source raises SourceError;
        - no path escapes the source: absolute, drive, ``..`` and NUL names are findings.
    """

    label: str

    def items(self) -> Iterator[Item | Finding]:
        """Walk the source."""
        ...


class Segment(NamedTuple):
    """A run of bytes of a file.

    part: -1 the bytes lie in the header; n >= 0 they belong to the n-th frame of the file.
    length: number of bytes, > 0. Segments follow one another and cover the file.
    """

    part: int
    length: int


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """How the bytes of a frame are to be understood (PS3.3 C.7.6.3, PS3.5 section 8).

    Attributes:
        rows, columns: pixels.
        samples: values per pixel (1 or 3, rarely 4).
        bits_allocated, bits_stored, high_bit: bits.
        signed: Pixel Representation = 1.
        planar: Planar Configuration = 1 (R plane, G plane, B plane).
        photometric: Photometric Interpretation, as the header says.
        number: ``int`` (Pixel Data), ``float`` or ``double`` (their own attributes).
        big_endian: the words of native pixel data have their most significant byte first.
    """

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: bool
    photometric: str
    number: Literal["int", "float", "double"] = "int"
    big_endian: bool = False


@dataclass(frozen=True, slots=True)
class Instance:
    """One file taken apart.

    Attributes:
        kind: ``dicom``, ``dicomdir``, another format's name, or ``opaque`` (kept whole, not understood).
        segments: cover the file from its first byte to its last.
        frames: number of frames, those in ``segments`` or those in ``derived``.
        derived: frames that are no byte ranges of the file but computed from it (a deflated data
            set, bits that do not begin on a byte), as native little-endian bytes. The segments
            then hold no frame.
        native: the frames are uncompressed words; else codestreams of the transfer syntax.
        transfer_syntax: UID (DICOM), else empty.
        tags: typed values by DICOM keyword, only what a table column or a caller needs.
        layout: of the frames; None where there are none.
        findings: what was noticed on the way.
    """

    kind: str
    segments: tuple[Segment, ...]
    frames: int = 0
    derived: Sequence[bytes | memoryview] = ()
    native: bool = True
    transfer_syntax: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict)
    layout: PixelLayout | None = None
    findings: tuple[Finding, ...] = ()


class Reader(Protocol):
    """Takes files of one format apart; entry-point group ``dcmark.readers``.

    Contract:
        - ``claims`` looks at the first bytes and the name only, and never raises;
        - ``take_apart`` never raises for bad content and allocates nothing a file merely
          declares: what it cannot take apart comes back as kind ``opaque`` with a finding;
        - the segments cover ``data`` exactly.
    """

    name: str

    def claims(self, head: memoryview, path: str) -> bool:
        """Is this file of this format? ``head`` holds up to 4,096 first bytes."""
        ...

    def take_apart(self, data: memoryview, path: str) -> Instance:
        """The file as segments and tags. ``data`` is the whole file."""
        ...
