"""The contract of generative models, as tests: subclass it in a test module of yours.

class TestMine(ModelContract):
    model = MINE                                # as its entry point of ``dcmark.models`` names it
    small = {"capacity": 64, "widest": 8}       # settings with which a step takes milliseconds
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from dcmark.errors import UsageError
from dcmark.train import base, loop
from dcmark.train.augment import Augmentation, AugmentSettings
from dcmark.train.data import ArrayImages
from dcmark.train.run import Run

BATCH = 8


def states_differ(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not the same bit by bit."""
    names = sorted(one.keys() | other.keys())
    return [name for name in names if name not in one or name not in other or not torch.equal(one[name], other[name])]


def kept(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy that training does not change."""
    return {name: value.clone() for name, value in state.items()}


class ModelContract:
    """What every model of ``dcmark.models`` keeps.

    Attributes:
        model: the model.
        small: settings for quick tests, for images of 16 pixels or of ``side``.
        side: rows and columns of the test images.
    """

    model: ClassVar[base.Model]
    small: ClassVar[Mapping[str, Any]]
    side: ClassVar[int] = 16

    def shape(self, channels: int = 1, labels: int = 0) -> base.ImageShape:
        """Of the test images."""
        return base.ImageShape(channels, self.side, self.side, labels)

    def learner(self, shape: base.ImageShape | None = None, seed: int = 0) -> base.Learner:
        """A model in training with small settings."""
        kind, shape = type(self).model, shape or self.shape()
        torch.manual_seed(seed)
        return kind.learner(kind.settings(shape, self.small), shape)

    def batch(self, shape: base.ImageShape | None = None, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images to learn from, with their labels."""
        shape = shape or self.shape()
        made = torch.Generator().manual_seed(seed)
        images = torch.rand(BATCH, shape.channels, shape.rows, shape.columns, generator=made) * 2 - 1
        return images, torch.eye(shape.labels)[torch.arange(BATCH) % shape.labels] if shape.labels else None

    def images(self, labels: bool = False) -> ArrayImages:
        """A small data set."""
        pixels = np.random.default_rng(0).integers(0, 65536, (20, self.side, self.side)).astype(np.uint16)
        return ArrayImages(pixels, np.arange(20) % 2 if labels else None)

    def test_it_says_what_it_is(self) -> None:
        """Name, summary and presets; every preset is one that it takes."""
        kind = type(self).model
        assert kind.name
        assert kind.name == kind.name.lower()
        assert kind.summary
        assert kind.capabilities.sizes
        for name, preset in kind.presets.items():
            side = int(name.rpartition("-")[2]) if name.rpartition("-")[2].isdigit() else 64
            assert kind.settings(base.ImageShape(1, side, side), preset) is not None

    def test_settings_are_plain_and_come_back_from_json(self) -> None:
        """A run directory holds them as JSON, and must read the same ones back."""
        kind = type(self).model
        for given in (self.small, *kind.presets.values()):
            settings = kind.settings(self.shape(), given)
            stored = json.loads(json.dumps(dataclasses.asdict(settings)))
            assert kind.settings(self.shape(), stored) == settings
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(settings, dataclasses.fields(settings)[0].name, None)

    def test_what_it_cannot_do_is_refused(self) -> None:
        """Unknown settings, and images that do not fit, before anything is built."""
        kind = type(self).model
        with pytest.raises(UsageError, match="expected"):
            kind.settings(self.shape(), {"a setting of no model": 1})
        with pytest.raises(UsageError, match="expected"):
            kind.settings(base.ImageShape(1, 0, 7), self.small)

    @pytest.mark.parametrize("channels", [1, 3, 5])
    @pytest.mark.parametrize("labels", [0, 2])
    def test_it_learns_and_makes_images(self, channels: int, labels: int) -> None:
        """Reports are finite, weights move, images have the shape of those learned from and no NaN."""
        if labels and not type(self).model.capabilities.labels:
            pytest.skip("the model takes no labels")
        shape = self.shape(channels, labels)
        learner = self.learner(shape)
        before = kept(learner.state_dict())
        for step in range(2):
            report = learner.step(*self.batch(shape, step))
            assert report
            assert all(math.isfinite(value) for value in report.values())
        assert learner.images_seen == 2 * BATCH
        assert states_differ(before, learner.state_dict())
        wanted = torch.eye(labels)[:2] if labels else None
        images = learner.sample([3, 4], wanted)
        assert images.shape == (2, channels, self.side, self.side)
        assert bool(images.isfinite().all())
        assert not torch.equal(images[0], images[1])
        if labels:
            with pytest.raises(UsageError, match="label"):
                learner.sample([3], None)

    def test_a_state_goes_on_bit_by_bit(self) -> None:
        """Another learner that is given the state takes the same next steps."""
        learner = self.learner()
        learner.step(*self.batch())
        other = self.learner(seed=1)
        other.load_state_dict(kept(learner.state_dict()))
        for each in (learner, other):
            for step in range(3):
                torch.manual_seed(step)
                each.step(*self.batch(seed=step))
        assert states_differ(learner.state_dict(), other.state_dict()) == []

    def test_the_state_of_another_network_is_refused(self) -> None:
        """Weights of other channels say so, instead of ending somewhere inside."""
        from dcmark.errors import DcmarkError

        with pytest.raises(DcmarkError, match="expected"):
            self.learner().load_state_dict(kept(self.learner(self.shape(channels=2)).state_dict()))

    def test_sampling_changes_nothing(self) -> None:
        """Neither the state nor the random numbers of training; a seed makes one image, in any company."""
        learner = self.learner()
        learner.step(*self.batch())
        state, random = kept(learner.state_dict()), torch.get_rng_state()
        first = learner.sample([5, 6, 7], None)
        assert states_differ(state, learner.state_dict()) == []
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.equal(learner.sample([5, 6, 7], None), first)
        torch.testing.assert_close(learner.sample([6], None)[0], first[1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            learner.sample_latents(learner.latents([5, 6, 7]), None), first, atol=1e-6, rtol=1e-6
        )

    def test_images_follow_from_the_average_alone(self) -> None:
        """Tensors that sampling needs are those named ``average.``."""
        learner, other = self.learner(), self.learner(seed=1)
        for each in (learner, other):
            each.step(*self.batch())
        mixed = kept(other.state_dict())
        mixed |= {name: value for name, value in kept(learner.state_dict()).items() if name.startswith("average.")}
        other.load_state_dict(mixed)
        assert torch.equal(other.sample([1, 2], None), learner.sample([1, 2], None))

    def test_truncation_and_transforms_as_it_says(self) -> None:
        """Where it can, they change the image; where it cannot, it says so."""
        learner, able = self.learner(), type(self).model.capabilities
        plain, moved = learner.sample([1], None), torch.eye(3)
        moved[0, 2] = 0.25
        for can, asked in ((able.truncation, {"truncation": 0.5}), (able.transform, {"transform": moved})):
            if can:
                assert not torch.equal(learner.sample([1], None, **asked), plain)
                assert torch.equal(learner.sample([1], None), plain)
            else:
                with pytest.raises(UsageError, match="expected"):
                    learner.sample([1], None, **asked)

    def test_what_lies_outside_the_mask_teaches_nothing(self) -> None:
        """Padding is not learned from, whatever stands in it."""
        states = []
        for filling in (-1.0, 0.7):
            learner = self.learner()
            mask = torch.zeros(self.side, self.side)
            mask[: self.side // 2] = 1
            learner.mask = mask
            images, _ = self.batch()
            images[:, :, self.side // 2 :] = filling
            torch.manual_seed(0)
            learner.step(images, None)
            states.append(kept(learner.state_dict()))
        assert states_differ(*states) == []

    def test_augmentation_as_it_says(self) -> None:
        """A model that can use it learns through it, and reports what it follows."""
        learner = self.learner()
        if not type(self).model.capabilities.augmentation:
            with pytest.raises(UsageError, match="augment"):
                loop.prepare(type(self).model.name, self.small, self.images(), loop.Options(augment=AugmentSettings()))
            return
        learner.augmentation = Augmentation(AugmentSettings(), p=1.0)
        report = learner.step(*self.batch())
        assert -1 <= report["discriminator/real_sign"] <= 1

    @pytest.mark.parametrize("rounds", [2, 4])
    def test_parts_of_a_batch(self, rounds: int) -> None:
        """A batch in parts is one step; one that does not divide is refused."""
        learner = self.learner()
        learner.rounds = rounds
        learner.step(*self.batch())
        assert learner.images_seen == BATCH
        images, labels = self.batch()
        with pytest.raises(UsageError, match="multiple"):
            learner.step(images[:-1], labels)

    @pytest.mark.parametrize("labels", [False, True])
    def test_an_interrupted_run_ends_as_an_undisturbed_one(self, tmp_path: Path, labels: bool) -> None:
        """Through the run directory: weights, optimisers, averages, counters."""
        name, data = type(self).model.name, self.images(labels)
        if labels and not type(self).model.capabilities.labels:
            pytest.skip("the model takes no labels")
        for place, ends in (("whole", (64,)), ("parts", (24, 40, 64))):
            for images in ends:
                options = loop.Options(
                    images=images, batch=BATCH, checkpoint_images=16, report_images=16, sheet_images=1000
                )
                loop.train(name, self.small, data, tmp_path / place, options, device="cpu")
        whole, parts = (Run(tmp_path / place).last_checkpoint().tensors() for place in ("whole", "parts"))
        assert states_differ(whole, parts) == []

    def test_networks_by_name(self) -> None:
        """At least the generator, whose weights are part of the state."""
        learner = self.learner()
        generator = learner.networks()["G"]
        known = {value.data_ptr() for value in learner.state_dict().values()}
        assert all(parameter.data_ptr() in known for parameter in generator.parameters())
