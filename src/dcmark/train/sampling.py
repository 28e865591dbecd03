"""Images from a trained model: of a run directory, or of an imported checkpoint."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcmark.errors import UsageError
from dcmark.train import base, checkpoint
from dcmark.train.data import Meaning
from dcmark.train.learning import latents_of
from dcmark.train.run import Run


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a generated image comes from.

    Attributes:
        model: name of the model.
        run: SHA-256 of the weights, which tells one state of one run from all others.
        images_seen: images shown up to then; 0 where unknown.
        data_hash: of the data it learned from; empty where unknown.
    """

    model: str
    run: str
    images_seen: int = 0
    data_hash: str = ""


class Sampler:
    """Makes images from seeds.

    Attributes:
        shape: (channels, rows, columns) of an image.
        labels: length of the label vector; 0 for none.
        meaning: of the values.
        origin: what made them.
        capabilities: of the model.
    """

    def __init__(
        self,
        generator: Any,
        shape: tuple[int, int, int],
        labels: int,
        meaning: Meaning,
        origin: Origin,
        capabilities: base.Capabilities,
        crop: tuple[slice, slice] | None = None,
    ) -> None:
        self._generator, self._crop = generator, crop
        self.labels, self.meaning, self.origin, self.capabilities = labels, meaning, origin, capabilities
        self.shape = shape

    def images(
        self,
        seeds: Sequence[int],
        label: Sequence[float] | int | None = None,
        *,
        truncation: float = 1.0,
        transform: NDArray[Any] | None = None,
        batch: int = 8,
    ) -> Iterator[NDArray[np.float32]]:
        """An image (channels, rows, columns), -1 to 1, for each seed.

        Args:
            seeds: whole numbers from 0.
            label: what to make: a class, or a vector; needed where the model was trained with labels.
            truncation: 1 for the full variety, less for more typical images.
            transform: 3x3, moves and turns what is made, in image widths.

        Raises:
            UsageError: a label is missing or of another length, or the model cannot do what is asked.
        """
        for start in range(0, len(seeds), batch):
            part = list(seeds[start : start + batch])
            yield from self._made(self._generator.latents(part), label, truncation, transform)

    def walk(
        self,
        seeds: Sequence[int],
        count: int,
        label: Sequence[float] | int | None = None,
        *,
        truncation: float = 1.0,
        batch: int = 8,
    ) -> Iterator[NDArray[np.float32]]:
        """``count`` images along the way from seed to seed, on great circles between their latent vectors.

        Neighbours look alike; it is no anatomy: nothing makes slice and slice fit together.
        """
        if len(seeds) < 2:
            raise UsageError(f"expected at least two seeds to walk between, found {len(seeds)}")
        corners = self._generator.latents(list(seeds))
        at = np.linspace(0, len(seeds) - 1, count)
        points = [_between(corners[min(int(t), len(seeds) - 2)], corners[min(int(t), len(seeds) - 2) + 1],
                           t - min(int(t), len(seeds) - 2)) for t in at]  # fmt: skip
        for start in range(0, count, batch):
            yield from self._made(torch.stack(points[start : start + batch]), label, truncation, None)

    def _made(
        self,
        latents: Tensor,
        label: Sequence[float] | int | None,
        truncation: float,
        transform: NDArray[Any] | None,
    ) -> Iterator[NDArray[np.float32]]:
        if truncation != 1 and not self.capabilities.truncation:
            raise UsageError(f"expected truncation 1 for {self.origin.model}, which has none, found {truncation}")
        if transform is not None and not self.capabilities.transform:
            raise UsageError(f"expected no transform for {self.origin.model}, which has none")
        place = None if transform is None else torch.as_tensor(np.asarray(transform, dtype=np.float32))
        images = self._generator.sample_latents(
            latents, self._label(label, len(latents), latents.device), truncation=truncation, transform=place
        )
        for image in images.float().cpu().numpy():
            yield image if self._crop is None else image[:, self._crop[0], self._crop[1]]

    def _label(self, label: Sequence[float] | int | None, count: int, device: torch.device) -> Tensor | None:
        if not self.labels:
            if label is not None:
                raise UsageError("expected no label, as the model was trained without, found one")
            return None
        if label is None:
            raise UsageError(
                f"expected a label (a class from 0 to {self.labels - 1}, or {self.labels} numbers), found none"
            )
        if isinstance(label, int):
            if not 0 <= label < self.labels:
                raise UsageError(f"expected a class from 0 to {self.labels - 1}, found {label}")
            vector = torch.eye(self.labels)[label]
        else:
            vector = torch.tensor(list(label), dtype=torch.float32)
            if len(vector) != self.labels:
                raise UsageError(f"expected a label of {self.labels} numbers, found {len(vector)}")
        return vector.expand(count, -1).to(device)


