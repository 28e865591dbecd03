"""Feature extractors for comparing sets of images: fixed random, trained on the data, or one's own.

No weights are ever downloaded. Every extractor has an identity, a hash, that goes into the report:
distances are comparable where it is the same.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from dcmark.errors import LimitError, SourceError, UsageError

RANDOM_VERSION = 1
"""Raised whenever the fixed random features change."""
_WIDTHS = (32, 64, 128)
MAX_BYTES = 4 << 30


class Encoder(nn.Module):
    """Three convolutions of stride 2, each giving mean and deviation of its maps: (N, 2 * 224)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        sides = (channels, *_WIDTHS)
        convolutions = [nn.Conv2d(a, b, 3, stride=2, padding=1, padding_mode="replicate") for a, b in pairwise(sides)]
        self.layers = nn.ModuleList(convolutions)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W), nominally -1 to 1, to (N, D)."""
        x, found = images, []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
            flat = x.flatten(2)
            found += [flat.mean(dim=2), (flat.var(dim=2, unbiased=False) + 1e-6).sqrt()]
        return torch.cat(found, dim=1)


class Extractor:
    """Turns images into feature vectors.

    Attributes:
        name: what kind, for the report.
        hash: identity of its weights.
    """

    def __init__(self, name: str, digest: str, network: Callable[[Tensor], Tensor]) -> None:
        self.name, self.hash, self._network = name, digest, network

    @torch.no_grad()
    def __call__(self, images: NDArray[Any], batch: int = 64) -> NDArray[np.float32]:
        """(N, C, H, W), nominally -1 to 1, to (N, D)."""
        parts = []
        for start in range(0, len(images), batch):
            x = torch.from_numpy(np.ascontiguousarray(images[start : start + batch], dtype=np.float32))
            found = self._network(x)
            if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(x):
                raise UsageError("expected the extractor to give (N, D) for N images, found something else")
            parts.append(found.flatten(1).float().numpy())
        return np.concatenate(parts)


def random_features(channels: int) -> Extractor:
    """Features of a network with fixed random weights, the same with every version of PyTorch."""
    network = Encoder(channels).eval()
    rng = np.random.default_rng([RANDOM_VERSION, channels])
    with torch.no_grad():
        for parameter in network.parameters():
            values = rng.normal(size=tuple(parameter.shape))
            gain = np.sqrt(2 / parameter[0].numel()) if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.from_numpy(values * gain))
    return Extractor(f"random features, version {RANDOM_VERSION}", _hash_of(network), network)


def _hash_of(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def trained_features(images: NDArray[Any], *, steps: int = 300, batch: int = 32, seed: int = 0) -> Extractor:
    """Features of an encoder trained on real images to tell them from one another.

    Two crops of an image, one of them noisy, must be found to belong together among those of other images
    (the contrastive loss of Chen et al. 2020). What it learns is what varies in this very data.
    """
    if len(images) < 8:
        raise UsageError(f"expected at least 8 images to train an encoder on, found {len(images)}")
    data = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    batch = min(batch, len(data))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Encoder(data.shape[1])
        head = nn.Sequential(nn.Linear(2 * sum(_WIDTHS), 64), nn.ReLU(), nn.Linear(64, 32))
        optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=1e-3)
        for _ in range(steps):
            chosen = data[torch.randperm(len(data))[:batch]]
            first, second = (functional.normalize(head(network(_view(chosen))), dim=1) for _ in range(2))
            alike = first @ second.mT / 0.2
            targets = torch.arange(batch)
            loss = functional.cross_entropy(alike, targets) + functional.cross_entropy(alike.mT, targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval()
    return Extractor(f"encoder trained on the data, {steps} steps", _hash_of(network), network)


def _view(images: Tensor) -> Tensor:
    """A random crop of three quarters, with noise and a slight change of contrast."""
    height, width = (max(side * 3 // 4, 8) for side in images.shape[2:])
    top = int(torch.randint(0, max(images.shape[2] - height, 0) + 1, ()))
    left = int(torch.randint(0, max(images.shape[3] - width, 0) + 1, ()))
    part = images[:, :, top : top + height, left : left + width]
    contrast = 1 + 0.1 * torch.randn(len(part), 1, 1, 1)
    return part * contrast + 0.05 * torch.randn_like(part)


def save_extractor(extractor: Extractor, path: Path) -> None:
    """Write an extractor of this module as safetensors, for ``--extractor``."""
    network = extractor._network
    if not isinstance(network, Encoder):
        raise UsageError("expected random features or a trained encoder, found an extractor of another kind")
    path.write_bytes(save(network.state_dict(), {"encoder": json.dumps({"channels": network.channels})}))


def load_extractor(path: Path, channels: int) -> Extractor:
    """An extractor from a file: safetensors of :func:`save_extractor`, or TorchScript taking (N, C, H, W).

    TorchScript is a program: only load one that you trust.

    Raises:
        SourceError: the file cannot be read as either.
        UsageError: it is for another number of channels.
        LimitError: it is too large.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LimitError(f"expected an extractor of at most {MAX_BYTES} bytes, found a larger file")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                about = json.loads((opened.metadata() or {})["encoder"])
                state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            if about["channels"] != channels:
                raise UsageError(f"expected an extractor for {channels} channels, found one for {about['channels']}")
            network = Encoder(channels)
            network.load_state_dict(state)
            return Extractor("encoder from a file", digest, network.eval())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        return Extractor("TorchScript from a file", digest, script)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise SourceError(
            f"expected an extractor at {path} (safetensors of dcmark, or TorchScript), found something else"
        ) from error
