"""The models learn: bounded by steps, about two minutes on one core, with room to what is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dcmark.out import features, measures
from dcmark.train import demo


def wasserstein(real: NDArray[np.float32], made: NDArray[np.float32]) -> float:
    return float(np.mean(list(measures.sliced_wasserstein(real, made, least=real.shape[2] // 2).values())))


def learned(tmp_path: Path, model: str, side: int, images: int, batch: int) -> tuple[list[float], list[float]]:
    """Sliced Wasserstein and random-feature distances: before training, and after each quarter of it."""
    data = demo.phantom_data(600, side)
    shown = demo.run(tmp_path / "run", model=model, settings=demo.QUICK[model], data=data, images=images, batch=batch)
    extractor = features.random_features(1)
    real = extractor(shown.real)
    moments = [shown.moments[seen] for seen in sorted(shown.moments)]
    return (
        [wasserstein(shown.real, made) for made in moments],
        [measures.frechet(real, extractor(made)) for made in moments],
    )


@pytest.mark.timeout(600)
def test_pggan_learns(tmp_path: Path) -> None:
    sliced, distance = learned(tmp_path, "pggan", 32, 7000, 16)
    assert sliced[0] > 1000
    assert sliced[-1] <= 100, sliced
    assert distance[-1] <= distance[0] / 50, distance


@pytest.mark.timeout(600)
def test_stylegan3_learns(tmp_path: Path) -> None:
    _, distance = learned(tmp_path, "stylegan3", 16, 6400, 8)
    assert distance[-1] <= distance[0] / 20, distance
    assert distance == sorted(distance, reverse=True), distance
