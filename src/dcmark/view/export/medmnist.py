"""``dcmark export medmnist``: one ``.npz`` with ``train_images``, ``train_labels``, ``val_...``, ``test_...``.

Images are uint8 (images, rows, columns[, 3]), labels (images, 1) for classes or (images, numbers) for vectors: the
layout of MedMNIST. A view without parts is all ``train``.
"""

from __future__ import annotations

import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.archive.faults import writing
from dcmark.archive.store import Archive
from dcmark.errors import UsageError
from dcmark.progress import Progress
from dcmark.view.cache import image_shape
from dcmark.view.export.base import ExportReport
from dcmark.view.export.sets import (
    Journal,
    draft_of,
    journal_of,
    one_or_three_channels,
    open_place,
    planned,
    side_file_of,
    write_set,
)
from dcmark.view.render import Item
from dcmark.view.view import View

PARTS = ("train", "val", "test")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_RUN = 4 << 20


def export_medmnist(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    view: View,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the images of a view as one ``.npz``.

    Args:
        archive: where from.
        out: the file to write; ``.npz`` is added where it is missing.
        view: with a size, 1 or 3 channels, 8 bits, labels, and parts named train, val and test (or none).
        overwrite: replace what is there.
        threads: None: one a processor.
        progress: is told of each image.

    Raises:
        UsageError, QueryError: the view does not fit, or chooses nothing.
        LabelError, LeakError: labels are missing; a person would stand in two parts.
        OutputExistsError, StorageError: the place is taken, or cannot be written.
    """
    place = Path(out)
    if place.suffix.lower() != ".npz":
        place = place.with_name(f"{place.name}.npz")
    plan = planned(archive, view, _check)
    open_place(place, folder=False, overwrite=overwrite)
    return write_set(
        plan,
        "medmnist",
        side_file_of(place, folder=False),
        lambda item: item,
        lambda: _Npz(place, view),
        journal=journal_of(place, folder=False),
        threads=threads,
        progress=progress,
    )


def _check(view: View) -> None:
    one_or_three_channels(view, "MedMNIST")
    if view.bits != 8 or view.size is None:
        raise UsageError("expected 8 bits and a size for MedMNIST; use --bits 8 --size 28 (or 64, 128, 224)")
    if not view.labels:
        raise UsageError("expected labels for MedMNIST; found none; use --labels SQL")
    if view.splits is not None and (others := {name for name, _ in view.splits.fractions} - set(PARTS)):
        raise UsageError(f"expected parts named train, val and test for MedMNIST; found {sorted(others)[0]!r}")


class _Npz:
    """Drafts of raw images, a file a part, that become one npz at the end. An interrupted export begins anew."""

    kept = 0

    def __init__(self, place: Path, view: View) -> None:
        self._place, self._view = place, view
        self._drafts = {part: place.with_name(f"{place.name}.{part}.draft") for part in PARTS}
        self._labels: dict[str, list[Any]] = {part: [] for part in PARTS}
        with writing(place):
            self._streams = {part: draft.open("wb+") for part, draft in self._drafts.items()}

    def cut(self, count: int) -> None:
        """Nothing is kept of an earlier run."""

    def add(self, number: int, encoded: Item) -> str:
        """Append an image to its part."""
        del number
        part = encoded.record.get("part", "train")
        with writing(self._place):
            self._streams[part].write(np.ascontiguousarray(encoded.image).data)
        self._labels[part].append(encoded.label if isinstance(encoded.label, tuple) else (encoded.label,))
        return self._place.name

    def flush(self) -> None:
        """Nothing: an interrupted export begins anew."""

    def finish(self, journal: Journal) -> None:
        """Put the parts into one file."""
        del journal
        draft = draft_of(self._place)
        with writing(self._place), zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for part, stream in self._streams.items():
                labels = np.array(self._labels[part])
                if not len(labels):
                    continue
                shape = (len(labels), *image_shape(self._view))
                with archive.open(zipfile.ZipInfo(f"{part}_images.npy", _EPOCH), "w", force_zip64=True) as target:
                    header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(target, header)
                    stream.seek(0)
                    while data := stream.read(_RUN):
                        target.write(data)
                with archive.open(zipfile.ZipInfo(f"{part}_labels.npy", _EPOCH), "w") as target:
                    np.lib.format.write_array(target, self._typed(labels), allow_pickle=False)
        with writing(self._place):
            self.close()
            draft.replace(self._place)

    def _typed(self, labels: NDArray[Any]) -> NDArray[Any]:
        return labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)

    def close(self) -> None:
        """Remove the drafts."""
        for part, stream in self._streams.items():
            with suppress(OSError):
                stream.close()
                self._drafts[part].unlink(missing_ok=True)
