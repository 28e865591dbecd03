"""Recorded reference data of the generative models, and a fixed number of threads."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("safetensors") is not None
collect_ignore_glob = [] if _TORCH else ["test_*.py"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say so when nothing here could be run."""
    if not _TORCH:
        terminalreporter.write_line("tests/train was skipped: it needs torch and safetensors (extra 'train')")


class Vectors:
    """One ``.npz`` of reference data."""

    def __init__(self, path: Path) -> None:
        self.arrays = np.load(path, allow_pickle=False)
        self.keys = self.arrays.files
        self.meta: dict[str, Any] = json.loads(bytes(self.arrays["meta_json"]))

    def __call__(self, key: str) -> Any:
        """The tensor of that name."""
        import torch

        return torch.from_numpy(self.arrays[key])

    def group(self, prefix: str) -> dict[str, Any]:
        """All tensors whose name begins with ``prefix``, without it."""
        return {key.removeprefix(prefix): self(key) for key in self.keys if key.startswith(prefix)}


@pytest.fixture
def vectors(golden: Path) -> Callable[[str], Vectors]:
    """Opens reference data by name."""
    return lambda name: Vectors(golden / "gan" / f"{name}.npz")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The same order of summation, and the same random numbers, on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
