"""Sample sheets: many images in one picture, for looking at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def grey(images: NDArray[Any]) -> NDArray[np.uint8]:
    """(N, C, H, W), -1 to 1, as bytes (N, H, W) or (N, H, W, 3): three channels as colours, else the first."""
    shown = np.clip(np.rint((images.astype(np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(shown, 1, 3)) if images.shape[1] == 3 else shown[:, 0]


def contact_sheet(images: NDArray[Any], columns: int | None = None) -> NDArray[np.uint8]:
    """Images (N, C, H, W), -1 to 1, side by side in reading order."""
    pictures = grey(images)
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    height, width = pictures.shape[1:3]
    sheet = np.zeros((rows * height, columns * width, *pictures.shape[3:]), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * height, number % columns * width
        sheet[top : top + height, left : left + width] = picture
    return sheet
