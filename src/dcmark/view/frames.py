"""Frames out of an archive: stored, physical and display values, without the files they came in.

    one = frame(archive, sha256, 0)
    one.stored                      # what the file holds
    one.physical("hu").values       # float32, with quantity, unit and mask
    one.display(window="lung")      # 8-bit grey levels

``read_frames`` gives many of them in order, read in runs and decoded on several threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from dcmark.archive.assemble import ASSEMBLY_COLUMNS, Part, Row, header_bytes, header_dataset, read_parts
from dcmark.archive.store import Archive, layout_of_row
from dcmark.config import LIMITS, Limits
from dcmark.errors import DamageError, UnsupportedError, UsageError
from dcmark.read.base import PixelLayout
from dcmark.read.codecs import decode_frame, native_frame
from dcmark.read.display import display
from dcmark.read.native import check_size, dtype_of, stored_bits
from dcmark.read.pixeldata import VIDEO
from dcmark.read.pixels import Physical, physical
from dcmark.read.tags import COLUMNS
from dcmark.read.windows import Choice

if TYPE_CHECKING:
    from pydicom import Dataset

Array = NDArray[Any]
FrameKey = tuple[str | bytes, int]
"""SHA-256 of a file (hexadecimal or 32 bytes) and the number of a frame in it, from 0."""

T = TypeVar("T")
RUN = 64
"""Frames read at once: enough for the storage to read in one plan, few enough to stay in memory."""
BLOCK = 512
"""Frames whose files are looked up at once; a multiple of ``RUN``. Their headers may take a MiB each."""

LAYOUT_COLUMNS = (
    "number", "big_endian", "rows", "columns", "samples_per_pixel", "photometric_interpretation",
    "planar_configuration", "bits_allocated", "bits_stored", "high_bit", "pixel_representation",
)  # fmt: skip
DECIDING_COLUMNS = (
    "image_type", "sop_class_uid", "modality", "manufacturer", "samples_per_pixel", "photometric_interpretation",
    "pixel_representation", "pixel_padding_value", "rescale_intercept", "rescale_slope", "rescale_type",
)  # fmt: skip
"""Columns that a scale or the padding may depend on."""
_FILE_COLUMNS = tuple(
    dict.fromkeys(
        (*ASSEMBLY_COLUMNS, *LAYOUT_COLUMNS, *DECIDING_COLUMNS)
        + ("kind", "transfer_syntax", "number_of_frames", "series_instance_uid")
    )
)
_BIG_ENDIAN_WORDS = b"\x7f\xe0\x00\x10OW"


@dataclass(frozen=True, eq=False)
class StoredFile:
    """A file of an archive, as far as its frames need it.

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
    def frames(self) -> int:
        """Frames that can be asked for; a video holds as many as its header declares."""
        if self.row["transfer_syntax"] in VIDEO and self.row["frames"]:
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
        layout = layout_of_row(dict(self.row))
        if layout is None or not self.row["frames"]:
            raise UnsupportedError(f"expected a file with frames; found one of kind {self.row['kind']!r} without")
        return layout

    @cached_property
    def _bytes_swapped(self) -> bool:
        """Do 1- and 8-bit values lie in big-endian words (VR OW)? Those of OB are bytes in order."""
        implicit = self.row["transfer_syntax"] == "1.2.840.113619.5.2"
        return implicit or _BIG_ENDIAN_WORDS in header_bytes(self.archive, self.row)

    def position(self, number: int) -> int:
        """Where a frame lies in the table ``frames``.

        Raises:
            UsageError: no such frame.
            DamageError: it should be there and is not.
        """
        if not 0 <= number < self.frames:
            raise UsageError(f"expected the number of a frame from 0 to {self.frames - 1}; found {number}")
        bulk = self.row["parts"] - self.row["frames"]
        part = 0 if self.row["transfer_syntax"] in VIDEO else number
        return int(self.archive.positions(self.row["batch"], self.row["first_row"] + bulk + part, 1)[0])

    def decode(self, part: Part, number: int, limits: Limits = LIMITS) -> Array:
        """Stored values of a frame from its stored part; what ``read.codecs.decode_frame`` gives of the file.

        Raises:
            DamageError: the part is not what was stored.
            DecodeError, LimitError, MissingExtraError: as ``decode_frame`` does.
        """
        layout, data = self.layout, part.unpack()
        if part.codec[:1].isdigit():  # a transfer syntax: the frame lies as it came
            return decode_frame(data, part.codec, layout, limits, index=number)
        if layout.big_endian and layout.bits_allocated <= 8 and not self._bytes_swapped:
            layout = replace(layout, big_endian=False)
        view = memoryview(data)
        if view.readonly or layout.big_endian or layout.planar or layout.samples != 1 or layout.bits_allocated == 1:
            return native_frame(view, layout, limits)
        # Freshly decoded words that nobody else holds: what native_frame would do, without its copy.
        check_size(layout, limits)
        kind = dtype_of(layout)
        if view.nbytes != layout.rows * layout.columns * kind.itemsize:
            raise DamageError(
                f"frame {number} of a file is not of the size its header declares; the archive is damaged"
            )
        words = np.frombuffer(view, f"u{kind.itemsize}")
        return stored_bits(words, layout).reshape(layout.rows, layout.columns)


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of an archive.

    Attributes:
        file: it is in.
        number: in the file, from 0.
        stored: (rows, columns) or (rows, columns, samples); see ``read.codecs``.
    """

    file: StoredFile
    number: int
    stored: Array

    @property
    def dataset(self) -> Dataset:
        """The header of the file."""
        return self.file.dataset

    def physical(self, quantity: str | None = None, *, series_start: datetime | None = None) -> Physical:
        """Physical values; see ``read.pixels.physical``.

        Raises:
            ValueMeaningError: the header does not define the quantity; the message names what is missing.
        """
        return physical(self.stored, self.dataset, self.number, quantity, series_start=series_start)

    def display(self, window: Choice = None, *, bits: int = 8) -> Array:
        """What is to be seen; see ``read.display.display``."""
        return display(self.stored, self.dataset, self.number, window, bits=bits)


def frame(archive: Archive, sha256: str | bytes, number: int = 0, *, limits: Limits = LIMITS) -> Frame:
    """One frame of an archive, decoded.

    Args:
        sha256: of the file, hexadecimal or 32 bytes.
        number: of the frame, from 0.

    Raises:
        UsageError: no such file or frame.
        UnsupportedError: the file has no pixels; DecodeError where they cannot be decoded.
        DamageError: the archive is damaged there.
    """
    (found,) = read_frames(archive, [(sha256, number)], threads=1, limits=limits)
    return found


def read_frames(
    archive: Archive, frames: Sequence[FrameKey], *, threads: int = 1, limits: Limits = LIMITS
) -> Iterator[Frame]:
    """Frames in the order asked for. Arguments and errors as for ``map_frames``."""
    return map_frames(archive, frames, lambda _, one: one, threads=threads, limits=limits)


def map_frames(
    archive: Archive,
    frames: Sequence[FrameKey],
    work: Callable[[int, Frame], T],
    *,
    threads: int = 1,
    limits: Limits = LIMITS,
) -> Iterator[T]:
    """What ``work(place in the list, frame)`` gives for every frame, in the order asked for.

    Decoding and work run on the threads. Memory holds two runs of frames a thread at most, however long the list.

    Args:
        frames: which.
        threads: 1 does all in the calling thread.

    Raises:
        UsageError: no such file or frame.
        UnsupportedError, DecodeError, LimitError, DamageError: one frame cannot be given.
    """
    if threads < 1:
        raise UsageError(f"expected 1 thread or more; found {threads}")
    size = min(RUN, max(1, -(-len(frames) // (2 * threads))))

    def run(start: int, wanted: Sequence[tuple[StoredFile, int]]) -> list[T]:
        parts = read_parts(archive, [file.position(number) for file, number in wanted])
        return [
            work(start + place, Frame(file, number, file.decode(part, number, limits)))
            for place, (part, (file, number)) in enumerate(zip(parts, wanted, strict=True))
        ]

    if threads == 1:
        for start, wanted in _runs(archive, frames, size):
            yield from run(start, wanted)
        return
    with ThreadPoolExecutor(threads, "dcmark-frames") as pool:
        ahead: deque[Future[list[T]]] = deque()
        try:
            for start, wanted in _runs(archive, frames, size):
                ahead.append(pool.submit(run, start, wanted))
                if len(ahead) >= 2 * threads:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for left in ahead:
                left.cancel()


def _runs(
    archive: Archive, frames: Sequence[FrameKey], size: int
) -> Iterator[tuple[int, Sequence[tuple[StoredFile, int]]]]:
    """The list in runs of ``size``, with the files they lie in; those of one block of runs are looked up at once."""
    files: dict[bytes, StoredFile] = {}
    for block in range(0, len(frames), BLOCK):
        keys = [(_digest(sha256), number) for sha256, number in frames[block : block + BLOCK]]
        new = {digest for digest, _ in keys} - files.keys()
        kept = {digest: files[digest] for digest, _ in keys if digest in files}
        files = kept | stored_files(archive, list(new))
        for start in range(0, len(keys), size):
            yield block + start, [(files[digest], number) for digest, number in keys[start : start + size]]


# Looking files up ------------------------------------------------------------------------------------------------


def stored_files(archive: Archive, sha256s: Sequence[str | bytes]) -> dict[bytes, StoredFile]:
    """Files by the 32 bytes of their SHA-256.

    Raises:
        UsageError: one is not in the archive, or is no SHA-256.
    """
    wanted = list(dict.fromkeys(_digest(one) for one in sha256s))
    if not wanted:
        return {}
    index = _index(archive)
    if index is None:
        raise UsageError("expected files of the archive; it is empty")
    table, prefixes, order = index
    keys = np.array([int.from_bytes(one[:8], "little") for one in wanted], np.uint64)
    low = np.searchsorted(prefixes, keys, "left")
    high = np.searchsorted(prefixes, keys, "right")
    places = np.unique(np.concatenate([order[a:b] for a, b in zip(low, high, strict=True)]))
    found: dict[bytes, StoredFile] = {}
    for start in range(0, len(places), 4096):
        rows = table.take(places[start : start + 4096].tolist(), columns=list(_FILE_COLUMNS)).to_pylist()
        for row in rows:
            found.setdefault(row["sha256"], StoredFile(archive, row))
    for one in wanted:
        if one not in found:
            raise UsageError(f"expected the SHA-256 of a file of the archive; found {one.hex()}, which is not there")
    return found


_Index = tuple[Any, NDArray[np.uint64], NDArray[np.int64]]
_indices: WeakKeyDictionary[Archive, _Index] = WeakKeyDictionary()


def _index(archive: Archive) -> _Index | None:
    """The table ``files``, the first eight bytes of every SHA-256 in order, and their rows: 16 bytes a file."""
    table = archive.table("files")
    if table is None:
        return None
    known = _indices.get(archive)
    if known is not None and known[0] is table:
        return known
    pieces: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    for batch in table.scanner(columns=["sha256"]).to_batches():
        column = batch.column(0)
        words = np.frombuffer(column.buffers()[1], "<u8")
        pieces.append(words[4 * column.offset : 4 * (column.offset + len(column))][::4].astype(np.uint64))
    prefixes = np.concatenate(pieces)
    order = np.argsort(prefixes, kind="stable")
    index = _indices[archive] = (table, prefixes[order], order)
    return index


def _whole_row(archive: Archive, row: Row) -> Row:
    """All typed columns of a file."""
    columns = [column.name for column in COLUMNS]
    where = f"batch = {row['batch']} AND first_row = {row['first_row']} AND sha256 = X'{bytes(row['sha256']).hex()}'"
    (found,) = archive.read("files", columns, where).to_pylist()[:1]
    return {**row, **found}


def _digest(sha256: str | bytes) -> bytes:
    try:
        digest = bytes.fromhex(sha256) if isinstance(sha256, str) else bytes(sha256)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise UsageError("expected a SHA-256 of 64 hexadecimal digits or 32 bytes; found something else")
    return digest


def columns_as_dataset(row: Row) -> Dataset:
    """The typed columns of a file as a data set: what of the header stands in the table itself."""
    from pydicom import Dataset
    from pydicom.datadict import dictionary_VR

    dataset = Dataset()
    for column in COLUMNS:
        value = row.get(column.name)
        if value is None:
            continue
        if column.type == "text" and "\\" in value:
            value = value.split("\\")
        vr = dictionary_VR(column.tag)
        if vr == "US or SS":
            vr = "SS" if row.get("pixel_representation") == 1 else "US"
        elif column.type in ("number", "numbers"):
            vr = "FD"  # a decimal string would be cut to 16 characters
        elif column.type == "integer" and vr == "IS":
            vr = "SV"
        dataset.add_new(column.tag, vr, value)
    return dataset
