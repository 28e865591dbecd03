"""``dcmark view cache``: the images of a view rendered once, in a flat file that is mapped into memory.

``OUT.npy`` holds (images, rows, columns[, channels]) in the order of the view; beside it ``OUT.labels.npy`` (float32,
one-hot or vectors), ``OUT.meaning.json`` and ``OUT.npy.view.json``. Any program that reads NPY files reads it.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.archive.faults import writing
from dcmark.archive.store import Archive
from dcmark.errors import SourceError, UsageError
from dcmark.progress import Progress
from dcmark.view.export.base import ExportReport
from dcmark.view.export.sets import (
    Journal,
    draft_of,
    journal_of,
    meaning,
    open_place,
    planned,
    side_file_of,
    write_set,
)
from dcmark.view.labels import Labels
from dcmark.view.view import View

HEADER = 256
"""Bytes of the NPY header: the same whatever the number of images, which is known last."""


def write_cache(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    view: View,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Render a view into a flat file.

    Args:
        archive: where from.
        out: the file to write; ``.npy`` is added where it is missing.
        view: with a size, so that all images are alike.
        overwrite: replace what is there.
        threads: None: one a processor.
        progress: is told of each image.

    Raises:
        UsageError, QueryError: the view does not fit, or chooses nothing.
        LabelError, LeakError: labels are missing; a person would stand in two parts.
        OutputExistsError, StorageError: the place is taken, or cannot be written.
    """
    place = Path(out)
    if place.suffix.lower() != ".npy":
        place = place.with_name(f"{place.name}.npy")
    plan = planned(archive, view, _check)
    open_place(place, folder=False, overwrite=overwrite)
    return write_set(
        plan,
        "cache",
        side_file_of(place, folder=False),
        lambda item: np.ascontiguousarray(item.image),
        lambda: _Flat(place, view, plan.labels),
        journal=journal_of(place, folder=False),
        threads=threads,
        progress=progress,
    )


def _check(view: View) -> None:
    if view.size is None:
        raise UsageError("expected a size, so that all images of a cache are alike; found none; use --size 256")


def image_shape(view: View) -> tuple[int, ...]:
    """Of an image of a view with a size."""
    assert view.size is not None
    return view.size if view.channels == 1 else (*view.size, view.channels)


def image_type(view: View) -> np.dtype[Any]:
    """Of the pixels of a view."""
    return np.dtype({8: "u1", 16: "<u2", 32: "<f4"}[view.bits])


def vectors(labels: Labels, found: list[Any]) -> NDArray[np.float32]:
    """Labels as (images, dimensions): one-hot for classes."""
    matrix = np.zeros((len(found), labels.dimensions), np.float32)
    for row, label in zip(matrix, found, strict=True):
        if isinstance(label, list | tuple):
            row[:] = label
        else:
            row[label] = 1
    return matrix


class _Flat:
    """Images behind a header, all of one size."""

    def __init__(self, place: Path, view: View, labels: Labels) -> None:
        self._place, self._view, self._labels = place, view, labels
        self._bytes = int(np.prod(image_shape(view))) * image_type(view).itemsize
        draft = draft_of(place)
        with writing(draft):
            draft.touch()
            self._stream = draft.open("rb+")
            self.kept = max(0, draft.stat().st_size - HEADER) // self._bytes

    def cut(self, count: int) -> None:
        """Drop all but the first images."""
        self.kept = count
        with writing(self._place):
            self._stream.truncate(HEADER + count * self._bytes if count else 0)
            self._stream.seek(0, os.SEEK_END)
            if not count:
                self._stream.write(bytes(HEADER))

    def add(self, number: int, encoded: NDArray[Any]) -> str:
        """Append an image."""
        del number
        with writing(self._place):
            self._stream.write(encoded.astype(image_type(self._view), copy=False).data)
        return self._place.name

    def flush(self) -> None:
        """Hand all to the system."""
        with writing(self._place):
            self._stream.flush()

    def finish(self, journal: Journal) -> None:
        """The header, labels, and the name of the set."""
        with writing(self._place):
            self._stream.seek(0)
            self._stream.write(_header(image_type(self._view), (journal.items, *image_shape(self._view))))
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            if self._labels.values:
                matrix = vectors(self._labels, [one["label"] for one in journal.records()])
                with self._place.with_suffix(".labels.npy").open("wb") as stream:
                    np.save(stream, matrix, allow_pickle=False)
            if (told := meaning(self._view)) is not None:
                self._place.with_suffix(".meaning.json").write_text(json.dumps(told), "utf-8")
            draft_of(self._place).replace(self._place)

    def close(self) -> None:
        """Let go of the draft."""
        with suppress(OSError):
            self._stream.close()


def _header(kind: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    text = repr({"descr": kind.str, "fortran_order": False, "shape": shape})
    body = text.encode().ljust(HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


class Cache:
    """A cache, read by position; safe from threads and in processes made in any way.

    Attributes:
        images: (images, rows, columns[, channels]), mapped.
        labels: (images, dimensions) float32; None without labels.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        """
        Raises:
            SourceError: there is no cache.
        """
        self.place = Path(place)
        self._open()

    def _open(self) -> None:
        try:
            self.images = np.load(self.place, mmap_mode="r", allow_pickle=False)
            beside = self.place.with_suffix(".labels.npy")
            self.labels = np.load(beside, allow_pickle=False) if beside.is_file() else None
        except (OSError, ValueError) as error:
            raise SourceError(f"expected a cache of dcmark view cache at {self.place}; found none") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.place = state["place"]
        self._open()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> NDArray[Any]:
        """One image, mapped."""
        image: NDArray[Any] = self.images[index]
        return image
