"""The picture at the end of ``dcmark demo``: slices of every set, in rows, with what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.view.export.resize import placed, resized

TILE, GAP, MARGIN, HEAD, LEFT = 212, 10, 44, 96, 236
GROUND, TEXT, SOFT, ACCENT = (16, 19, 22), (222, 227, 231), (130, 141, 150), (95, 179, 179)


@dataclass(frozen=True, slots=True)
class SheetRow:
    """A row of the sheet.

    Attributes:
        name: of the set.
        lines: what it is, in a few words a line.
        tiles: pictures (rows, columns[, 3]), uint8, and a caption each.
    """

    name: str
    lines: list[str]
    tiles: list[tuple[NDArray[Any], str]]


def draw_sheet(rows: list[SheetRow], title: str, foot: str, place: Path) -> None:
    """Draw the sheet as a PNG."""
    from PIL import Image, ImageDraw, ImageFont

    across = max(len(row.tiles) for row in rows)
    step = TILE + GAP + 22
    width = MARGIN * 2 + LEFT + across * (TILE + GAP) - GAP
    height = HEAD + len(rows) * step + 64
    sheet = Image.new("RGB", (width, height), GROUND)
    pen = ImageDraw.Draw(sheet)
    large, middle, small = (ImageFont.load_default(size) for size in (30, 19, 14))
    pen.text((MARGIN, 34), "dcmark", font=large, fill=TEXT)
    pen.text((MARGIN + LEFT, 44), title, font=middle, fill=SOFT)
    for number, row in enumerate(rows):
        top = HEAD + number * step
        pen.line((MARGIN, top + 6, MARGIN + 26, top + 6), fill=ACCENT, width=3)
        pen.text((MARGIN, top + 18), row.name, font=middle, fill=TEXT)
        for line, words in enumerate(row.lines):
            pen.text((MARGIN, top + 48 + 21 * line), words, font=small, fill=SOFT)
        for column, (picture, caption) in enumerate(row.tiles):
            left = MARGIN + LEFT + column * (TILE + GAP)
            sheet.paste(Image.fromarray(_tile(picture)), (left, top))
            pen.text((left, top + TILE + 3), caption, font=small, fill=SOFT)
    pen.text((MARGIN + LEFT, height - 50), foot, font=middle, fill=ACCENT)
    sheet.quantize(256, dither=Image.Dither.NONE).save(place, optimize=True)


def _tile(picture: NDArray[Any]) -> NDArray[np.uint8]:
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, axis=2)
    return np.asarray(resized(picture, placed(picture.shape, TILE)), np.uint8)