def _between(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Along the great circle from a to b, which keeps the length that a normal distribution leads one to expect."""
    angle = torch.arccos((torch.nn.functional.cosine_similarity(a, b, dim=0)).clamp(-1, 1))
    if float(angle) < 1e-4:
        return torch.lerp(a, b, t)
    way: Tensor = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    return way


class _Network:
    """A lone generator with the two calls that a sampler makes."""

    def __init__(self, model: nn.Module, latent: int) -> None:
        self._model, self._latent = model, latent

    def latents(self, seeds: Sequence[int]) -> Tensor:
        return latents_of(seeds, self._latent, torch.device("cpu"))

    @torch.no_grad()
    def sample_latents(
        self, latents: Tensor, labels: Tensor | None, *, truncation: float, transform: Tensor | None
    ) -> Tensor:
        more = {} if truncation == 1 else {"truncation": truncation}
        if transform is not None:
            self._model.synthesis.input.transform.copy_(transform)  # type: ignore[union-attr, operator]
        images: Tensor = self._model(latents, labels, **more)
        return images


def open_sampler(path: Path, *, device: str = "cpu", meaning: Meaning | None = None) -> Sampler:
    """The sampler of a run directory (its last checkpoint), or of a file of ``dcmark models import``.

    Args:
        meaning: of the values, for a checkpoint that does not say; by default 8 bits without a unit.

    Raises:
        SourceError: neither is there.
    """
    if path.is_dir():
        return _of_run(Run(path), device)
    imported = checkpoint.load(path)
    model: Any = imported.model()
    config = model.config
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    styled = hasattr(model, "mapping")
    capabilities = base.Capabilities("", truncation=styled, transform=model.family == "stylegan3")
    network = _Network(model, config.latent if styled else config.latent_size)
    shape = (config.channels, config.resolution, config.resolution)
    origin = Origin(model.family, digest)
    return Sampler(network, shape, config.labels, meaning or Meaning(0, 255), origin, capabilities)


def _of_run(run: Run, device: str) -> Sampler:
    last = run.last_checkpoint()
    data = run.config["data"]
    channels, rows, columns = data["shape"]
    kind = base.find(run.config["model"])
    shape = base.ImageShape(channels, rows, columns, labels=data["labels"])
    with torch.random.fork_rng(devices=[]):
        learner = kind.learner(kind.settings(shape, run.config["settings"]), shape, device)
    learner.load_state_dict({k: v.to(device) for k, v in last.tensors().items()})
    digest = hashlib.sha256(last.path.read_bytes()).hexdigest()
    crop = None
    if data.get("within"):
        top, left, height, width = data["within"]
        crop = (slice(top, top + height), slice(left, left + width))
        rows, columns = height, width
    return Sampler(
        learner,
        (channels, rows, columns),
        data["labels"],
        Meaning.from_dict(data["meaning"]),
        Origin(kind.name, digest, last.images_seen, data["hash"]),
        kind.capabilities,
        crop,
    )


def rotation(degrees: float, right: float = 0.0, down: float = 0.0) -> NDArray[np.float32]:
    """A transform that turns what is made counter-clockwise and then moves it, in image widths: (3, 3)."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    move = np.array([[1, 0, -right], [0, 1, -down], [0, 0, 1]])
    placed: NDArray[np.float32] = (turn @ move).astype(np.float32)
    return placed
