"""``dcmark export shards``: ``.npy`` stacks of a thousand images each, and ``items.csv``.

A stack is (images, rows, columns[, channels]) of the view's depth, read with ``numpy.load(..., mmap_mode="r")``. The
table says for every image its stack, index, label, part, file and frame.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.archive.faults import writing
from dcmark.archive.store import Archive
from dcmark.errors import UsageError
from dcmark.progress import Progress
from dcmark.view.export.base import ExportReport
from dcmark.view.export.sets import Journal, journal_of, open_place, planned, side_file_of, write_set
from dcmark.view.export.shards import PER_SHARD, Shards
from dcmark.view.labels import Labels
from dcmark.view.view import View

TABLE = "items.csv"


def export_shards(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    view: View,
    per_shard: int = PER_SHARD,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the images of a view as ``.npy`` stacks into a folder, with a table.

    Args:
        archive: where from.
        out: folder to write.
        view: with a size, so that all images are alike.
        per_shard: images of a stack.
        overwrite: write into a folder that holds something.
        threads: None: one a processor.
        progress: is told of each image.

    Raises:
        UsageError, QueryError: the view does not fit, or chooses nothing.
        LabelError, LeakError: labels are missing; a person would stand in two parts.
        OutputExistsError, StorageError: the place is taken, or cannot be written.
    """
    place = Path(out)
    plan = planned(archive, view, _check)
    open_place(place, folder=True, overwrite=overwrite)
    return write_set(
        plan,
        "shards",
        side_file_of(place, folder=True),
        lambda item: item.image,
        lambda: _Stacks(place, plan.labels, per_shard),
        journal=journal_of(place, folder=True),
        threads=threads,
        progress=progress,
    )


def _check(view: View) -> None:
    if view.size is None:
        raise UsageError("expected a size, so that all images of a stack are alike; found none; use --size 256")


class _Stacks(Shards):
    """Stacks, each held in memory until it is full."""

    def __init__(self, place: Path, labels: Labels, per_shard: int) -> None:
        super().__init__(place, "{}.npy", per_shard)
        self._labels = labels
        self._images: list[NDArray[Any]] = []

    def begin(self, draft: Path) -> None:
        """Open a stack."""
        self._draft = draft

    def put(self, number: int, encoded: NDArray[Any]) -> None:
        """Keep an image."""
        del number
        self._images.append(encoded)

    def end(self) -> None:
        """Write it."""
        with self._draft.open("wb") as stream:
            np.save(stream, np.stack(self._images), allow_pickle=False)
        self._images = []

    def finish(self, journal: Journal) -> None:
        """Complete the last stack and the table."""
        super().finish(journal)
        with writing(self.folder), (self.folder / TABLE).open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["stack", "index", "label", "class", "part", "volume", "slice", "sha256", "frame"])
            for number, one in enumerate(journal.records()):
                label = one.get("label", "")
                name = self._labels.classes[label] if self._labels.classes else ""
                told = [one.get(key, "") for key in ("part", "volume", "slice", "sha256", "frame")]
                table.writerow([one["item"], number % self.per_shard, label, name, *told])
