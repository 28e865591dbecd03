"""Models as plug-ins: both of dcmark's keep the contract, and another one is found by its entry point."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from dcmark import plugins
from dcmark.errors import MissingExtraError, UsageError
from dcmark.testing.models import ModelContract
from dcmark.train import base, loop
from dcmark.train.pggan.model import MODEL as PGGAN
from dcmark.train.stylegan3.model import MODEL as STYLEGAN3

SMALL_STYLE = {"capacity": 64, "widest": 8, "layers": 4, "latent": 8, "style": 8, "margin": 2, "r1_interval": 2}


class TestPGGAN(ModelContract):
    model = PGGAN
    small: ClassVar = {"capacity": 64, "widest": 8, "steady": 32, "fading": 32, "group": 2}


class TestStyleGAN3T(ModelContract):
    model = STYLEGAN3
    small: ClassVar = SMALL_STYLE | {"group": 2}


class TestStyleGAN3R(ModelContract):
    model = STYLEGAN3
    small: ClassVar = SMALL_STYLE | {"variant": "r", "group": 2}


@dataclass(frozen=True)
class Doubled:
    """A plug-in: PGGAN under another name, without labels."""

    name: str = "doubled"
    summary: str = "for a test"
    capabilities: base.Capabilities = base.Capabilities(sizes="any", labels=False, augmentation=False)  # noqa: RUF009
    presets: Any = ()

    def settings(self, shape: base.ImageShape, given: Any) -> Any:
        return PGGAN.settings(shape, given)

    def learner(self, settings: Any, shape: base.ImageShape, device: Any = "cpu") -> base.Learner:
        return PGGAN.learner(settings, shape, device)


DOUBLED = Doubled()


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry point more, and one whose package is not there."""
    points = (
        importlib.metadata.EntryPoint("doubled", f"{__name__}:DOUBLED", base.GROUP),
        importlib.metadata.EntryPoint("absent", "a_package_that_is_not_there:MODEL", base.GROUP),
    )
    real = plugins._group(base.GROUP)
    monkeypatch.setattr(
        plugins, "_group", lambda group: real | {p.name: p for p in points} if group == base.GROUP else {}
    )


def test_both_are_entry_points() -> None:
    assert set(base.names()) >= {"pggan", "stylegan3"}
    assert base.find("pggan") is PGGAN
    assert base.find("stylegan3") is STYLEGAN3
    with pytest.raises(UsageError, match=r"pggan, stylegan3.*'surprise'"):
        base.find("surprise")


def test_another_model_is_trained_by_the_same_loop(entered: None, tmp_path: Path) -> None:
    assert base.names() == ["absent", "doubled", "pggan", "stylegan3"]
    contract = TestPGGAN()
    options = loop.Options(images=16, batch=8, checkpoint_images=16, report_images=8, sheet_images=100)
    trained = loop.train("doubled", contract.small, contract.images(), tmp_path / "run", options, device="cpu")
    assert trained.run.config["model"] == "doubled"
    with pytest.raises(UsageError, match="without labels"):
        loop.train("doubled", contract.small, contract.images(True), tmp_path / "other", options, device="cpu")
    with pytest.raises(MissingExtraError):
        base.find("absent")


class Broken:
    """Learners that break the contract in one way each."""

    def __init__(self, learner: base.Learner, how: str) -> None:
        self._learner, self._how = learner, how

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        elif not (name == "mask" and self._how == "mask ignored"):
            setattr(self._learner, name, value)

    def state_dict(self) -> dict[str, torch.Tensor]:
        state = self._learner.state_dict()
        if self._how == "optimiser forgotten":
            return {name: value for name, value in state.items() if not name.startswith("adam.")}
        return state

    def sample(self, seeds: Any, labels: Any, **more: Any) -> torch.Tensor:
        if self._how == "random numbers drawn":
            torch.rand(1)
        if self._how == "company matters" and len(seeds) > 1:
            return self._learner.sample(seeds, labels, **more) * 1.01
        return self._learner.sample(seeds, labels, **more)


@pytest.mark.parametrize(
    ("how", "test"),
    [
        ("optimiser forgotten", "test_a_state_goes_on_bit_by_bit"),
        ("random numbers drawn", "test_sampling_changes_nothing"),
        ("company matters", "test_sampling_changes_nothing"),
        ("mask ignored", "test_what_lies_outside_the_mask_teaches_nothing"),
    ],
)
def test_the_contract_notices(how: str, test: str) -> None:
    """The contract is worth something only if a model that breaks it fails."""

    class Contract(ModelContract):
        model = PGGAN
        small: ClassVar = TestPGGAN.small

        def learner(self, shape: base.ImageShape | None = None, seed: int = 0) -> Any:
            return Broken(super().learner(shape, seed), how)

    with pytest.raises(AssertionError):
        getattr(Contract(), test)()
