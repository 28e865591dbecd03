"""Values of many frames at once: the array behind ``dcmark.values(volume)``.

    hu = stack_values(archive, volume.frames, "hu", threads=2)
    hu.values, hu.quantity, hu.unit, hu.mask

Every frame has its own scale: MR and PET machines change it from slice to slice, enhanced objects from frame to frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.archive.store import Archive
from dcmark.config import LIMITS, Limits
from dcmark.errors import LimitError, UnsupportedError, UsageError, ValueMeaningError
from dcmark.read.attributes import word
from dcmark.read.windows import Choice, VoiTable, Window, window_of
from dcmark.view.frames import Frame, FrameKey, map_frames, read_frames
from dcmark.view.recipes import Recipes

Array = NDArray[Any]

SAMPLED = 16
"""Frames looked at for a window that all share."""


@dataclass(frozen=True, slots=True)
class Values:
    """Physical values of a stack of frames.

    Attributes:
        values: (frames, rows, columns) or (frames, rows, columns, samples), float32; NaN where a pixel has no value
            (padding, or outside the range a mapping is defined for).
        quantity: what is measured, e.g. ``hu``; the same for all frames.
        unit: UCUM code, e.g. ``[hnsf'U]``.
        how: the attributes used and the section of the standard; of the first frame.
    """

    values: NDArray[np.float32]
    quantity: str
    unit: str
    how: str

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True where a pixel has no value."""
        return np.isnan(self.values)


def stack_values(
    archive: Archive,
    frames: Sequence[FrameKey],
    quantity: str | None = None,
    *,
    threads: int = 1,
    out: NDArray[np.float32] | None = None,
    limits: Limits = LIMITS,
) -> Values:
    """Physical values of frames as one array, in the order given.

    Args:
        frames: (SHA-256 of the file, number of the frame in it) of each; all of one size. ``Volume.frames`` is that.
        quantity: one of ``read.pixels.quantities``; None for the first that the header of the first frame defines.
        threads: that decode; with 1 the calling thread does. The result is the same.
        out: memory for the values, float32 of their shape, where there is some already: a gigabyte of fresh memory
            can take the system as long as decoding what goes into it.

    Raises:
        UsageError: no frames, or no such file or frame.
        UnsupportedError: the frames are not of one size, or hold no pixels; DecodeError where one is damaged.
        ValueMeaningError: a header does not define the quantity (the message names what is missing), or the frames
            do not all give the same quantity in the same unit.
        LimitError: a frame is too large, or the array does not fit into memory.
        DamageError: the archive is damaged there.
    """
    recipes = Recipes(quantity)
    stack = _Stack(len(frames), out)

    def fill(place: int, frame: Frame) -> tuple[str, str, str]:
        recipe = recipes.of(frame.file, frame.number)
        recipe.fill(frame.stored, stack.slot(place, frame.stored.shape, np.dtype(np.float32)))
        return recipe.scale.quantity, recipe.scale.unit, recipe.scale.how

    meaning: tuple[str, str, str] | None = None
    for place, found in enumerate(map_frames(archive, frames, fill, threads=threads, limits=limits)):
        meaning = meaning or found
        if found[:2] != meaning[:2]:
            raise ValueMeaningError(
                f"expected one quantity in all frames; found {meaning[0]} in {meaning[1]}, and in frame {place} of the "
                f"list {found[0]} in {found[1]}; ask for one by name, or take the frames apart"
            )
    assert meaning is not None
    return Values(stack.array, *meaning)


def stack_stored(archive: Archive, frames: Sequence[FrameKey], *, threads: int = 1, limits: Limits = LIMITS) -> Array:
    """Stored values of frames as one array of their own type, padding and all; see ``stack_values``.

    Raises:
        UnsupportedError: also where the frames are not of one type.
    """
    stack = _Stack(len(frames))

    def fill(place: int, frame: Frame) -> None:
        stack.slot(place, frame.stored.shape, frame.stored.dtype)[...] = frame.stored

    for _ in map_frames(archive, frames, fill, threads=threads, limits=limits):
        pass
    return stack.array


def stack_display(
    archive: Archive,
    frames: Sequence[FrameKey],
    window: Choice = None,
    *,
    bits: int = 8,
    threads: int = 1,
    limits: Limits = LIMITS,
) -> Array:
    """What is to be seen of frames, as one array: equal physical values are equally bright in all of them.

    Args:
        frames: as for ``stack_values``.
        window: see ``common_window``.
        bits: 8 or 16.

    Returns:
        (frames, rows, columns) grey levels or (frames, rows, columns, 3) red, green, blue; uint8 or uint16.

    Raises:
        UsageError: no such window, or a named CT window for values that are not in HU.
        Others as ``stack_values`` does.
    """
    chosen = common_window(archive, frames, window, limits=limits)
    stack = _Stack(len(frames))

    def fill(place: int, frame: Frame) -> None:
        shown = frame.display(chosen, bits=bits)
        stack.slot(place, shown.shape, shown.dtype)[...] = shown

    for _ in map_frames(archive, frames, fill, threads=threads, limits=limits):
        pass
    return stack.array


def common_window(
    archive: Archive, frames: Sequence[FrameKey], choice: Choice = None, *, limits: Limits = LIMITS
) -> Choice:
    """One window for all frames, to be handed to ``Frame.display``; None for colours, to which no window applies.

    By ``read.windows.window_of`` over the headers of ``SAMPLED`` frames spread over the list: the window that is
    asked for, else the one the headers give (their median where they differ), else percentiles of those frames.

    Raises:
        UsageError: no frames, or no such window.
    """
    if not frames:
        raise UsageError("expected one frame or more; found none")
    if isinstance(choice, Window | VoiTable):
        return choice
    sample = list(read_frames(archive, frames[:: -(-len(frames) // SAMPLED)], limits=limits))
    if sample[0].stored.ndim == 3 or word(sample[0].dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        return None
    headers = {frame.file.sha256: frame.dataset for frame in sample}
    return window_of(*headers.values(), choice=choice, samples=(_to_look_at(frame) for frame in sample))


def _to_look_at(frame: Frame) -> NDArray[np.float32]:
    try:
        return frame.physical().values
    except ValueMeaningError:
        return frame.physical("stored").values


class _Stack:
    """The array that frames are written into; made when the first frame has proved its size by being decoded."""

    def __init__(self, count: int, out: Array | None = None) -> None:
        if not count:
            raise UsageError("expected one frame or more; found none")
        if out is not None and (len(out) != count or not out.flags.writeable):
            raise UsageError(f"expected a writable array of {count} frames for out; found one of shape {out.shape}")
        self._count = count
        self._array = out
        self._lock = Lock()

    @property
    def array(self) -> Array:
        assert self._array is not None
        return self._array

    def slot(self, place: int, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
        """Where a frame of this shape and type goes."""
        with self._lock:
            if self._array is None:
                try:
                    self._array = np.empty((self._count, *shape), kind)
                except (MemoryError, ValueError) as error:
                    raise LimitError(
                        f"expected an array that fits into memory; found {self._count} frames of {shape}; ask for "
                        "fewer at once"
                    ) from error
        if self._array.shape[1:] != shape or self._array.dtype != kind:
            raise UnsupportedError(
                f"expected all frames to be {self._array.dtype} of {self._array.shape[1:]}; found {kind} of {shape} "
                f"at place {place} of the list"
            )
        slot: Array = self._array[place]
        return slot
