"""Pictures that were made from frames: their names, and where their pixels lie on the frames.

Annotation tools for pictures know names and pixels only. An export of dcmark has ``view.json`` beside it, which says
for every picture which frame it shows and how its pixels map back. Without one a picture is the frame itself, named
by the SHA-256 of its file and the number of the frame.

In the files of such tools x counts columns and y rows from the **corner** of the first pixel; here points are
(row, column) with whole numbers at **centres**, so half a pixel is added on the way out and taken off on the way in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.model import Points
from dcmark.annotate.places import Places
from dcmark.errors import LimitError, SourceError, UnsupportedError, UsageError
from dcmark.read.volume_model import FrameId

VIEW_FILE = "view.json"
LARGEST_VIEW = 1 << 30
_OWN = re.compile(r"([0-9a-f]{64})(?:_(\d{1,9}))?")
_SUFFIX = re.compile(r"\.(png|jpe?g|tiff?|bmp|webp|dcm|dicom|ima|txt|xml|json)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture of a frame.

    Attributes:
        name: of its file, ``/`` between folders.
        frame: it shows.
        height, width: pixels; 0 where not known.
        to_frame: 2 x 3, (column, row, 1) of the picture to (column, row) of the frame, centres at whole numbers.
    """

    name: str
    frame: FrameId
    height: int
    width: int
    to_frame: NDArray[np.float64]

    @property
    def identity(self) -> bool:
        """Are pixels of the picture those of the frame?"""
        return bool(np.allclose(self.to_frame, [[1, 0, 0], [0, 1, 0]]))

    def from_corner(self, points: Sequence[Sequence[float]] | NDArray[Any]) -> Points:
        """(x, y) from the corner of the picture to (row, column) of the frame."""
        found = np.asarray(points, np.float64).reshape(-1, 2) - 0.5
        x, y = (self.to_frame @ np.column_stack([found, np.ones(len(found))]).T).tolist()
        return tuple(zip(y, x, strict=True))

    def to_corner(self, points: Sequence[Sequence[float]]) -> NDArray[np.float64]:
        """(row, column) of the frame to (x, y) from the corner of the picture, (n, 2)."""
        found = np.asarray(points, np.float64).reshape(-1, 2)[:, ::-1]
        turn, shift = self.to_frame[:, :2], self.to_frame[:, 2]
        return np.asarray((found - shift) @ np.linalg.inv(turn).T + 0.5)

    def mask_to_picture(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the frame on the pixels of the picture (nearest centre)."""
        if self.identity:
            return mask
        y, x = np.mgrid[: self.height, : self.width]
        column, row = np.rint(np.einsum("ij,j...->i...", self.to_frame, np.stack([x, y, np.ones_like(x)]))).astype(int)
        inside = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
        out = np.zeros((self.height, self.width), bool)
        out[inside] = mask[row[inside], column[inside]]
        return out

    def mask_to_frame(self, mask: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
        """A mask of the picture on the pixels of the frame (nearest centre)."""
        if self.identity and mask.shape == (rows, columns):
            return mask
        turn = np.linalg.inv(self.to_frame[:, :2])
        row, column = np.mgrid[:rows, :columns]
        shifted = np.stack([column, row]) - self.to_frame[:, 2].reshape(2, 1, 1)
        x, y = np.rint(np.einsum("ij,j...->i...", turn, shifted)).astype(int)
        inside = (y >= 0) & (y < mask.shape[0]) & (x >= 0) & (x < mask.shape[1])
        out = np.zeros((rows, columns), bool)
        out[inside] = mask[y[inside], x[inside]]
        return out


class Pictures:
    """Pictures by name and by frame."""

    def __init__(self, places: Places, view: Path | None) -> None:
        self.places, self.view = places, view

    def of_frame(self, frame: FrameId, suffix: str = ".png") -> Picture:
        """The picture of a frame.

        Raises:
            UsageError: the export has none of it.
        """
        if self.view is not None:
            found = self._by_frame.get(frame)
            if found is None:
                raise UsageError("expected a picture of every annotated frame in the export, found none of one frame")
            return self._sized(found)
        rows, columns = self.places.size(frame)
        return Picture(f"{frame.file}_{frame.frame:04}{suffix}", frame, rows, columns, _identity())

    def named(self, name: str) -> Picture | None:
        """The picture of a name, of the end of a name, or without its suffix; None where there is none or several."""
        name = name.replace("\\", "/").split("?")[0]
        last = name.rpartition("/")[2]
        # Tools put a prefix before the names of uploaded files: "1a2b3c4d-name.png".
        tries = [name, last, last.partition("-")[2] if re.match(r"[0-9a-f]{8}-", last) else ""]
        if self.view is not None:
            for one in tries:
                for key in (one, _SUFFIX.sub("", one)):
                    found = self._by_name.get(key, []) if key else []
                    if len(found) == 1:
                        return self._sized(found[0])
            return None
        for one in tries:
            own = _OWN.fullmatch(_SUFFIX.sub("", one))
            if own:
                return self._plain(own[1], int(own[2] or 0))
        for one in tries:
            files = self.places.by_path.get(one, [])
            if len(set(files)) == 1:
                return self._plain(files[0], 0)
        return None

    def expect(self, name: str, file: str, place: str) -> Picture:
        """As ``named``; raises UsageError where there is none."""
        found = self.named(name)
        if found is None:
            raise UsageError(
                f"{file}, {place}: expected the name of a picture of the archive or of the export given by --view, "
                "found one that is neither, or of several pictures"
            )
        return found

    def _plain(self, file: str, frame: int) -> Picture | None:
        try:
            row = self.places.file(file)
        except UsageError:
            return None
        if not 0 <= frame < max(1, row["frames"] or 0):
            return None
        return Picture(file, FrameId(file, frame), int(row["rows"] or 0), int(row["columns"] or 0), _identity())

    def _sized(self, picture: Picture) -> Picture:
        """With its size, by the picture itself or by the frame it shows."""
        if picture.height:
            return picture
        height, width = self._real_size(picture)
        return Picture(picture.name, picture.frame, height, width, picture.to_frame)

    def _real_size(self, picture: Picture) -> tuple[int, int]:
        assert self.view is not None
        folder = self.view if self.view.is_dir() else self.view.parent
        place = folder / picture.name
        if place.is_file() and place.resolve().is_relative_to(folder.resolve()):
            from PIL import Image

            with Image.open(place) as image:
                return image.height, image.width
        if picture.identity:
            return self.places.size(picture.frame)
        raise UnsupportedError(f"expected the pictures of the export beside {VIEW_FILE}, found them gone")

    @cached_property
    def _listed(self) -> list[Picture]:
        assert self.view is not None
        place = self.view / VIEW_FILE if self.view.is_dir() else self.view
        if not place.is_file():
            raise UsageError(f"expected {VIEW_FILE} of an export at {self.view}, found none; check --view")
        if place.stat().st_size > LARGEST_VIEW:
            raise LimitError(f"expected {VIEW_FILE} of at most {LARGEST_VIEW} bytes, found more")
        try:
            items = json.loads(place.read_text("utf-8"))["items"]
            return [_picture(one) for one in items]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SourceError(
                f"{place.name}: expected the side file of an export of dcmark, found something else"
            ) from error

    @cached_property
    def _by_frame(self) -> dict[FrameId, Picture]:
        return {one.frame: one for one in self._listed}

    @cached_property
    def _by_name(self) -> dict[str, list[Picture]]:
        found: dict[str, list[Picture]] = {}
        for one in self._listed:
            last = one.name.rpartition("/")[2]
            for key in {one.name, last, _SUFFIX.sub("", one.name), _SUFFIX.sub("", last)}:
                found.setdefault(key, []).append(one)
        return found


def _identity() -> NDArray[np.float64]:
    return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def _picture(item: dict[str, Any]) -> Picture:
    matrix = np.array(item.get("to_original", _identity().tolist()), np.float64)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-9:
        raise ValueError("to_original")
    if not re.fullmatch("[0-9a-f]{64}", item["sha256"]):
        raise ValueError("sha256")
    return Picture(str(item["item"]), FrameId(item["sha256"], int(item["frame"])), 0, 0, matrix)
