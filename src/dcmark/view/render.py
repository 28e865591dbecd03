"""Images of a view: planned without touching a pixel, then rendered in order or at random.

    planned = plan(archive, view)
    len(planned), planned.record(0)
    planned.render(17).image                 # (rows, columns) or (rows, columns, channels)
    for item in render(archive, view, threads=2): ...

Values are averaged as what they measure, then windowed: a pixel of a smaller image is the mean of the HU it covers, not
of grey levels that a window has cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.places import Places
from dcmark.archive.store import Archive, open_archive
from dcmark.errors import DcmarkError, UnsupportedError, UsageError
from dcmark.read.display import inverted
from dcmark.read.pixels import Recipe
from dcmark.read.volume_model import FrameId
from dcmark.read.windows import AnyWindow, Window, robust_window
from dcmark.view.export.base import Selected, each_frame, select
from dcmark.view.frames import Frame, read_frames
from dcmark.view.grid import Grid, Turn, standard_turn
from dcmark.view.labels import Labels, labels_of, labels_of_frames
from dcmark.view.recipes import Recipes
from dcmark.view.split import parts_of
from dcmark.view.values import common_window
from dcmark.view.view import Percentiles, View, window_named

Array = NDArray[Any]
T = TypeVar("T")
SAMPLED = 16
"""Slices of a volume that its percentiles and its body box are found from."""
LARGEST_PICTURE = 1 << 16
"""Longest side of a frame or an image that a side file is believed, pixels."""
BODY_SHARE = 0.02
"""A row or column belongs to the body where at least this part of it is brighter than the threshold."""
BODY_HU = -500.0
_MEASURED = frozenset({"CT", "MR", "PT", "NM"})
"""Modalities whose images are not shown inverted by a Presentation LUT Shape."""
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One image of a view.

    Attributes:
        index: in the plan.
        image: (rows, columns), or (rows, columns, channels) of a view with several channels; uint8, uint16, float32.
        label: number of the class, or a vector; None without labels.
        record: where it comes from, for the side file.
    """

    index: int
    image: Array
    label: int | tuple[float, ...] | None
    record: dict[str, Any]


