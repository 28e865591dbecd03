"""``dcmark export webdataset``: tar shards that are read as a stream.

A sample is ``KEY.png``, ``KEY.json`` (its record) and, where there are labels, ``KEY.cls`` (the class) or
``KEY.vec.json`` (the vector). Images of 32 bits are ``KEY.npy``.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from dcmark.archive.store import Archive
from dcmark.errors import UsageError
from dcmark.progress import Progress
from dcmark.view.export.base import ExportReport
from dcmark.view.export.sets import journal_of, open_place, planned, side_file_of, write_set
from dcmark.view.export.shards import PER_SHARD, Shards
from dcmark.view.export.stylegan3 import png
from dcmark.view.render import Item
from dcmark.view.view import View

Members = list[tuple[str, bytes]]


def export_webdataset(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    view: View,
    per_shard: int = PER_SHARD,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the images of a view as tar shards into a folder.

    Args:
        archive: where from.
        out: folder to write.
        view: of 1 or 3 channels, or any number with 32 bits.
        per_shard: samples of a shard.
        overwrite: write into a folder that holds something.
        threads: None: one a processor.
        progress: is told of each image.

    Raises:
        UsageError, QueryError: the view does not fit, or chooses nothing.
        LabelError, LeakError: labels are missing; a person would stand in two parts.
        OutputExistsError, StorageError: the place is taken, or cannot be written.
    """
    place = Path(out)
    plan = planned(archive, view, picture_fits)
    open_place(place, folder=True, overwrite=overwrite)
    return write_set(
        plan,
        "webdataset",
        side_file_of(place, folder=True),
        members,
        lambda: _Tars(place, "{}.tar", per_shard),
        journal=journal_of(place, folder=True),
        threads=threads,
        progress=progress,
    )


def picture_fits(view: View) -> None:
    """Refuse what PNG cannot hold.

    Raises:
        UsageError: another number of channels than 1 or 3 in 8 or 16 bits.
    """
    if view.bits != 32 and view.channels not in (1, 3):
        raise UsageError(f"expected 1 or 3 channels for PNG; found {view.channels} windows; use --bits 32")


def picture(item: Item) -> tuple[str, bytes]:
    """Suffix and bytes of an image as a file."""
    if item.image.dtype.kind == "u":
        return "png", png(item.image)
    stream = io.BytesIO()
    np.save(stream, item.image, allow_pickle=False)
    return "npy", stream.getvalue()


def members(item: Item) -> Members:
    """The files of a sample: suffix and bytes."""
    found = [picture(item), ("json", json.dumps(item.record).encode())]
    if isinstance(item.label, tuple):
        found.append(("vec.json", json.dumps(item.label).encode()))
    elif item.label is not None:
        found.append(("cls", str(item.label).encode()))
    return found


class _Tars(Shards):
    """Tar files, the same bytes for the same samples."""

    def begin(self, draft: Path) -> None:
        """Open a shard."""
        self._tar = tarfile.open(draft, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  closed by end()

    def put(self, number: int, encoded: Members) -> None:
        """Write the files of a sample one behind the other."""
        for suffix, data in encoded:
            info = tarfile.TarInfo(f"{number:08d}.{suffix}")
            info.size, info.mode = len(data), 0o644
            self._tar.addfile(info, io.BytesIO(data))

    def end(self) -> Any:
        """Complete it."""
        self._tar.close()
