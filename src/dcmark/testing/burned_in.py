"""Pictures with words burned in, whose every letter is known: to measure what a detector of text finds."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dcmark.deid.pixels.detector import Box, Grey

WORDS = {
    "latin": (
        "SMITH^JOHN", "Doe, Jane", "M 054Y", "ID 4711-0815", "1956-03-14", "14.03.1956", "St. Mary Hospital",
        "Acc 20231107", "KOWALSKI ANNA", "R. Miller MD", "12:45:09",
    ),
    "swedish": ("ÅSTRÖM, ÖRJAN", "Sjögren Märta", "19560314-1234", "Göteborg SU", "BJÖRK^ÅSA", "Läk. Håkansson"),
    "cyrillic": ("Иванов Пётр", "ПЕТРОВА А. С.", "г. Москва", "Жукова Щ.", "род. 14.03.1956"),
}  # fmt: skip
"""Invented."""
SIZES = (10, 22)
"""Smallest and largest size of letters, pixels."""
CONTRAST = 110
"""Grey levels between letters and the mean of what is behind them, at least."""
AROUND = 8
"""Pixels around a word that are neither word nor clean."""
_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSans-Bold.ttf",
    "LiberationSans-Regular.ttf",
    "DejaVuSerif.ttf",
)


class Word(NamedTuple):
    """A word on a picture.

    letters: where its letters are, a mask of the whole picture. kind: light, dark, or plate (dark on a light plate).
    """

    text: str
    size: int
    kind: str
    box: Box
    letters: NDArray[np.bool_]


def fonts() -> list[str]:
    """Free fonts with Cyrillic letters that are installed; empty where there are none."""
    folders = [Path("/usr/share/fonts"), Path("/Library/Fonts"), Path("C:/Windows/Fonts")]
    found = {place.name: str(place) for folder in folders if folder.is_dir() for place in folder.rglob("*.ttf")}
    return [found[name] for name in _FONTS if name in found]


def pictures(
    backgrounds: Mapping[str, Sequence[Grey]], count: int, seed: int = 5, a_picture: int = 5
) -> Iterator[tuple[str, Grey, list[Word]]]:
    """Pictures with ``count`` words in all, on parts of 512 x 512 of backgrounds, by their kind."""
    chance, left = random.Random(seed), count  # noqa: S311  pictures are no secret
    while left > 0:
        kind = chance.choice(sorted(backgrounds))
        whole = chance.choice(backgrounds[kind])
        top, left_ = (chance.randrange(0, max(1, side - 511)) for side in whole.shape)
        behind = whole[top : top + 512, left_ : left_ + 512]
        behind = behind[:, ::-1] if chance.random() < 0.5 else behind
        grey, words = _written(np.ascontiguousarray(behind), min(left, a_picture), chance)
        left -= len(words)
        yield kind, grey, words


def _written(behind: Grey, count: int, chance: random.Random) -> tuple[Grey, list[Word]]:
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.fromarray(behind)
    draw: Any = ImageDraw.Draw(canvas)
    words: list[Word] = []
    for _ in range(400):
        if len(words) == count:
            break
        text = chance.choice(WORDS[chance.choice(sorted(WORDS))])
        size = chance.randint(*SIZES)
        font = ImageFont.truetype(chance.choice(fonts()), size)
        x0, y0, x1, y1 = map(int, draw.textbbox((0, 0), text, font=font))
        width, height = x1 - x0, y1 - y0
        if width > behind.shape[1] - 8 or height > behind.shape[0] - 8:
            continue
        left, top = chance.randint(3, behind.shape[1] - width - 4), chance.randint(3, behind.shape[0] - height - 4)
        box = Box(top, left, top + height, left + width)
        if any(box.left < b.right + 12 and box.right > b.left - 12 and box.top < b.bottom + 12
               and box.bottom > b.top - 12 for b in (word.box for word in words)):  # fmt: skip
            continue
        mean = int(behind[box.top : box.bottom, box.left : box.right].mean())
        kind, level = _level(mean, chance)
        if kind == "plate":
            plate = (left - 2, top - 2, left + width + 2, top + height + 2)
            draw.rectangle(plate, fill=chance.randint(190, 255))
        mask = Image.new("L", canvas.size)
        draw.text((left - x0, top - y0), text, fill=level, font=font)
        ImageDraw.Draw(mask).text((left - x0, top - y0), text, fill=255, font=font)
        words.append(Word(text, size, kind, box, np.asarray(mask) > 100))
    return np.asarray(canvas), words


def _level(mean: int, chance: random.Random) -> tuple[str, int]:
    if chance.random() < 0.35:
        return "plate", chance.randint(0, 40)
    if mean < 120:
        return "light", chance.randint(min(255, mean + CONTRAST), 255)
    return "dark", chance.randint(0, max(0, mean - CONTRAST))


class Found(NamedTuple):
    """How much of the words was covered: shares of 0 to 1, and the words that were not."""

    recall: float
    clean_covered: float
    missed: list[tuple[str, str, int, str, float]]


def measure(detector: Any, backgrounds: Mapping[str, Sequence[Grey]], count: int, seed: int = 5) -> Found:
    """A word is found where boxes cover at least 98 % of its letters; clean is what is not near a word."""
    hits = clean = covered = total = 0
    missed = []
    for kind, grey, words in pictures(backgrounds, count, seed):
        mask, free = np.zeros(grey.shape, bool), np.ones(grey.shape, bool)
        for box in detector.find(grey):
            mask[box.top : box.bottom, box.left : box.right] = True
        for word in words:
            box = word.box
            free[max(0, box.top - AROUND) : box.bottom + AROUND, max(0, box.left - AROUND) : box.right + AROUND] = False
            share = float(mask[word.letters].mean())
            total += 1
            hits += share >= 0.98
            if share < 0.98:
                missed.append((kind, word.text, word.size, word.kind, round(share, 2)))
        clean += int(free.sum())
        covered += int((mask & free).sum())
    return Found(hits / total, covered / clean, missed)