class _Placed:
    """A grid with what side files say of it."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.told, self.matrix = grid, grid.as_dict(), grid.to_frame()
        self.to_original = self.matrix[:2].tolist()


class Plan:
    """The images that a view has in an archive. Safe to use from threads, and to send to other processes.

    Attributes:
        archive: they come from.
        view: they are rendered by.
        chosen: the frames, in order.
        labels: of the images.
        parts: name of the part of each image; empty where the view divides nothing.
        without_frames: files of the selection that hold no picture, by what they are.
    """

    def __init__(self, archive: Archive, view: View) -> None:
        """
        Raises:
            QueryError, UsageError: an expression is refused; nothing is chosen.
            LabelError, LeakError: labels are missing; a person would stand in two parts.
        """
        self.archive, self.view = archive, view
        self._prepare()
        found, self.without_frames = select(archive, view.where, ["pixel_spacing"])
        found = self._slices(found)
        keys = [(one.sha256, one.number) for one in found]
        if view.annotated:
            names = labels_of_frames(archive, keys)
            kept = [bool(names[key]) if view.annotated == "*" else view.annotated in names[key] for key in keys]
            found = [one for one, good in zip(found, kept, strict=True) if good]
        # Classes are numbered before a part is chosen, so that they mean the same in all parts.
        labels = labels_of(archive, view.labels, [(one.sha256, one.number) for one in found])
        kept_places = list(range(len(found)))
        self.parts: tuple[str, ...] = ()
        if view.splits is not None:
            part_of = parts_of(archive, view.splits, view.where)
            kept_places = [
                place for place, one in enumerate(found) if not view.part or part_of[one.sha256] == view.part
            ]
            self.parts = tuple(part_of[found[place].sha256] for place in kept_places)
        if not kept_places:
            raise UsageError(
                "expected at least one image in the view; found none after its slices, annotations and part were "
                "chosen; loosen --where, --every, --gap-free, --annotated or --part"
            )
        self.chosen: tuple[Selected, ...] = tuple(found[place] for place in kept_places)
        self.labels: Labels = labels.chosen(kept_places) if labels.values else labels
        self._group_rows()

    def _prepare(self) -> None:
        """What is found when first needed, and not sent to other processes."""
        self._lock = Lock()
        self._recipes = Recipes(self.view.quantity)
        self._windows: dict[tuple[str, int], AnyWindow] = {}
        self._boxes: dict[str, tuple[int, int, int, int]] = {}
        self._grids: dict[tuple[str, tuple[int, ...]], _Placed] = {}
        self._places: Places | None = None

    def _group_rows(self) -> None:
        self._groups: dict[str, list[int]] = {}
        for index, one in enumerate(self.chosen):
            self._groups.setdefault(self.group(one), []).append(index)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_lock", "_recipes", "_windows", "_boxes", "_grids", "_places", "_groups"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()
        self._group_rows()

    def __len__(self) -> int:
        return len(self.chosen)

    # -- what is known without pixels ---------------------------------------------------------------

    @property
    def places(self) -> Places:
        """Where frames stand."""
        if self._places is None:
            self._places = Places(self.archive)
        return self._places

    def group(self, one: Selected) -> str:
        """What shares a window and a box: the volume, the series of frames without one, or the file."""
        found = self.places.slice_of(FrameId(one.sha256, one.number))
        return found[0].id if found else one.row["series_instance_uid"] or one.sha256

    def _slices(self, found: list[Selected]) -> list[Selected]:
        """Those of the asked-for slices of volumes."""
        view = self.view
        if view.every == 1 and not view.gap_free:
            return found
        kept, counted = [], dict[str, int]()
        for one in found:
            place = self.places.slice_of(FrameId(one.sha256, one.number))
            if view.gap_free and (place is None or place[0].grid not in ("regular", "tilted") or place[0].missing):
                continue
            if place is not None:
                number = place[1]
            else:
                group = one.row["series_instance_uid"] or one.sha256
                number = counted[group] = counted.get(group, -1) + 1
            if number % view.every == 0:
                kept.append(one)
        return kept

    @property
    def version(self) -> str:
        """Of the archive: its id and the versions of the tables that images come from."""
        tables = {name: self.archive.table(name) for name in ("files", "frames", "annotations")}
        told = ".".join(str(0 if table is None else table.version) for table in tables.values())
        return f"{self.archive.info.id}:{told}"

    @property
    def about(self) -> dict[str, Any]:
        """What the set is, for its side file."""
        about: dict[str, Any] = {
            "archive": self.archive.info.id,
            "archive_version": self.version,
            "view": self.view.as_dict(),
            "view_hash": self.view.hash,
        }
        return {**about, "labels": self.labels.as_dict()} if self.view.labels else about

    def record(self, index: int, placed: _Placed | None = None) -> dict[str, Any]:
        """Where an image comes from: file, frame, volume, and the ways from its pixels to the frame's and to mm."""
        one = self.chosen[index]
        record: dict[str, Any] = {"sha256": one.sha256, "frame": one.number}
        place = self.places.slice_of(FrameId(one.sha256, one.number))
        if place is not None:
            record |= {"volume": place[0].id, "slice": place[1]}
        if self.parts:
            record["part"] = self.parts[index]
        if self.labels.values:
            label = self.labels.values[index]
            record["label"] = list(label) if isinstance(label, tuple) else label
        if placed is not None:
            record["grid"] = placed.told
            record["to_original"] = placed.to_original
            plane = self.places.plane(FrameId(one.sha256, one.number))
            if plane is not None:
                to_mm = np.column_stack([plane.across, plane.down, plane.origin])
                record["to_patient"] = (to_mm @ placed.matrix).tolist()
        return record

    # -- images -------------------------------------------------------------------------------------

    def render(self, index: int) -> Item:
        """One image.

        Raises:
            UnsupportedError, ValueMeaningError, DecodeError, LimitError, DamageError: it cannot be given, and why.
        """
        one = self.chosen[index]
        (frame,) = read_frames(self.archive, [(one.sha256, one.number)])
        return self.item(index, frame)

    def each(
        self,
        places: Sequence[int] | None = None,
        *,
        threads: int = 1,
        work: Callable[[Item], T] = lambda one: one,  # type: ignore[assignment,return-value]
    ) -> Iterator[tuple[int, T | DcmarkError]]:
        """(index, what ``work`` makes of the image) in order, an error in the place of those that cannot be given.

        Args:
            places: which, in this order; None: all.
            threads: that render and work.
        """
        wanted = range(len(self)) if places is None else places
        chosen = [self.chosen[place] for place in wanted]

        def made(at: int, frame: Frame) -> T:
            return work(self.item(wanted[at], frame))

        for at, found in each_frame(self.archive, chosen, made, threads=threads):
            yield wanted[at], found

    def item(self, index: int, frame: Frame) -> Item:
        """The image of a frame that was read already; errors as for ``render``."""
        one = self.chosen[index]
        stored_colour = frame.stored.ndim == 3 or frame.file.layout.photometric == "PALETTE COLOR"
        placed = self._placed(one, frame)
        grid = placed.grid
        level = self._colours(frame, grid) if stored_colour else self._greys(one, frame, grid)
        if self.view.channels == 1:
            level = level[..., 0]
        label = self.labels.values[index] if self.labels.values else None
        return Item(index, self._quantised(level), label, self.record(index, placed))

    def _quantised(self, level: NDArray[np.float32]) -> Array:
        bits = self.view.bits
        if bits == 32:
            if self.view.windows:
                level[np.isnan(level)] = self.view.background
            return level
        top = (1 << bits) - 1
        level[np.isnan(level)] = self.view.background
        image: Array = (level * top + np.float32(0.5)).astype(np.uint8 if bits == 8 else np.uint16)
        return image

    def _greys(self, one: Selected, frame: Frame, grid: Grid) -> NDArray[np.float32]:
        recipe = self._recipes.of(frame.file, frame.number)
        values = _sampled_values(recipe, frame.stored, grid)
        if not self.view.windows:
            return np.repeat(values[..., None], self.view.channels, axis=-1)
        flip = inverted(frame.dataset) if one.row["modality"] not in _MEASURED else (
            frame.file.layout.photometric == "MONOCHROME1"
        )  # fmt: skip
        channels = []
        for number in range(len(self.view.windows)):
            window = self._window(one, number, recipe.scale.quantity)
            level = _level(window, values)
            channels.append(1 - level if flip else level)
        if self.view.colour and len(channels) == 1:
            channels *= 3
        if len(channels) != self.view.channels:
            raise UsageError(f"expected one window or three for colour images; found {len(channels)}")
        return np.stack(channels, axis=-1)

    def _colours(self, frame: Frame, grid: Grid) -> NDArray[np.float32]:
        shown = frame.display(bits=16)
        level = grid.sample(shown.astype(np.float32) / 65535)
        if self.view.colour:
            return level
        grey = (level @ _LUMA)[..., None].astype(np.float32)
        return np.repeat(grey, self.view.channels, axis=-1)

    # -- windows --------------------------------------------------------------------------------------

    def _window(self, one: Selected, channel: int, quantity: str) -> AnyWindow:
        asked = window_named(self.view.windows[channel])
        if isinstance(asked, Window):
            if asked.explanation and quantity != "hu":
                raise UnsupportedError(
                    f"expected values in HU for the window {asked.explanation}; found {quantity}; use CENTRE/WIDTH, "
                    "pLOW-HIGH or header"
                )
            return asked
        group = self.group(one)
        with self._lock:
            if (group, channel) not in self._windows:
                self._windows[group, channel] = self._found_window(group, asked)
        return self._windows[group, channel]

    def _found_window(self, group: str, asked: Percentiles | None) -> AnyWindow:
        keys = self._sampled(group)
        if asked is None:
            found = common_window(self.archive, keys)
            return cast("AnyWindow", found) or Window(0.5, 1.0, "LINEAR_EXACT")  # colours have none
        values = []
        for frame in read_frames(self.archive, keys):
            if frame.stored.ndim == 2:
                values.append(self._recipes.of(frame.file, frame.number).apply(frame.stored).values)
        return robust_window(values, asked.low, asked.high)

    def _sampled(self, group: str) -> list[tuple[str | bytes, int]]:
        """Frames of a group to look at: of the whole volume, so that a part of it gets the same window."""
        volume = self.places.volumes.get(group)
        keys: list[tuple[str | bytes, int]]
        if volume is not None:
            keys = [(frame.file, frame.frame) for frame in volume.frames]
        else:
            keys = [(self.chosen[place].sha256, self.chosen[place].number) for place in self._groups[group]]
        return keys[:: -(-len(keys) // SAMPLED)]

    # -- geometry -------------------------------------------------------------------------------------

    def _placed(self, one: Selected, frame: Frame) -> _Placed:
        """The grid of a frame; that of a volume is found once."""
        if self.places.slice_of(FrameId(one.sha256, one.number)) is None:
            return _Placed(self.grid(one, frame))
        key = (self.group(one), frame.stored.shape[:2])
        found = self._grids.get(key)
        if found is None:
            found = self._grids[key] = _Placed(self.grid(one, frame))
        return found

    def grid(self, one: Selected, frame: Frame) -> Grid:
        """Where the pixels of a frame's image lie.

        Raises:
            UnsupportedError: the view asks for millimetres and the frame has none.
        """
        view = self.view
        shape = cast("tuple[int, int]", frame.stored.shape[:2])
        plane = self.places.plane(FrameId(one.sha256, one.number))
        turn = Turn()
        if view.orientation == "standard" and plane is not None:
            turn = standard_turn(plane.across / np.linalg.norm(plane.across), plane.down / np.linalg.norm(plane.down))
        spacing = plane.spacing if plane is not None else _spacing(one)
        if spacing is None and (view.spacing is not None or view.crop_mm is not None):
            raise UnsupportedError(
                "expected the pixel spacing of a frame, for the view is in mm; the file gives none; leave such files "
                "out, or use --size without --spacing and --crop-mm"
            )
        rows, columns = turn.shape(shape)
        down, across = spacing or (1.0, 1.0)
        if turn.transpose:
            down, across = across, down
        top, left, height, width = 0.0, 0.0, float(rows), float(columns)
        if view.crop == "body":
            box = self._body(one, frame)
            top, left, height, width = _turned_box(box, turn, shape)
        middle = (top + height / 2, left + width / 2)
        if view.crop_mm is not None:
            height, width = view.crop_mm[0] / down, view.crop_mm[1] / across
        if view.spacing is not None:
            step = (view.spacing / down, view.spacing / across)
        elif view.size is not None:
            mm = max(height * down / view.size[0], width * across / view.size[1])
            step = (mm / down, mm / across)
        else:
            step = (1.0, 1.0)
        step = (_rounded(step[0]), _rounded(step[1]))
        image = view.size or (max(1, round(height / step[0])), max(1, round(width / step[1])))
        start = tuple(_rounded(middle[axis] - step[axis] * image[axis] / 2) for axis in (0, 1))
        if view.size is None and view.spacing is None:
            start = (float(round(start[0])), float(round(start[1])))  # whole pixels stay whole
        return Grid(shape, image, cast("tuple[float, float]", start), step, turn)

    def _body(self, one: Selected, frame: Frame) -> tuple[int, int, int, int]:
        group = self.group(one)
        with self._lock:
            if group not in self._boxes:
                self._boxes[group] = self._found_body(group, cast("tuple[int, int]", frame.stored.shape[:2]))
        return self._boxes[group]

    def _found_body(self, group: str, shape: tuple[int, int]) -> tuple[int, int, int, int]:
        """(first row, first column, rows, columns) of the box around what is not background, over a sample of slices.

        What is above -500 HU, or a tenth of the way from the least to the 99th percentile of other quantities; rows and
        columns that only a few bright pixels reach (a table, a letter) do not count.
        """
        whole = np.zeros(shape, bool)
        for found in read_frames(self.archive, self._sampled(group)):
            if found.stored.ndim != 2 or found.stored.shape != shape:
                continue
            recipe = self._recipes.of(found.file, found.number)
            values = recipe.apply(found.stored).values
            good = values[np.isfinite(values)]
            if not good.size:
                continue
            low, high = float(good.min()), float(np.percentile(good, 99))
            threshold = BODY_HU if recipe.scale.quantity == "hu" else low + (high - low) / 10
            with np.errstate(invalid="ignore"):
                whole |= values > threshold
        rows = np.flatnonzero(whole.mean(axis=1) > BODY_SHARE)
        columns = np.flatnonzero(whole.mean(axis=0) > BODY_SHARE)
        if not rows.size or not columns.size:
            return 0, 0, *shape
        first = int(rows[0]), int(columns[0])
        return *first, int(rows[-1]) + 1 - first[0], int(columns[-1]) + 1 - first[1]


def _sampled_values(recipe: Recipe, stored: Array, grid: Grid) -> NDArray[np.float32]:
    """Means of physical values on a grid.

    The mean of a linear function is the function of the mean: 16-bit frames are sampled as they are stored, where none
    of their pixels is padding.
    """
    linear = recipe.scale.linear
    small = stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2
    hidden = any(bool(((stored >= low) & (stored <= high)).any()) for low, high in recipe.padding)
    if linear is None or not small or hidden:
        values = np.empty(stored.shape, np.float32)
        recipe.fill(stored, values)
        return grid.sample(values)
    slope, intercept = linear
    values = grid.sample(stored)
    if slope != 1:
        values *= np.float32(slope)
    values += np.float32(intercept)
    return values


def _level(window: AnyWindow, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Brightness, 0 to 1, in float32 where the window is a straight line."""
    if isinstance(window, Window) and window.function != "SIGMOID":
        low, high = window.bounds
        if high > low:
            level = values - np.float32(low)
            level *= np.float32(1 / (high - low))
            return np.clip(level, 0, 1, out=level)
    return window.apply(values).astype(np.float32)


def _rounded(value: float) -> float:
    """Without the last digits, which differ between ways to compute the same."""
    return float(f"{value:.10g}")


def _spacing(one: Selected) -> tuple[float, float] | None:
    found = one.row.get("pixel_spacing")
    return (found[0], found[1]) if found and len(found) == 2 and min(found) > 0 else None


def _turned_box(
    box: tuple[int, int, int, int], turn: Turn, frame: tuple[int, int]
) -> tuple[float, float, float, float]:
    top, left, height, width = box
    if turn.transpose:
        top, left, height, width = left, top, width, height
    rows, columns = turn.shape(frame)
    if turn.flip_rows:
        top = rows - top - height
    if turn.flip_columns:
        left = columns - left - width
    return float(top), float(left), float(height), float(width)


def plan(archive: Archive | str | os.PathLike[str], view: View) -> Plan:
    """The images that a view has in an archive; errors as for ``Plan``."""
    return Plan(archive if isinstance(archive, Archive) else open_archive(archive), view)


def render(archive: Archive | str | os.PathLike[str], view: View, *, threads: int = 1) -> Iterator[Item]:
    """All images of a view in order; memory holds a few at a time.

    Raises:
        DcmarkError: an image cannot be given; those before it were.
    """
    for _, found in plan(archive, view).each(threads=threads):
        if isinstance(found, DcmarkError):
            raise found
        yield found
