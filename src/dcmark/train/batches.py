"""Which real images stand in which batch, and reading them ahead of the networks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcmark.errors import TrainingError, UsageError
from dcmark.train.data import ImageData

if TYPE_CHECKING:
    from dcmark.train.loop import Options


class Batches:
    """Batches of real images: every image once an epoch, in an order that the seed says.

    Reading runs ahead in threads; which images stand in batch number n depends on nothing else.
    """

    def __init__(self, data: ImageData, options: Options, rank: int, count: int) -> None:
        if not len(data):
            raise UsageError("expected at least one image to learn from, found none")
        self._data, self._options, self._rank, self._count = data, options, rank, count
        self._size = options.batch // count

    def indices(self, step: int) -> list[tuple[int, bool]]:
        """Which images stand in this process's part of a batch, and whether mirrored."""
        first = step * self._options.batch + self._rank * self._size
        chosen = []
        for at in range(first, first + self._size):
            epoch, place = divmod(at, len(self._data))
            order = self._order(epoch)
            flip = self._options.mirror and random.Random(f"{self._options.seed} {at}").random() < 0.5  # noqa: S311
            chosen.append((int(order[place]), flip))
        return chosen

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self._options.seed, epoch]).permutation(len(self._data))
        return self._permutation

    def _read(self, chosen: list[tuple[int, bool]]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        images, labels = [], []
        for index, flip in chosen:
            image, label = self._data[index]
            if tuple(image.shape) != tuple(self._data.shape):
                raise TrainingError(f"expected images of {self._data.shape}, found {image.shape} at number {index}")
            shown = self._data.meaning.to_model(image)
            if not np.isfinite(shown).all():
                raise TrainingError(f"expected finite values in every image, found NaN in image number {index}")
            images.append(shown[:, :, ::-1] if flip else shown)
            labels.append(label)
        return np.stack(images), stacked_labels(labels, self._data.labels)

    def __call__(self, step: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches from number ``step`` on, without end."""
        ahead: list[Future[Any]] = []
        with ThreadPoolExecutor(self._options.workers) as pool:
            try:
                while True:
                    while len(ahead) < 2 * self._options.workers:
                        ahead.append(pool.submit(self._read, self.indices(step)))
                        step += 1
                    images, labels = ahead.pop(0).result()
                    yield torch.from_numpy(images), None if labels is None else torch.from_numpy(labels)
            finally:
                for future in ahead:
                    future.cancel()


def stacked_labels(labels: list[NDArray[np.float32] | None], length: int) -> NDArray[np.float32] | None:
    """Labels of a batch, (N, length); None where the data have none."""
    if not length:
        return None
    known = [label for label in labels if label is not None and label.shape == (length,)]
    if len(known) < len(labels):
        raise TrainingError(f"expected a label of length {length} for every image, found one without")
    return np.stack(known)
