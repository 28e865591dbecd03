"""``dcmark export pggan``: TFRecord files of every resolution, as the reference implementation of PGGAN reads them.

``NAME-rNN.tfrecords`` for NN from 02 to log2 of the side, ``NAME-rxx.labels`` (NPY, float32, one-hot) where there are
labels. A record is a ``tf.train.Example`` with ``shape`` (channels, rows, columns) and ``data`` (uint8). Lower levels
are means of 2 x 2 pixels, carried unrounded from level to level, each rounded to the nearest even when written.
Written without TensorFlow: the format is a length, its checksum, the bytes, and theirs.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.archive.faults import writing
from dcmark.archive.store import Archive
from dcmark.errors import MissingExtraError, UsageError
from dcmark.progress import Progress
from dcmark.view.export.base import ExportReport
from dcmark.view.export.sets import (
    Journal,
    journal_of,
    one_or_three_channels,
    open_place,
    planned,
    side_file_of,
    square_power_of_two,
    write_set,
)
from dcmark.view.labels import Labels
from dcmark.view.view import View

LOWEST = 2
"""log2 of the smallest resolution."""
_MASK = 0xA282EAD8


def export_pggan(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    view: View,
    shuffle: int | None = 0,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the images of a view as PGGAN TFRecords into a folder, whose name the files bear.

    Args:
        archive: where from.
        out: folder to write.
        view: of square images with a side that is a power of two, 1 or 3 channels, 8 bits.
        shuffle: seed of the order, for trainers read the records one after the other; None: the order of the view.
        overwrite: write into a folder that holds something.
        threads: None: one a processor.
        progress: is told of each image.

    Raises:
        UsageError, QueryError: the view does not fit, or chooses nothing.
        LabelError, LeakError: labels are missing; a person would stand in two parts.
        OutputExistsError, StorageError: the place is taken, or cannot be written.
        MissingExtraError: google-crc32c is not installed.
    """
    place = Path(out)
    checksum = _checksum()
    plan = planned(archive, view, _check)
    open_place(place, folder=True, overwrite=overwrite)
    side = square_power_of_two(view, "PGGAN")

    def encode(image: NDArray[Any]) -> list[bytes]:
        return [record(level, checksum) for level in pyramid(chw(image))]

    return write_set(
        plan,
        "pggan",
        side_file_of(place, folder=True),
        lambda item: encode(item.image),
        lambda: _Records(place, record_sizes(view.channels, side, checksum), plan.labels),
        journal=journal_of(place, folder=True),
        order=shuffled(len(plan), shuffle),
        about={"shuffle": shuffle},
        threads=threads,
        progress=progress,
    )


def _check(view: View) -> None:
    square_power_of_two(view, "PGGAN")
    one_or_three_channels(view, "PGGAN")
    if view.bits != 8:
        raise UsageError(f"expected 8 bits for PGGAN, whose records hold bytes; found {view.bits}; use --bits 8")


def shuffled(count: int, seed: int | None) -> Sequence[int]:
    """An order drawn with a seed, the same on every machine."""
    if seed is None:
        return range(count)
    return sorted(range(count), key=lambda place: hashlib.sha256(f"{seed}\0{place}".encode()).digest())


def chw(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(rows, columns) or (rows, columns, channels) as (channels, rows, columns)."""
    planes: NDArray[np.uint8] = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    return planes


def pyramid(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """An image (channels, side, side) and its halves down to 4 x 4, largest first."""
    levels, exact = [np.ascontiguousarray(image)], image.astype(np.float32)
    while exact.shape[1] > 1 << LOWEST:
        exact = (
            exact[:, 0::2, 0::2] + exact[:, 0::2, 1::2] + exact[:, 1::2, 0::2] + exact[:, 1::2, 1::2]
        ) * np.float32(0.25)
        levels.append(np.clip(np.rint(exact), 0, 255).astype(np.uint8))
    return levels


# TFRecord -------------------------------------------------------------------------------------------------------------


def _checksum() -> Any:
    try:
        import google_crc32c
    except ModuleNotFoundError as error:
        raise MissingExtraError("google-crc32c", "formats", "writing TFRecords") from error
    return google_crc32c.value


def record(image: NDArray[np.uint8], checksum: Any) -> bytes:
    """An image (channels, rows, columns) as one TFRecord."""
    data = example(image)
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked(checksum(length)), data, _masked(checksum(data))))


def _masked(crc: int) -> bytes:
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def example(image: NDArray[np.uint8]) -> bytes:
    """``tf.train.Example`` with the features ``data`` and ``shape``, in this order."""
    shape = b"".join(map(_varint, image.shape))
    data = _field(1, _field(1, image.tobytes()))  # Feature.bytes_list, BytesList.value
    sizes = _field(3, _field(1, shape))  # Feature.int64_list, Int64List.value, packed
    features = b"".join(
        _field(1, _field(1, name) + _field(2, value)) for name, value in ((b"data", data), (b"shape", sizes))
    )
    return _field(1, features)


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def record_sizes(channels: int, side: int, checksum: Any) -> list[int]:
    """Bytes of a record of each level, largest first: all of a level have the same."""
    return [len(record(level, checksum)) for level in pyramid(np.zeros((channels, side, side), np.uint8))]


class _Records:
    """The files of all levels, each of records of one size, so that whole ones can be counted."""

    def __init__(self, place: Path, sizes: Sequence[int], labels: Labels) -> None:
        top = len(sizes) - 1 + LOWEST
        self._place, self._sizes, self._labels = place, sizes, labels
        names = [f"{place.absolute().name}-r{top - level:02d}.tfrecords" for level in range(len(sizes))]
        self._drafts = [place / f"{name}.draft" for name in names]
        self._streams = []
        with writing(place):
            for draft in self._drafts:
                draft.touch()
                self._streams.append(draft.open("rb+"))
            found = [draft.stat().st_size // size for draft, size in zip(self._drafts, sizes, strict=True)]
        self.kept = min(found)

    def cut(self, count: int) -> None:
        """Drop all but the first records of each level."""
        self.kept = count
        with writing(self._place):
            for stream, size in zip(self._streams, self._sizes, strict=True):
                stream.truncate(count * size)
                stream.seek(count * size)

    def add(self, number: int, encoded: list[bytes]) -> str:
        """Append an image to every level."""
        del number
        with writing(self._place):
            for stream, data in zip(self._streams, encoded, strict=True):
                stream.write(data)
        return self._drafts[0].name.removesuffix(".draft")

    def flush(self) -> None:
        """Hand all to the system."""
        with writing(self._place):
            for stream in self._streams:
                stream.flush()

    def finish(self, journal: Journal) -> None:
        """Labels, and the names of the set; the largest level last."""
        with writing(self._place):
            if self._labels.values:
                matrix = np.array([self._vector(one["label"]) for one in journal.records()], np.float32)
                labels = self._place / f"{self._place.absolute().name}-rxx.labels"
                with labels.open("wb") as target:
                    np.save(target, matrix, allow_pickle=False)
            for stream, draft in reversed(list(zip(self._streams, self._drafts, strict=True))):
                stream.flush()
                os.fsync(stream.fileno())
                stream.close()
                draft.replace(draft.with_suffix(""))

    def _vector(self, label: int | list[float]) -> list[float]:
        if isinstance(label, list):
            return label
        return [float(number == label) for number in range(self._labels.dimensions)]

    def close(self) -> None:
        """Let go of the drafts."""
        for stream in self._streams:
            with suppress(OSError):
                stream.close()
