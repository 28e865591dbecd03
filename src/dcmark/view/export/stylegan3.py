"""``dcmark export stylegan3``: a zip of PNG files with ``dataset.json``, as StyleGAN2 and 3 read it.

Members are stored, not compressed: ``00000/img00000000.png`` and so on, 8-bit grey or RGB, square, with a side that is
a power of two. Labels are class numbers or vectors. With 16 bits the PNG files have 16 bits: dcmark's own trainer reads
them, the official loader does not.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dcmark.archive.faults import writing
from dcmark.archive.store import Archive
from dcmark.errors import UsageError
from dcmark.progress import Progress
from dcmark.view.export.base import ExportReport
from dcmark.view.export.sets import (
    Journal,
    draft_of,
    journal_of,
    meaning,
    one_or_three_channels,
    open_place,
    planned,
    side_file_of,
    square_power_of_two,
    write_set,
)
from dcmark.view.view import View

LABELS = "dataset.json"
MEANING = "meaning.json"
PNG_LEVEL, PNG_RLE, PNG_SUB = 1, 3, 16
"""Differences along the row, and runs of one value: half the time of zlib's level 1 with libpng's own choice of
filters, and 10 % fewer bytes, on CT slices."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_LOCAL = struct.Struct("<4s5H3I2H")


def export_stylegan3(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    view: View,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the images of a view as a StyleGAN3 data set, and ``OUT.view.json`` beside it.

    Args:
        archive: where from.
        out: the zip to write; ``.zip`` is added where it is missing.
        view: of square images with a side that is a power of two, 1 or 3 channels, 8 or 16 bits.
        overwrite: replace what is there.
        threads: None: one a processor.
        progress: is told of each image.

    Raises:
        UsageError, QueryError: the view does not fit, or chooses nothing.
        LabelError, LeakError: labels are missing; a person would stand in two parts.
        OutputExistsError, StorageError: the place is taken, or cannot be written.
    """
    place = Path(out)
    if place.suffix.lower() != ".zip":
        place = place.with_name(f"{place.name}.zip")
    plan = planned(archive, view, _check)
    open_place(place, folder=False, overwrite=overwrite)
    return write_set(
        plan,
        "stylegan3",
        side_file_of(place, folder=False),
        lambda item: png(item.image),
        lambda: _Zip(place, view, bool(plan.labels.values)),
        journal=journal_of(place, folder=False),
        threads=threads,
        progress=progress,
    )


def _check(view: View) -> None:
    square_power_of_two(view, "StyleGAN3")
    one_or_three_channels(view, "StyleGAN3")
    if view.bits == 32:
        raise UsageError("expected 8 or 16 bits for StyleGAN3; found 32; PNG holds whole numbers: use --bits 8 or 16")


def png(image: NDArray[Any]) -> bytes:
    """An image as PNG, of its own depth."""
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(image), level=PNG_LEVEL, strategy=PNG_RLE, filter=PNG_SUB))


def item_name(number: int) -> str:
    """The name of an image in the zip."""
    return f"{number // 1000:05d}/img{number:08d}.png"


class _Zip:
    """A zip that can be gone on with: members are stored one behind the other, so whole ones are found again."""

    def __init__(self, place: Path, view: View, labelled: bool) -> None:
        self._place, self._view, self._labelled = place, view, labelled
        draft = draft_of(place)
        with writing(draft):
            draft.touch()
            self._stream = draft.open("rb+")
            self._members = list(_whole_members(self._stream))
        self.kept = len(self._members)

    def cut(self, count: int) -> None:
        """Drop all but the first members, and go on behind them."""
        del self._members[count:]
        self.kept = count
        end = self._members[-1][1] if count else 0
        with writing(self._place):
            self._stream.truncate(end)
            self._stream.seek(end)

    def add(self, number: int, encoded: bytes) -> str:
        """Append an image."""
        name = item_name(number)
        self._write(name, encoded)
        return name

    def _write(self, name: str, data: bytes) -> None:
        info = zipfile.ZipInfo(name, _EPOCH)
        info.CRC, info.compress_size, info.file_size = zlib.crc32(data), len(data), len(data)
        with writing(self._place):
            info.header_offset = self._stream.tell()
            self._stream.write(info.FileHeader(zip64=False) + data)
            self._members.append((info, self._stream.tell()))

    def flush(self) -> None:
        """Hand all to the system."""
        with writing(self._place):
            self._stream.flush()

    def finish(self, journal: Journal) -> None:
        """Labels, central directory, and the name of the set."""
        labels = [[one["item"], one["label"]] for one in journal.records()] if self._labelled else None
        self._write(LABELS, json.dumps({"labels": labels}).encode())
        if (told := meaning(self._view)) is not None:
            self._write(MEANING, json.dumps(told).encode())
        with writing(self._place):
            with zipfile.ZipFile(self._stream, "w") as directory:
                directory.filelist.extend(info for info, _ in self._members)
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            draft_of(self._place).replace(self._place)

    def close(self) -> None:
        """Let go of the draft as it is."""
        with suppress(OSError):
            self._stream.close()


def _whole_members(stream: BinaryIO) -> Iterator[tuple[zipfile.ZipInfo, int]]:
    """Members whose bytes are all there, and where each ends."""
    stream.seek(0, os.SEEK_END)
    size, at = stream.tell(), 0
    number = 0
    while at + _LOCAL.size <= size:
        stream.seek(at)
        mark, _, flags, method, _, _, crc, packed, plain, name_length, extra = _LOCAL.unpack(stream.read(_LOCAL.size))
        name = stream.read(name_length)
        end = at + _LOCAL.size + name_length + extra + packed
        good = mark == b"PK\3\4" and not flags and method == zipfile.ZIP_STORED and packed == plain
        if not good or name != item_name(number).encode() or end > size:
            return
        stream.seek(end - packed)
        if zlib.crc32(stream.read(packed)) != crc:
            return
        info = zipfile.ZipInfo(name.decode(), _EPOCH)
        info.CRC, info.compress_size, info.file_size, info.header_offset = crc, packed, plain, at
        yield info, end
        at, number = end, number + 1
