"""Finds text in a picture, by a network whose weights come in a wheel (extra ``text``): nothing is fetched.

The network (DBNet, trained for scene text, Liao et al. 2020) tells for every pixel how likely it is inside of text. It
was made for larger letters than those of a scanner, so the picture is also shown to it enlarged, and its boxes are
widened by what it leaves out: ascenders, accents, and the first and last letters of a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import MissingExtraError

GROUP = "dcmark.text"
Grey = NDArray[np.uint8]

THRESHOLD = 0.2
SMALL, LARGE = (1.0, 2.0, 3.0), (0.5, 1.0, 2.0)
"""Enlargements for pictures of up to ``LARGE_SIDE`` pixels, and for larger ones."""
LARGE_SIDE = 1100
TILE, OVERLAP = 960, 96
"""Pixels of the enlarged picture that the network sees at once, and that two such parts share."""
MARGIN, UP, ALONG = 2, 0.9, 2.0
"""A box grows by pixels, and by these parts of its smaller side: the network marks only the core of a line."""


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the last ones excluded."""

    top: int
    left: int
    bottom: int
    right: int


class TextDetector(Protocol):
    """Entry-point group ``dcmark.text``: a class without arguments.

    Contract: the same picture gives the same boxes; all of them lie inside the picture; safe to use from threads.
    """

    name: str

    def find(self, grey: Grey) -> list[Box]:
        """Boxes around all text in a picture (rows, columns)."""
        ...


class PaddleTextDetector:
    """The detector of PP-OCRv4, from the wheel ``rapidocr-onnxruntime``."""

    name = "ppocr"

    @cached_property
    def _session(self) -> Any:
        found = find_spec("rapidocr_onnxruntime")
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtraError("onnxruntime", "text", "finding text in pixels") from error
        if found is None or found.origin is None:
            raise MissingExtraError("rapidocr-onnxruntime", "text", "finding text in pixels")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # files are worked on in parallel
        options.log_severity_level = 3
        weights = Path(found.origin).parent / "models" / "ch_PP-OCRv4_det_infer.onnx"
        return onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])

    def find(self, grey: Grey) -> list[Box]:
        """See ``TextDetector``.

        Raises:
            MissingExtraError: the network is not installed.
        """
        from skimage.measure import label, regionprops

        likely = np.zeros(grey.shape, np.float32)
        for scale in SMALL if max(grey.shape) <= LARGE_SIDE else LARGE:
            for tile in _tiles(grey.shape, scale):
                here = slice(tile.top, tile.bottom), slice(tile.left, tile.right)
                np.maximum(likely[here], self._likely(grey[here], scale), out=likely[here])
        found = regionprops(label(likely > THRESHOLD, connectivity=2))
        return [box for one in found if (box := _widened(Box(*one.bbox), grey.shape)) is not None]

    def _likely(self, grey: Grey, scale: float) -> NDArray[np.float32]:
        """How likely each pixel is text, 0 to 1."""
        from PIL import Image

        rows, columns = (max(32, round(side * scale / 32) * 32) for side in grey.shape)
        shown = np.asarray(Image.fromarray(grey).resize((columns, rows), Image.Resampling.BICUBIC), np.float32)
        given = np.repeat((shown / 127.5 - 1)[None, None], 3, axis=1)
        (made,) = self._session.run(None, {self._session.get_inputs()[0].name: given})
        found = Image.fromarray(made[0, 0]).resize(grey.shape[::-1], Image.Resampling.BILINEAR)
        return np.asarray(found, np.float32)


def _tiles(shape: tuple[int, ...], scale: float) -> Iterator[Box]:
    """Parts that cover a picture and overlap."""
    side, shared = round(TILE / scale), round(OVERLAP / scale)

    def starts(length: int) -> list[int]:
        return [0] if length <= side else [*range(0, length - side, side - shared), length - side]

    for top in starts(shape[0]):
        for left in starts(shape[1]):
            yield Box(top, left, min(shape[0], top + side), min(shape[1], left + side))


def _widened(box: Box, shape: tuple[int, ...]) -> Box | None:
    """A box with what the network leaves out; None for one too small to be a letter."""
    height, width = box.bottom - box.top, box.right - box.left
    if min(height, width) < 3:
        return None
    up, along = (round(MARGIN + part * min(height, width)) for part in (UP, ALONG))
    if height > width:
        up, along = along, up  # a line that runs upwards
    return Box(
        max(0, box.top - up), max(0, box.left - along), min(shape[0], box.bottom + up), min(shape[1], box.right + along)
    )
