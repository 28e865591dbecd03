"""Files of an archive as frames need them: where their frames lie, what their headers say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from dcmark.archive.assemble import ASSEMBLY_COLUMNS, Part, Row, header_bytes, header_dataset, read_parts
from dcmark.archive.faults import reading
from dcmark.archive.store import Archive, layout_of_row
from dcmark.config import LIMITS, Limits
from dcmark.errors import DamageError, UnsupportedError, UsageError
from dcmark.read.base import PixelLayout
from dcmark.read.codecs import decode_frame, native_frame
from dcmark.read.native import check_size, dtype_of, stored_bits
from dcmark.read.pixeldata import VIDEO
from dcmark.read.suv import scan_start
from dcmark.read.tags import COLUMNS

if TYPE_CHECKING:
    from pydicom import Dataset

Array = NDArray[Any]

LAYOUT_COLUMNS = (
    "number", "big_endian", "rows", "columns", "samples_per_pixel", "photometric_interpretation",
    "planar_configuration", "bits_allocated", "bits_stored", "high_bit", "pixel_representation",
)  # fmt: skip
DECIDING_COLUMNS = (
    "image_type", "sop_class_uid", "modality", "manufacturer", "samples_per_pixel", "photometric_interpretation",
    "pixel_representation", "pixel_padding_value", "rescale_intercept", "rescale_slope", "rescale_type",
)  # fmt: skip
"""Columns that a scale or the padding may depend on."""
_OTHERS = ("kind", "transfer_syntax", "number_of_frames", "series_instance_uid")
_READ = tuple(dict.fromkeys((*ASSEMBLY_COLUMNS, *LAYOUT_COLUMNS, *DECIDING_COLUMNS, *_OTHERS)))
RECENT, RECENT_HEADER = 4096, 8192
"""Files that are remembered, and packed bytes of header that one of them may have: 32 MiB at most."""
_NOTHING = dict.fromkeys(_READ)  # an archive of an earlier release may lack columns
_BIG_ENDIAN_WORDS = b"\x7f\xe0\x00\x10OW"
_IMPLICIT_BIG_ENDIAN = "1.2.840.113619.5.2"


@dataclass(frozen=True, eq=False)
class StoredFile:
    """A file of an archive.

    Attributes:
        archive: it lies in.
        row: columns of the table ``files``.
    """

    archive: Archive
    row: Row

    @property
    def sha256(self) -> str:
        """In hexadecimal digits."""
        return bytes(self.row["sha256"]).hex()

    @property
    def video(self) -> bool:
        """Do all frames lie in one stream?"""
        return self.row["transfer_syntax"] in VIDEO

    @property
    def frames(self) -> int:
        """Frames that can be asked for; a video holds as many as its header declares."""
        if self.video and self.row["frames"]:
            return max(1, self.row["number_of_frames"] or 1)
        return int(self.row["frames"])

    @cached_property
    def dataset(self) -> Dataset:
        """The header. Of a format other than DICOM: what its reader gave as DICOM attributes."""
        if self.row["kind"] in ("dicom", "dicomdir"):
            return header_dataset(self.archive, self.row)
        return columns_as_dataset(_whole_row(self.archive, self.row))

    @cached_property
    def layout(self) -> PixelLayout:
        """Of the frames.

        Raises:
            UnsupportedError: the file has none.
        """
        layout = _layout(tuple(self.row[name] for name in LAYOUT_COLUMNS)) if self.row["frames"] else None
        if layout is None:
            raise UnsupportedError(f"expected a file with frames; found one of kind {self.row['kind']!r} without")
        return layout

    @property
    def frame_bytes(self) -> int:
        """Bytes of a decoded frame, as the header declares them."""
        layout = self.layout
        return layout.rows * layout.columns * layout.samples * max(8, layout.bits_allocated) // 8

    @cached_property
    def series_start(self) -> datetime | None:
        """Start of the scan by all files of the series that lie in the archive; see ``read.suv.scan_start``."""
        uid = self.row["series_instance_uid"]
        return series_start(self.archive, uid) if uid else None

    def position(self, number: int) -> int:
        """Where a frame lies in the table ``frames``.

        Raises:
            UsageError: no such frame.
            DamageError: it should be there and is not.
        """
        if not 0 <= number < self.frames:
            raise UsageError(f"expected the number of a frame from 0 to {self.frames - 1}; found {number}")
        bulk = self.row["parts"] - self.row["frames"]
        part = 0 if self.video else number
        return int(self.archive.positions(self.row["batch"], self.row["first_row"] + bulk + part, 1)[0])

    def decode(self, part: Part, number: int, limits: Limits = LIMITS) -> Array:
        """Stored values of a frame from its stored part: what ``read.codecs.decode_frame`` makes of the file.

        Raises:
            DamageError: the part is not what was stored.
            DecodeError, LimitError, MissingExtraError: as ``decode_frame`` does.
        """
        layout, data = self.layout, part.unpack()
        if part.codec[:1].isdigit():  # a transfer syntax: the frame lies as it came
            return decode_frame(data, part.codec, layout, limits, index=number)
        if layout.big_endian and layout.bits_allocated <= 8:
            return self._bytes_in_words(data, number, limits)
        view = memoryview(data)
        if view.readonly or layout.big_endian or layout.samples != 1 or layout.bits_allocated == 1:
            return native_frame(view, layout, limits)
        # Freshly decoded words that nobody else holds: what native_frame would do, without its copy.
        check_size(layout, limits)
        kind = dtype_of(layout)
        if view.nbytes != layout.rows * layout.columns * kind.itemsize:
            raise DamageError("a frame is not of the size the header of its file declares; the archive is damaged")
        shape = layout.rows, layout.columns
        if part.lowest is not None and part.highest is not None and _within(part.lowest, part.highest, layout):
            return np.frombuffer(view, kind).reshape(shape)  # nothing outside the stored bits
        return stored_bits(np.frombuffer(view, f"u{kind.itemsize}"), layout).reshape(shape)

    def _bytes_in_words(self, data: bytes | memoryview, number: int, limits: Limits) -> Array:
        """A frame of 1- or 8-bit values in a big-endian file.

        With VR OB they are bytes in order. With OW they lie swapped in pairs, and a frame of odd size shares its first
        or its last word with a neighbour, or with the byte of padding behind.
        """
        layout = replace(self.layout, big_endian=False)
        header = header_bytes(self.archive, self.row)
        if self.row["transfer_syntax"] != _IMPLICIT_BIG_ENDIAN and _BIG_ENDIAN_WORDS not in header:
            return native_frame(data, layout, limits)
        start, size = number * len(data), len(data)
        pieces = [bytes(data)]
        if start % 2:
            pieces.insert(0, bytes(self._part(number - 1).unpack()[-1:]))
        if (start + size) % 2:
            behind = self._part(number + 1).unpack() if number + 1 < self.row["frames"] else header[-self._tail() :]
            pieces.append(bytes(behind[:1]))
        words = b"".join(pieces)
        swapped = np.frombuffer(words, ">u2", len(words) // 2).astype("<u2").tobytes()
        return native_frame(swapped[start % 2 :][:size], layout, limits)

    def _part(self, number: int) -> Part:
        return read_parts(self.archive, [self.position(number)])[0]

    def _tail(self) -> int:
        """Bytes behind the last frame; where there are none, all of the header."""
        tail = 0
        for segment in reversed(self.row["segments"]):
            if segment["part"] >= 0:
                break
            tail += int(segment["length"])
        return tail


def _within(lowest: int, highest: int, layout: PixelLayout) -> bool:
    """Do words from lowest to highest need no more than the stored bits, with these at the low end of the word?"""
    bits = layout.bits_stored
    if layout.high_bit != bits - 1:
        return False
    least = -(1 << (bits - 1)) if layout.signed else 0
    return least <= lowest and highest < least + (1 << bits)


@lru_cache(256)
def _layout(values: tuple[Any, ...]) -> PixelLayout | None:
    return layout_of_row(dict(zip(LAYOUT_COLUMNS, values, strict=True)))


def stored_files(archive: Archive, sha256s: Sequence[str | bytes]) -> dict[bytes, StoredFile]:
    """Files by the 32 bytes of their SHA-256.

    Raises:
        UsageError: one is not in the archive, or is no SHA-256.
        DamageError: the table cannot be read.
    """
    wanted = list(dict.fromkeys(digest_of(one) for one in sha256s))
    if not wanted:
        return {}
    index = _index(archive)
    if index is None:
        raise UsageError("expected files of the archive; it is empty")
    if all(one in index.recent for one in wanted):
        return {one: StoredFile(archive, index.recent[one]) for one in wanted}
    keys = np.array([int.from_bytes(one[:8], "little") for one in wanted], np.uint64)
    low = np.searchsorted(index.prefixes, keys, "left")
    high = np.searchsorted(index.prefixes, keys, "right")
    places = np.unique(np.concatenate([index.rows[a:b] for a, b in zip(low, high, strict=True)]))
    found: dict[bytes, StoredFile] = {}
    with reading("rows of 'files'"):
        rows = index.table.take(places.tolist(), columns=index.columns).to_pylist() if len(places) else []
    for row in rows:
        found.setdefault(row["sha256"], StoredFile(archive, _NOTHING | row))
    for one in wanted:
        if one not in found:
            raise UsageError(f"expected the SHA-256 of a file of the archive; found {one.hex()}, which is not there")
    if len(index.recent) + len(found) > RECENT:
        index.recent.clear()
    index.recent.update({one: f.row for one, f in found.items() if len(f.row["header"] or b"") <= RECENT_HEADER})
    return {one: found[one] for one in wanted}


def digest_of(sha256: str | bytes) -> bytes:
    """The 32 bytes of a SHA-256 given as such or as hexadecimal digits.

    Raises:
        UsageError: it is none.
    """
    try:
        digest = bytes.fromhex(sha256) if isinstance(sha256, str) else bytes(sha256)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise UsageError("expected a SHA-256 of 64 hexadecimal digits or 32 bytes; found something else")
    return digest


@dataclass(frozen=True, slots=True)
class _Index:
    """Rows of a table ``files`` by the first eight bytes of their SHA-256: 16 bytes of memory a file."""

    table: Any
    columns: list[str]
    prefixes: NDArray[np.uint64]
    rows: NDArray[np.int64]
    recent: dict[bytes, Row] = field(default_factory=dict)


_indices: WeakKeyDictionary[Archive, _Index] = WeakKeyDictionary()


def _index(archive: Archive) -> _Index | None:
    table = archive.table("files")
    if table is None:
        return None
    known = _indices.get(archive)
    if known is not None and known.table is table:
        return known
    pieces: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    with reading("table 'files'"):
        for batch in table.scanner(columns=["sha256"]).to_batches():
            column = batch.column(0)
            words = np.frombuffer(column.buffers()[1], "<u8")[4 * column.offset :]
            pieces.append(words[: 4 * len(column) : 4].astype(np.uint64))
        names = set(table.schema.names)
    there = [name for name in _READ if name in names]
    prefixes = np.concatenate(pieces)
    rows = np.argsort(prefixes, kind="stable")
    index = _indices[archive] = _Index(table, there, prefixes[rows], rows)
    return index


def series_start(archive: Archive, series_instance_uid: str) -> datetime | None:
    """``read.suv.scan_start`` of a series in an archive, from typed columns."""
    columns = ["series_date", "series_time", "acquisition_date", "acquisition_time", "acquisition_date_time"]
    quoted = series_instance_uid.replace("'", "''")
    rows = archive.read("files", columns, f"series_instance_uid = '{quoted}'").to_pylist()
    if any(sign in (row["acquisition_date_time"] or "") for row in rows for sign in "+-"):
        return None  # an offset from UTC: the header has to say to which time zone the other times belong
    return scan_start(columns_as_dataset(row) for row in rows)


def columns_as_dataset(row: Row) -> Dataset:
    """The typed columns of a file as a data set: what of the header stands in the table itself."""
    from pydicom import DataElement, Dataset, config
    from pydicom.datadict import dictionary_VR

    dataset = Dataset()
    for column in COLUMNS:
        value = row.get(column.name)
        if value is None:
            continue
        vr = dictionary_VR(column.tag)
        if column.type == "text" and "\\" in value:
            value = value.split("\\")
        if vr == "US or SS":
            vr = "SS" if row.get("pixel_representation") == 1 else "US"
        elif column.type in ("number", "numbers"):
            vr = "FD"  # a decimal string would be cut to 16 characters
        elif vr == "IS":
            vr = "SV"
        # Not validated: what the file holds need not be valid.
        dataset.add(DataElement(column.tag, vr, value, validation_mode=config.IGNORE))
    return dataset


def _whole_row(archive: Archive, row: Row) -> Row:
    """All typed columns of a file."""
    columns = [column.name for column in COLUMNS]
    where = f"batch = {row['batch']} AND first_row = {row['first_row']} AND sha256 = X'{bytes(row['sha256']).hex()}'"
    (found,) = archive.read("files", columns, where).to_pylist()[:1]
    return {**row, **found}
