"""``dcmark export pairs``: images and masks side by side, for segmentation.

``images/00000000.png`` and ``masks/00000000.png``; in a mask 0 is background and the classes are numbered by name, in
``classes.json``. Where regions overlap, the class that comes later in the list counts. Masks are sampled by the nearest
pixel on the grid of their image.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.log import Log
from dcmark.annotate.masks import MaskPlane
from dcmark.annotate.model import Annotation
from dcmark.annotate.raster import regions
from dcmark.archive.faults import writing
from dcmark.archive.store import Archive
from dcmark.errors import UsageError
from dcmark.progress import Progress
from dcmark.read.volume_model import FrameId
from dcmark.view.export.base import ExportReport
from dcmark.view.export.sets import Journal, journal_of, open_place, planned, side_file_of, write_set
from dcmark.view.export.stylegan3 import png
from dcmark.view.export.webdataset import picture, picture_fits
from dcmark.view.grid import Grid, Turn
from dcmark.view.render import Item
from dcmark.view.view import View

CLASSES = "classes.json"
MOST_CLASSES = 255
_REGIONS = frozenset({"mask", "polygon", "freehand", "ellipse", "box"})


def export_pairs(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    view: View,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the images of a view and a mask of classes for each.

    Args:
        archive: where from.
        out: folder to write.
        view: of 1 or 3 channels; with ``annotated`` a label, only its regions are drawn.
        overwrite: write into a folder that holds something.
        threads: None: one a processor.
        progress: is told of each image.

    Raises:
        UsageError, QueryError: the view does not fit, chooses nothing, or nothing is annotated.
        LabelError, LeakError: labels are missing; a person would stand in two parts.
        OutputExistsError, StorageError: the place is taken, or cannot be written.
    """
    place = Path(out)
    plan = planned(archive, view, picture_fits)
    drawn = Drawn(archive, view.annotated if view.annotated != "*" else "")
    open_place(place, folder=True, overwrite=overwrite)

    def encode(item: Item) -> tuple[str, bytes, bytes]:
        suffix, data = picture(item)
        return suffix, data, png(drawn.mask(item))

    return write_set(
        plan,
        "pairs",
        side_file_of(place, folder=True),
        encode,
        lambda: _Pairs(place, drawn.classes),
        journal=journal_of(place, folder=True),
        about={"classes": drawn.classes},
        threads=threads,
        progress=progress,
    )


class Drawn:
    """Masks of classes from the regions that stand in the log now; rejected ones do not count.

    Attributes:
        classes: number of each label, from 1, by name.
    """

    def __init__(self, archive: Archive, label: str = "") -> None:
        """
        Args:
            label: only this; empty: all.

        Raises:
            UsageError: there is no region, or there are more than 255 labels.
        """
        found = [
            one
            for one in Log(archive).state().annotations()
            if one.kind in _REGIONS and one.status != "rejected" and label in ("", one.label.name)
        ]
        names = sorted({one.label.name for one in found})
        if not 1 <= len(names) <= MOST_CLASSES:
            raise UsageError(
                f"expected regions of 1 to {MOST_CLASSES} labels for masks; found {len(names)}; annotate some, import "
                "them, or choose a label with --annotated"
            )
        self.classes: Mapping[str, int] = {name: number for number, name in enumerate(names, 1)}
        self._of_frame: dict[FrameId, list[tuple[int, Annotation | MaskPlane]]] = defaultdict(list)
        for one in sorted(found, key=lambda one: (self.classes[one.label.name], one.id)):
            number = self.classes[one.label.name]
            for plane in one.mask:
                self._of_frame[plane.frame].append((number, plane))
            for frame in {contour.frame for contour in one.contours if contour.frame is not None}:
                own = tuple(contour for contour in one.contours if contour.frame == frame)
                self._of_frame[frame].append((number, replace(one, contours=own)))

    def mask(self, item: Item) -> NDArray[np.uint8]:
        """(rows, columns) of the image of an item: 0, or the number of a class."""
        told = item.record["grid"]
        grid = Grid(
            tuple(told["frame"]), tuple(told["image"]), tuple(told["start"]), tuple(told["step"]), Turn(*told["turn"])
        )
        frame = FrameId(item.record["sha256"], item.record["frame"])
        whole = np.zeros(grid.frame, np.uint8)
        for number, region in self._of_frame.get(frame, ()):
            if isinstance(region, MaskPlane):
                whole[region.binary()] = number
            else:
                whole[regions(region, lambda _: grid.frame)[frame]] = number
        return grid.nearest(whole)


class _Pairs:
    """Two folders of files; whole pairs of an earlier run are kept."""

    def __init__(self, place: Path, classes: Mapping[str, int]) -> None:
        self._place, self._classes = place, classes
        with writing(place):
            for name in ("images", "masks"):
                (place / name).mkdir(exist_ok=True)
        # Masks are written second: where one stands under its name, its image does too.
        self.kept = 0
        while (place / "masks" / f"{self.kept:08d}.png").is_file():
            self.kept += 1

    def cut(self, count: int) -> None:
        """Drop all behind the first pairs."""
        self.kept = count
        with writing(self._place):
            for folder in ("images", "masks"):
                for file in (self._place / folder).iterdir():
                    if not file.stem.isdigit() or int(file.stem) >= count:
                        file.unlink()

    def add(self, number: int, encoded: tuple[str, bytes, bytes]) -> str:
        """Write a pair."""
        suffix, image, mask = encoded
        name = f"images/{number:08d}.{suffix}"
        with writing(self._place):
            _write(self._place / name, image)
            _write(self._place / "masks" / f"{number:08d}.png", mask)
        return name

    def flush(self) -> None:
        """Nothing: every file is closed."""

    def finish(self, journal: Journal) -> None:
        """The names of the classes."""
        del journal
        about: dict[str, Any] = {"background": 0, **self._classes}
        with writing(self._place):
            (self._place / CLASSES).write_text(json.dumps(about, indent=1) + "\n", "utf-8")

    def close(self) -> None:
        """Nothing is open."""


def _write(place: Path, data: bytes) -> None:
    draft = place.with_name(f"{place.stem}.part")
    draft.write_bytes(data)
    draft.replace(place)
