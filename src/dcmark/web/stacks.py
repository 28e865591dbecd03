"""Stacks to be looked at: their geometry and scale, and their frames as the page gets them.

Grey frames are 16-bit whole numbers: the stored values wherever these are such and a slope and an intercept give their
meaning; else physical values, brought to 65,536 steps between the lowest and the highest of the stack.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.model import Level, Target
from dcmark.archive.assemble import frame_part
from dcmark.archive.volumes import StoredVolume
from dcmark.errors import DcmarkError, UnsupportedError, UsageError, ValueMeaningError
from dcmark.read.attributes import number, word
from dcmark.read.display import display, inverted
from dcmark.read.pixels import Recipe, quantities
from dcmark.read.scales import STORED
from dcmark.read.volume_model import FrameId
from dcmark.read.windows import Window, robust_window, windows
from dcmark.view.files import StoredFile, stored_files
from dcmark.view.frames import Frame, frame, map_frames, read_frames
from dcmark.view.recipes import Recipes
from dcmark.view.values import common_window
from dcmark.view.volumes import stored_values
from dcmark.web.catalogue import Item, Snapshot
from dcmark.web.limits import LIMITS

if TYPE_CHECKING:
    from pydicom import Dataset

Array = NDArray[Any]
EXACT_PIXELS = 1 << 28
"""Pixels of a stack up to which its range is found from all of them."""
SAMPLED = 32
THREADS = 2
STEPS = 65535
THUMBNAIL = 128


@dataclass(frozen=True, slots=True)
class Scale:
    """What the numbers sent mean: number x slope + intercept, by slice."""

    quantity: str
    unit: str
    slopes: tuple[tuple[float, float], ...]
    exact: bool
    """The numbers are the stored ones."""


class Stack:
    """Frames of one size in order; made when first looked at. Safe to use from many threads.

    Args:
        item: of the list of work.
        snapshot: it is in.

    Raises:
        UsageError: it is not there any more.
    """

    def __init__(self, item: Item, snapshot: Snapshot) -> None:
        self.item, self.snapshot, self.archive = item, snapshot, snapshot.archive
        self.rows, self.columns = item.rows, item.columns
        self.volume: StoredVolume | None = None
        if item.kind == "volume":
            self.volume = snapshot.volume(item.id)
            self.frames: Sequence[FrameId] = self.volume.frames
        else:
            self.frames = [FrameId(file, number) for file, count in item.runs for number in range(count)]
        self._lock = Lock()
        self._detached: Array | None = None
        self._recipes = Recipes()

    @cached_property
    def index(self) -> Mapping[FrameId, int]:
        """Number of each frame."""
        return {FrameId(*one): k for k, one in enumerate(self.frames)}

    def target(self, level: Level, frames: Sequence[FrameId]) -> Target:
        """Of an annotation on frames of this stack."""
        item = self.item
        if level == "volume" and self.volume is None:
            level = "series" if item.series and len(item.runs) > 1 else "instance"
        one = frames[0] if len(set(frames)) == 1 and level in ("instance", "frame", "region") else None
        if level == "instance" and one is None and len(item.runs) == 1:
            one = FrameId(item.runs[0][0], 0)
        if level in ("instance", "frame") and one is None:
            raise UsageError(f"expected one slice for an annotation of level {level!r}, found none or several")
        return Target(
            level,
            item.person,
            item.study if level != "patient" else "",
            item.series if level not in ("patient", "study") else "",
            item.id if self.volume is not None and level not in ("patient", "study", "series") else "",
            one.file if one is not None else "",
            one.frame if one is not None and level != "instance" else None,
        )

    # -- what it is -------------------------------------------------------------------------------

    @cached_property
    def file(self) -> StoredFile:
        """The file of the middle frame."""
        name = self.frames[len(self.frames) // 2].file
        return stored_files(self.archive, [name])[bytes.fromhex(name)]

    @cached_property
    def colour(self) -> bool:
        """Are frames sent as red, green and blue?"""
        if self._apart:
            return self._whole.ndim == 4
        return self.file.layout.samples > 1 or word(self.file.dataset, "PhotometricInterpretation") == "PALETTE COLOR"

    @cached_property
    def scale(self) -> Scale:
        """What the numbers mean.

        Raises:
            UnsupportedError, DamageError: frames cannot be read.
        """
        count = len(self.frames)
        if self.colour:
            return Scale("colour", "1", ((1.0, 0.0),) * count, True)
        if not self._apart and self.file.layout.number == "int" and self.file.layout.bits_allocated <= 16:
            try:
                return self._linear([self._recipe(one) for one in self._files()])
            except ValueMeaningError:
                return Scale("stored", "1", ((1.0, 0.0),) * count, True)
        low, high, quantity, unit = self._range
        slope = (high - low) / STEPS or 1.0
        return Scale(quantity, unit, ((slope, low),) * count, False)

    def _linear(self, recipes: Sequence[Recipe]) -> Scale:
        first = recipes[0].scale
        lines = [one.scale.linear for one in recipes]
        if any((one.scale.quantity, one.scale.unit) != (first.quantity, first.unit) for one in recipes):
            raise ValueMeaningError("expected one quantity in all slices, found several")
        if all(line is not None and line[0] and all(map(math.isfinite, line)) for line in lines):
            return Scale(first.quantity, first.unit, tuple(line for line in lines if line is not None), True)
        low, high, quantity, unit = self._range
        return Scale(quantity, unit, (((high - low) / STEPS or 1.0, low),) * len(lines), False)

    @cached_property
    def info(self) -> dict[str, Any]:
        """All that the page is told before it asks for frames."""
        item, scale, row, header = self.item, self.scale, self.file.row, self.file.dataset
        affine = None
        if self.volume is not None and self.volume.affine is not None:
            affine = self.volume.affine[:, [2, 1, 0, 3]].tolist()
        shown = self.window
        named = [] if self.colour or not scale.exact or item.modality == "PT" else self._named_windows()
        middle = scale.slopes[len(scale.slopes) // 2]
        return {
            "id": item.id, "modality": item.modality, "patient": item.patient, "description": item.description,
            "unit": scale.unit, "quantity": scale.quantity, "rows": self.rows, "columns": self.columns,
            "frames": len(self.frames), "bits": 8 if self.colour else 16,
            "signed": not self.colour and scale.exact and self.file.layout.signed, "colour": self.colour,
            "slope": middle[0], "intercept": middle[1], "windows": named,
            "window": None if shown is None else {"center": shown.centre, "width": shown.width},
            "affine": affine, "spacing": None if item.spacing is None else list(item.spacing),
            "frame_of_reference": self._text("FrameOfReferenceUID") or None, "fps": self._fps(),
            "photometric": str(row["photometric_interpretation"] or ""),
            "inverted": not self.colour and inverted(header), "slices": self._slices(),
            "findings": [one.as_dict() for one in self.volume.findings] if self.volume is not None else [],
        }  # fmt: skip

    @cached_property
    def window(self) -> Window | None:
        """Centre and width to begin with, in the unit of the scale; None for colours."""
        if self.colour:
            return None
        chosen: Any = None
        if self.scale.exact and self.item.modality != "PT":
            with suppress(DcmarkError):
                chosen = common_window(self.archive, self.frames)
        if not isinstance(chosen, Window):
            step = -(-len(self.frames) // SAMPLED)
            chosen = robust_window([values for _, values in self._physical(self.frames[::step])])
        good = math.isfinite(chosen.centre) and math.isfinite(chosen.width)
        return chosen if good else Window(0.0, 1.0, "LINEAR_EXACT")

    def _named_windows(self) -> list[dict[str, Any]]:
        try:
            offered = windows(self.file.dataset, self.frames[len(self.frames) // 2].frame)
        except DcmarkError:
            return []
        return [
            {"name": one.explanation, "center": one.centre, "width": one.width}
            for one in offered
            if isinstance(one, Window)
        ]

    def _fps(self) -> float | None:
        header = self.file.dataset
        found = number(header, "CineRate") or number(header, "RecommendedDisplayFrameRate")
        time = number(header, "FrameTime")
        found = found or (1000.0 / time if time else None)
        return found if found is not None and 0 < found <= 1000 else None

    def _text(self, keyword: str) -> str:
        return str(self.file.dataset.get(keyword, "") or "")

    def _slices(self) -> list[dict[str, Any]]:
        files = sorted({one.file for one in self.frames})
        sql = (
            "SELECT sha256, sop_instance_uid AS uid, image_position_patient AS position, "
            "image_orientation_patient AS orientation FROM images WHERE sha256 IN (SELECT unnest(?))"
        )
        rows = {row["sha256"]: row for row in self.snapshot.rows(sql, [files])}
        cosines = None
        if self.volume is not None and self.volume.affine is not None:
            steps = np.array(self.volume.affine)[:3, [2, 1]]
            lengths = np.linalg.norm(steps, axis=0)
            cosines = (steps / lengths).T.ravel().tolist() if lengths.all() else None
        found = []
        for k, ((file, place), (slope, intercept)) in enumerate(zip(self.frames, self.scale.slopes, strict=True)):
            row = rows.get(file, {})
            placed = self.volume is not None and self.volume.positions is not None
            position: Any = self.volume.positions[k].tolist() if placed else row.get("position")  # type: ignore[union-attr,index]
            orientation: Any = cosines or row.get("orientation")
            good = position is not None and len(position) == 3 and np.isfinite(position).all()
            turned = orientation is not None and len(orientation) == 6 and np.isfinite(orientation).all()
            found.append(
                {
                    "file": file,
                    "frame": place,
                    "position": list(position) if good else None,
                    "orientation": list(orientation) if turned else None,
                    "slope": slope,
                    "intercept": intercept,
                    "sop_instance_uid": row.get("uid") or "",
                }
            )
        return found

    # -- frames -----------------------------------------------------------------------------------

    @property
    def frame_bytes(self) -> int:
        """Of a frame as it is sent."""
        return self.rows * self.columns * (3 if self.colour else 2)

    def pixels(self, first: int, last: int) -> Array:
        """Frames from ``first`` up to ``last``, as they are sent.

        Returns:
            (frames, rows, columns) int16 or uint16, or (frames, rows, columns, 3) uint8.

        Raises:
            UnsupportedError, DecodeError, LimitError, DamageError: one cannot be read.
        """
        scale = self.scale
        if self._apart:
            return np.stack([self._sent(one, None, k, scale) for k, one in enumerate(self._whole[first:last], first)])
        wanted = self.frames[first:last]
        sent = map_frames(
            self.archive,
            wanted,
            lambda place, one: self._sent(one.stored, one, first + place, scale),
            threads=THREADS if len(wanted) > 4 else 1,
            limits=LIMITS.reading,
        )
        return np.stack(list(sent))

    def _sent(self, stored: Array, one: Frame | None, k: int, scale: Scale) -> Array:
        if stored.shape[:2] != (self.rows, self.columns):
            raise UnsupportedError(f"expected a frame of {self.rows} x {self.columns}, found another at slice {k}")
        if self.colour:
            return _colours(stored, one)
        if scale.exact:
            kind = np.dtype("<i2") if stored.dtype.kind == "i" else np.dtype("<u2")
            return stored.astype(kind, copy=False)
        slope, intercept = scale.slopes[k]
        values = stored.astype(np.float32) if one is None else self._meant(one)
        steps = np.nan_to_num((values.astype(np.float64) - intercept) / slope, nan=0.0, posinf=STEPS, neginf=0.0)
        return np.clip(np.rint(steps), 0, STEPS).astype("<u2")

    def values(self, k: int) -> NDArray[np.float32]:
        """(rows, columns) in the unit of the scale, as the page works them out; not for colours."""
        slope, intercept = self.scale.slopes[k]
        return np.asarray(self.pixels(k, k + 1)[0] * np.float32(slope) + np.float32(intercept), np.float32)

    def codestream(self, k: int, syntaxes: Collection[str]) -> bytes | None:
        """A grey frame as it lies in the archive, where it lies there in one of these transfer syntaxes."""
        if self.colour or self._apart or not self.scale.exact:
            return None
        name, number = self.frames[k]
        file = stored_files(self.archive, [name])[bytes.fromhex(name)]
        part = frame_part(self.archive, file.row, number) if not file.video else None
        return bytes(part.unpack()) if part is not None and part.codec in syntaxes else None

    def dataset(self, k: int) -> Dataset:
        """The header of the file of a frame."""
        name = self.frames[k].file
        return stored_files(self.archive, [name])[bytes.fromhex(name)].dataset

    @cached_property
    def thumbnail(self) -> bytes:
        """A JPEG of the middle frame, 128 pixels at most on its longer side."""
        from PIL import Image

        k = len(self.frames) // 2
        if self.colour:
            grey = self.pixels(k, k + 1)[0]
        else:
            values = self.values(k)
            level = robust_window([values], 1, 99).apply(values)
            level = 1 - level if inverted(self.file.dataset) else level
            grey = (np.nan_to_num(level) * 255 + 0.5).astype(np.uint8)
        picture = Image.fromarray(np.ascontiguousarray(grey))
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=80)
        return out.getvalue()

    def proxy(self, most: int) -> tuple[Array, list[list[float]] | None]:
        """The stack reduced: (slices, rows, columns) uint8 by the window to begin with, and its affine.

        Args:
            most: pixels of the longest side.

        Raises:
            UnsupportedError: colours.
        """
        if self.colour or self.window is None:
            raise UnsupportedError("expected a stack of grey frames for a reduced volume, found colours")
        steps = [-(-size // most) for size in (len(self.frames), self.rows, self.columns)]
        chosen = range(steps[0] // 2, len(self.frames), steps[0])
        rows, columns = self.rows // steps[1], self.columns // steps[2]
        out = np.empty((len(chosen), rows, columns), np.uint8)
        for place, k in enumerate(chosen):
            values = self.values(k)[: rows * steps[1], : columns * steps[2]]
            values = values.reshape(rows, steps[1], columns, steps[2]).mean(axis=(1, 3))
            out[place] = np.nan_to_num(self.window.apply(values) * 255 + 0.5)
        if self.volume is None or self.volume.affine is None:
            return out, None
        affine = np.array(self.volume.affine)[:, [2, 1, 0, 3]]
        shift = [(steps[2] - 1) / 2, (steps[1] - 1) / 2, chosen[0], 1]
        scaled = np.column_stack([affine[:, i] * steps[2 - i] for i in range(3)] + [affine @ shift])
        return out, scaled.tolist()

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _apart(self) -> bool:
        """Do the pixels stand in another file than the header?"""
        return self.volume is not None and bool(self.volume.detached)

    @property
    def _whole(self) -> Array:
        with self._lock:
            if self._detached is None:
                assert self.volume is not None
                self._detached = stored_values(self.volume, threads=THREADS)
            return self._detached

    def _files(self) -> Iterator[tuple[StoredFile, int]]:
        files = stored_files(self.archive, list({one.file for one in self.frames}))
        return ((files[bytes.fromhex(one.file)], one.frame) for one in self.frames)

    def _recipe(self, one: tuple[StoredFile, int]) -> Recipe:
        return self._recipes.of(*one)

    def _meant(self, one: Frame) -> NDArray[np.float32]:
        """Physical values; stored ones where the header fails to define them."""
        try:
            return one.physical().values
        except ValueMeaningError:
            return one.physical("stored").values

    def _physical(self, frames: Sequence[FrameId]) -> Iterator[tuple[FrameId, NDArray[np.float32]]]:
        if self._apart:
            for key in frames:
                yield key, self._whole[self.index[FrameId(*key)]].astype(np.float32)
            return
        found = read_frames(self.archive, frames, threads=THREADS, limits=LIMITS.reading)
        for key, one in zip(frames, found, strict=True):
            yield key, self._meant(one)

    @cached_property
    def _range(self) -> tuple[float, float, str, str]:
        """Lowest and highest value, quantity and unit."""
        step = 1
        if len(self.frames) * self.rows * self.columns > EXACT_PIXELS:
            step = -(-len(self.frames) // SAMPLED)
        low, high = math.inf, -math.inf
        for _, values in self._physical(self.frames[::step]):
            finite = values[np.isfinite(values)]
            if finite.size:
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        if low > high:
            low, high = 0.0, 1.0
        if self._apart:
            return low, high, "stored", "1"
        known = quantities(self.file.dataset)
        scale = STORED
        if known[0] != "stored":
            one = frame(self.archive, self.frames[0].file, self.frames[0].frame, limits=LIMITS.reading)
            with suppress(ValueMeaningError):
                scale = self._recipes.of(one.file, one.number).scale
        return low, high, scale.quantity, scale.unit


def _colours(stored: Array, one: Frame | None) -> Array:
    """(rows, columns, 3) uint8, whatever the photometric interpretation."""
    if one is not None:
        with suppress(DcmarkError):
            found = display(stored, one.dataset, one.number, bits=8)
            if found.ndim == 3 and found.shape[2] == 3:
                return found
    if stored.ndim == 2:
        stored = stored[:, :, None]
    if stored.shape[2] < 3:
        stored = np.repeat(stored[:, :, :1], 3, axis=2)
    top = max(1, int(stored.max())) if stored.size and stored.dtype.itemsize > 1 else 255
    return np.clip(stored[:, :, :3] * (255.0 / top), 0, 255).astype(np.uint8)
