"""A training that shows itself in minutes on a processor: PGGAN at 32 pixels on painted chests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.progress import NoProgress, Progress
from dcmark.train.data import ArrayImages, ImageData, Meaning

AIR, WATER, BONE = -1000.0, 0.0, 700.0
SETTINGS: dict[str, Any] = {
    "capacity": 256,
    "widest": 32,
    "group": 4,
    "steady": 300,
    "fading": 300,
    "rate": 0.002,
    "average_decay": 0.99,
    "first_resolution": 4,
}
"""PGGAN small and quick enough for 32 pixels on one core: it learns in little more than a minute."""
QUICK: dict[str, dict[str, Any]] = {
    "pggan": SETTINGS,
    "stylegan3": {
        "capacity": 384,
        "widest": 32,
        "layers": 5,
        "margin": 3,
        "latent": 32,
        "style": 32,
        "statistics_decay": 0.99,
        "gamma": 0.3,
        "rate_generator": 0.002,
        "half_life": 2000,
        "ramp_up": 0.1,
    },
}
"""Settings that learn something in a minute: PGGAN at 32 pixels, StyleGAN3-T at 16."""


def phantoms(count: int, side: int = 32, seed: int = 0) -> NDArray[np.int16]:
    """Chests in cross section, painted from ellipses: int16 (count, side, side) in HU.

    Body, lungs, heart, spine and some noise; sizes and places differ from one to the next.
    """
    rng = np.random.default_rng(seed)
    at = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = at[:, None], at[None, :]
    images = np.empty((count, side, side), dtype=np.int16)
    for number in range(count):
        hu = np.full((side, side), AIR)
        lean, height, width = rng.normal(0, 0.05), rng.uniform(0.55, 0.75), rng.uniform(0.75, 0.95)

        def paint(
            centre: tuple[float, float],
            radii: tuple[float, float],
            value: float,
            hu: NDArray[np.float64] = hu,
            lean: float = lean,
        ) -> None:
            distance = np.hypot((x - centre[0]) / radii[0], (y - centre[1] - lean) / radii[1])
            inside = np.clip((1 - distance) * min(radii) * side / 2 + 0.5, 0, 1)  # edges as wide as a pixel
            hu += inside * (value - hu)

        paint((0, 0), (width, height), 40 + rng.normal(0, 10))
        lung = rng.uniform(0.24, 0.34), rng.uniform(0.36, 0.46)
        for place in (-0.42, 0.42):
            paint((place * width, -0.02), lung, -820 + rng.normal(0, 30))
        paint((rng.uniform(0.02, 0.14), -0.12), (rng.uniform(0.16, 0.26), rng.uniform(0.16, 0.24)), 50)
        paint((0, height * 0.68), (0.1, 0.1), BONE + rng.normal(0, 60))
        images[number] = np.rint(hu + rng.normal(0, 12, hu.shape))
    return images


def phantom_data(count: int = 1000, side: int = 32, seed: int = 0) -> ArrayImages:
    """The same as training data, -1000 to 1000 HU."""
    return ArrayImages(
        phantoms(count, side, seed),
        meaning=Meaning(-1000.0, 1000.0, unit="HU", modality="CT", spacing_mm=(400 / side, 400 / side)),
    )


@dataclass(frozen=True)
class Shown:
    """What the demonstration made.

    Attributes:
        run: the run directory; ``reals.png`` and the sheets in it show the way.
        real: training images, float32 (N, C, H, W), -1 to 1.
        moments: by images shown, from 0 on: as many images of the model as it was then, the same seeds each time.
        meaning: of the values.
    """

    run: Path
    real: NDArray[np.float32]
    moments: dict[int, NDArray[np.float32]]
    meaning: Meaning


class _Whole:
    """One progress over all looks, each of which goes on where the last one stopped and counts from 0 again."""

    def __init__(self, shown: Progress, total: int) -> None:
        self._shown, self._total = shown, total
        self._here = self._told = 0
        shown.start("train", total, "images")

    def start(self, task: str, total: int | None, unit: str = "files") -> None:
        """A look begins."""
        del task, total, unit
        self._here = 0

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        """Tell what was not told of an earlier look."""
        self._here += units
        new = min(self._here, self._total) - self._told
        if new > 0:
            self._told += new
            self._shown.advance(new, nbytes)

    def finish(self) -> None:
        """A look ends; the others follow."""

    def end(self) -> None:
        """All ended."""
        self._shown.finish()


def run(
    out: Path,
    *,
    model: str = "pggan",
    settings: Mapping[str, Any] | None = None,
    data: ImageData | None = None,
    images: int = 9_000,
    batch: int = 16,
    looks: int = 4,
    seed: int = 0,
    count: int = 256,
    progress: Progress | None = None,
) -> Shown:
    """Train a small model: PGGAN on 32-pixel images, less than two minutes on one core.

    Args:
        out: the run directory, new or of an interrupted demonstration.
        settings: of the model; those of this module by default.
        data: images to learn from; painted chests of 32 pixels by default.
        images: real images to be shown.
        looks: how often, evenly spread, the model is asked for images.
        count: images of each kind to give back, for comparing.

    Returns:
        Images before, on the way and after, to be measured against real ones (``dcmark.out.measures``).
    """
    import torch

    from dcmark.train import base, loop

    data = data or phantom_data(1000, 32, seed)
    settings = SETTINGS if settings is None else settings
    options = loop.Options(
        images=images,
        batch=batch,
        seed=seed,
        checkpoint_images=max(images // looks, batch),
        report_images=max(images // 32, batch),
        sheet_images=max(images // 8, batch),
    )
    seen, complete = loop.prepare(model, settings, data, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = base.find(model).learner(complete, base.ImageShape(*seen.shape, labels=seen.labels))
    seeds = range(count)
    moments = {0: fresh.sample(seeds, None).numpy()}
    whole = _Whole(progress or NoProgress(), images)
    try:
        for look in range(1, looks + 1):
            until = replace(options, images=images * look // looks)
            trained = loop.train(model, settings, data, out, until, device="cpu", progress=whole)
            moments[trained.images_seen] = trained.learner.sample(seeds, None).numpy()
    finally:
        whole.end()
    chosen = np.linspace(0, len(seen) - 1, min(count, len(seen))).astype(int)
    return Shown(out, np.stack([seen.meaning.to_model(seen[int(i)][0]) for i in chosen]), moments, seen.meaning)
