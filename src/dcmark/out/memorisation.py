"""Does a generative model give back what it was shown? Distances in pixels, where a copy cannot hide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.out.measures import distances

NEAR = 0.5
"""Nearer to a training image than this part of how near real images come to one another: a near copy."""
_SIDE = 32


@dataclass(frozen=True)
class Memorisation:
    """How near what was made lies to what was shown.

    Attributes:
        nearest: for each image made, the number of the training image nearest to it.
        distance: root mean square difference to it, in units of -1..1, at 32 pixels or less.
        ratio: median distance to the nearest training image over that to the nearest held-out one (equally
            many of both): about 1 where the model learned, far below where it copies. None without held-out images.
        authenticity: part of what was made that lies farther from its nearest training image than that one
            lies from its own nearest (Alaa et al. 2022): about a half or more for a model that does not copy.
        threshold: distance below which an image counts as a near copy.
        near_copies: numbers of the images made that do.
    """

    nearest: list[int]
    distance: list[float]
    ratio: float | None
    authenticity: float
    threshold: float
    near_copies: list[int]

    @property
    def alarm(self) -> bool:
        """Is there any near copy?"""
        return bool(self.near_copies)


def _small(images: NDArray[Any]) -> NDArray[np.float64]:
    """Averaged down to at most 32 pixels of a side, as vectors whose Euclidean distance is the RMS difference."""
    x = np.asarray(images, dtype=np.float64)
    while min(x.shape[2:]) >= 2 * _SIDE:
        height, width = (size // 2 * 2 for size in x.shape[2:])
        x = x[:, :, :height, :width].reshape(len(x), x.shape[1], height // 2, 2, width // 2, 2).mean(axis=(3, 5))
    flat = x.reshape(len(x), -1)
    return np.asarray(flat / np.sqrt(flat.shape[1]))


def memorisation(
    train: NDArray[Any], made: NDArray[Any], held_out: NDArray[Any] | None = None, *, seed: int = 0
) -> Memorisation:
    """Look for copies of training images (N, C, H, W) among those made (M, C, H, W)."""
    shown, new = _small(train), _small(made)
    across = distances(new, shown)
    nearest, distance = across.argmin(axis=1), across.min(axis=1)
    among = distances(shown, shown)
    np.fill_diagonal(among, np.inf)
    own = among.min(axis=1)
    # Series hold pairs of nearly equal neighbours; a quantile is not led astray by a few of them.
    threshold = NEAR * float(np.quantile(own, 0.05))
    ratio = None
    if held_out is not None:
        unseen = _small(held_out)
        count = min(len(shown), len(unseen))
        rng = np.random.default_rng(seed)
        some, others = (x[rng.permutation(len(x))[:count]] for x in (shown, unseen))
        near_held = float(np.median(distances(new, others).min(axis=1)))
        ratio = float(np.median(distances(new, some).min(axis=1))) / max(near_held, 1e-12)
    return Memorisation(
        nearest=[int(n) for n in nearest],
        distance=[float(d) for d in distance],
        ratio=ratio,
        authenticity=float((distance > own[nearest]).mean()),
        threshold=threshold,
        near_copies=[int(n) for n in np.flatnonzero(distance < threshold)],
    )
