"""Values to what a screen or a PNG shows: the last of three steps (stored, physical, display; PS3.3 C.11, PS3.14).

grey = display(stored, header, frame=0, window="lung")     # (rows, columns) uint8
rgb = display(stored, colour_header)                       # (rows, columns, 3) uint8
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import UsageError, ValueMeaningError
from dcmark.read.attributes import number, word
from dcmark.read.colour import apply_palette, palette_of, ybr_to_rgb
from dcmark.read.pixels import Physical, physical
from dcmark.read.windows import (
    NAMED,
    AnyWindow,
    Choice,
    VoiTable,
    Window,
    pick,
    robust_window,
    window_of,
    windows,
)

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["NAMED", "VoiTable", "Window", "display", "inverted", "robust_window", "window_of", "windows"]

Array = NDArray[Any]

_YBR = ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420")
_RGB = ("RGB", "YBR_RCT", "YBR_ICT", "XYB")  # what decode_frame returns for them is red, green, blue
_TABLE_PIXELS = 4  # a table pays where it has at most a quarter as many entries as the frame has pixels


def display(
    values: Array | Physical, dataset: Dataset, frame: int = 0, window: Choice = None, *, bits: int = 8
) -> Array:
    """What is to be seen of one frame.

    Grey images: modality transformation, window, inversion (MONOCHROME1 or Presentation LUT Shape INVERSE). Padding
    becomes the background: the darkest grey as shown. Palettes are looked up, YBR colours become RGB; windows do not
    apply to colours. ICC profiles and overlays are not applied.

    Args:
        values: stored values from ``decode_frame``, or what ``physical`` made of them (then grey images only).
        dataset: the header.
        frame: number of the frame, from 0.
        window: a ``Window`` or ``VoiTable``; the number of one in the header; a name of ``NAMED`` (CT, in HU) or its
            explanation in the header; None for the header's first, else percentiles 0.5 to 99.5 of this frame. Take
            ``window_of`` for a volume: what is chosen frame by frame differs from slice to slice.
        bits: 8 or 16.

    Returns:
        (rows, columns) or (rows, columns, 3), uint8 or uint16.

    Raises:
        UsageError: no such window, or a named CT window for values that are not in HU.
        ValueMeaningError: the header is incomplete; the message names the attribute.
    """
    if bits not in (8, 16):
        raise UsageError(f"expected 8 or 16 bits of display values; found {bits}")
    photometric = word(dataset, "PhotometricInterpretation")
    if isinstance(values, Physical):
        if values.values.ndim == 3:
            raise UsageError("expected stored values of a colour image; found physical ones")
        return _grey(values, dataset, frame, window, bits)
    if values.ndim == 3:
        stored = int(number(dataset, "BitsStored") or values.dtype.itemsize * 8)
        return _rescale(_colours(values, photometric, stored), stored, bits)
    if photometric == "PALETTE COLOR":
        palette = palette_of(dataset, signed=number(dataset, "PixelRepresentation") == 1)
        return _rescale(apply_palette(values, palette), palette.bits, bits)
    if values.dtype.kind in "iu" and values.size:
        low, high = int(values.min()), int(values.max())
        if (high - low + 1) * _TABLE_PIXELS <= values.size:
            # The whole pipeline is a function of the stored value: work it out once for each.
            every = np.arange(low, high + 1, dtype=np.int64).astype(values.dtype)
            chosen = window if window is not None else _default(values, dataset, frame)
            table = _grey(_meant(every, dataset, frame), dataset, frame, chosen, bits)
            index = np.subtract(values, low, dtype=np.int64, casting="unsafe")
            return np.take(table, index)
    return _grey(_meant(values, dataset, frame), dataset, frame, window, bits)


def inverted(dataset: Dataset) -> bool:
    """Is the smallest value shown brightest (PS3.3 C.7.6.3.1.2, C.11.6)?

    MONOCHROME1 and Presentation LUT Shape INVERSE state the same fact; together they do not cancel out.
    """
    shape = word(dataset, "PresentationLUTShape")
    return word(dataset, "PhotometricInterpretation") == "MONOCHROME1" or shape == "INVERSE"


def _default(values: Array, dataset: Dataset, frame: int) -> AnyWindow:
    """The window used where none is asked for, from all pixels and not from a table of values."""
    return pick(dataset, frame, None) or robust_window([_meant(values, dataset, frame).values])


def _meant(values: Array, dataset: Dataset, frame: int) -> Physical:
    """Physical values; stored ones where the header fails to define them: to look at, they are still good."""
    try:
        return physical(values, dataset, frame)
    except ValueMeaningError:
        return physical(values, dataset, frame, "stored")


def _grey(values: Physical, dataset: Dataset, frame: int, choice: Choice, bits: int) -> Array:
    top = (1 << bits) - 1
    window = _window(values, dataset, frame, choice)
    level = window.apply(values.values)
    if inverted(dataset):
        np.subtract(1, level, out=level)
    level *= top
    level += 0.5  # to the nearest: the cast below cuts
    level[np.isnan(level)] = 0
    return level.astype(np.uint8 if bits == 8 else np.uint16)


def _window(values: Physical, dataset: Dataset, frame: int, choice: Choice) -> AnyWindow:
    if isinstance(choice, Window | VoiTable):
        return choice
    if isinstance(choice, str) and choice.lower() in NAMED:
        if values.quantity != "hu":
            raise UsageError(
                f"expected values in HU for the window {choice!r}; found {values.quantity} in {values.unit}; "
                "give a Window with centre and width instead"
            )
        return NAMED[choice.lower()]
    # The header's windows are in the output of its modality transformation and fit no other quantity.
    shown = _meant(np.empty(0, np.int16), dataset, frame).quantity
    fits = values.quantity == shown
    if choice is not None and not fits:
        raise UsageError(
            f"expected a Window with centre and width for {values.quantity}: the windows of the header are for "
            f"{shown}; found {choice!r}"
        )
    found = pick(dataset, frame, choice) if fits else None
    return found or robust_window([values.values])


def _colours(values: Array, photometric: str, stored: int) -> Array:
    if photometric in _YBR and values.shape[2] == 3:
        return ybr_to_rgb(values, photometric, stored)
    if photometric in _RGB and values.shape[2] >= 3:
        return values[:, :, :3]
    raise UsageError(f"expected an image in RGB or YBR; found {photometric or 'no Photometric Interpretation'}")


def _rescale(colours: Array, found: int, wanted: int) -> Array:
    """Colours of so many bits to 8 or 16, white staying white."""
    target = np.uint8 if wanted == 8 else np.uint16
    if found == wanted:
        return np.ascontiguousarray(colours).astype(target)
    scaled = colours.astype(np.float64) * (((1 << wanted) - 1) / ((1 << found) - 1))
    return np.clip(np.rint(scaled), 0, (1 << wanted) - 1).astype(target)
