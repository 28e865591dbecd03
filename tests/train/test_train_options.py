"""Ways of working that leave what is learned as it is, or nearly so: layouts, formats, compilers, processes, logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train_run import OPTIONS, TINY, data_of, state_of
from torch import nn

from dcmark.errors import UsageError
from dcmark.train import base
from dcmark.train.loop import train
from dcmark.train.run import Run


def near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], part: float = 0.95) -> bool:
    """Adam turns roundings into steps of its own where a gradient is near 0; nearly all weights must agree."""
    weights = [name for name in one if name.startswith(("generator.", "discriminator.", "average."))]
    gaps = torch.cat([(one[name].double() - other[name].double()).abs().flatten() for name in weights])
    return float((gaps <= 1e-3).double().mean()) >= part


@pytest.mark.parametrize("model", ["pggan", "stylegan3"])
def test_channels_last_learns_the_same(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    kind = base.find(model)
    learner = kind.learner(kind.settings(base.ImageShape(1, 16, 16), TINY[model]), base.ImageShape(1, 16, 16))
    original = type(learner).step

    def step(self: Any, images: torch.Tensor, labels: Any) -> dict[str, float]:
        weights = [p for p in self.generator.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        seen.append(all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights))
        return original(self, images, labels)

    monkeypatch.setattr(type(learner), "step", step)
    options = replace(OPTIONS, images=32, mirror=False)
    train(model, TINY[model], data_of(), tmp_path / "usual", options, device="cpu")
    assert not any(seen)
    seen.clear()
    last = replace(options, channels_last=True)
    train(model, TINY[model], data_of(), tmp_path / "last", last, device="cpu")
    assert all(seen)
    assert near(state_of(tmp_path / "usual"), state_of(tmp_path / "last"))
    # A run may go on in another layout, and in the same one it goes on exactly.
    train(model, TINY[model], data_of(), tmp_path / "usual", replace(last, images=48), device="cpu")
    train(model, TINY[model], data_of(), tmp_path / "last", replace(last, images=64), device="cpu")
    train(model, TINY[model], data_of(), tmp_path / "whole", replace(last, images=64), device="cpu")
    one, other = state_of(tmp_path / "last"), state_of(tmp_path / "whole")
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("model", ["pggan", "stylegan3"])
def test_half_precision_learns_nearly_the_same(model: str) -> None:
    """bfloat16 has 8 bits; the losses of the first steps agree to that."""
    shape = base.ImageShape(1, 32, 32)
    reports = []
    for precision in ("float32", "bfloat16"):
        kind = base.find(model)
        torch.manual_seed(0)
        learner = kind.learner(kind.settings(shape, TINY[model] | {"precision": precision}), shape)
        torch.manual_seed(1)
        for _ in range(2):
            report = learner.step(torch.rand(8, 1, 32, 32) * 2 - 1, None)
        reports.append(report)
        image = learner.sample([1], None)
        assert image.dtype == torch.float32
        assert bool(image.isfinite().all())
    for name, value in reports[0].items():
        if "sign" not in name:
            assert reports[1][name] == pytest.approx(value, abs=0.15 * max(abs(value), 1)), name
    assert reports[0] != reports[1]


def test_a_format_that_cannot_work() -> None:
    with pytest.raises(UsageError, match="bfloat16"):
        base.find("pggan").settings(base.ImageShape(1, 16, 16), {"precision": "float16"})
    with pytest.raises(UsageError, match="precision"):
        base.find("stylegan3").settings(base.ImageShape(1, 16, 16), {"precision": "int8"})


@pytest.mark.parametrize("model", ["pggan", "stylegan3"])
def test_compiled_learns_the_same(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracing of torch.compile, without the minutes that its code generation takes."""
    compiled: list[nn.Module] = []

    def traced(self: nn.Module) -> None:
        compiled.append(self)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", traced)
    options = replace(OPTIONS, images=32)
    try:
        train(model, TINY[model], data_of(), tmp_path / "usual", options, device="cpu")
        train(model, TINY[model], data_of(), tmp_path / "fast", replace(options, compiled=True), device="cpu")
    finally:
        torch.compiler.reset()
    assert [type(network).__name__ for network in compiled] == ["Generator"]
    assert near(state_of(tmp_path / "usual"), state_of(tmp_path / "fast"))


def test_tensorboard_has_what_the_log_has(tmp_path: Path) -> None:
    """After a run that was interrupted and went on too: what was taken back is not shown twice."""
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for images in (40, 96):
        train("pggan", TINY["pggan"], data_of(), tmp_path / "run", replace(OPTIONS, images=images), device="cpu")
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    reports = Run(tmp_path / "run").reports()
    shown = found.Scalars("generator/loss")
    assert [event.step for event in shown] == [report["images"] for report in reports]
    np.testing.assert_allclose([event.value for event in shown], [r["generator/loss"] for r in reports], rtol=1e-6)


def test_no_tensorboard_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train("pggan", TINY["pggan"], data_of(), tmp_path / "run", replace(OPTIONS, images=32), device="cpu")
    assert Run(tmp_path / "run").reports()
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv, which PyTorch for Windows may lack")
@pytest.mark.parametrize("model", ["stylegan3"])
def test_torchrun_on_the_command_line(model: str, tmp_path: Path) -> None:
    """Two processes end where one does that adds up the gradients of two halves."""
    np.save(tmp_path / "data.npy", data_of()._images[:, 0])
    (tmp_path / "data.meaning.json").write_text(json.dumps(data_of().meaning.as_dict()))
    words = ["train", model, str(tmp_path / "data.npy")]
    more = ["--kimg", "0.064", "--batch", "8", "--checkpoint-kimg", "0.032", "--threads", "1", "--device", "cpu"]
    more += [f"--set={name}={value}" for name, value in TINY[model].items()] + ["--augment"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dcmark"]
    done = subprocess.run(
        [*launcher, *words, str(tmp_path / "two"), *more],
        capture_output=True, text=True, env=environment, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("images shown") == 1  # one of them speaks
    run = Run(tmp_path / "two")
    assert run.last_checkpoint().images_seen == 64
    images = [report["images"] for report in run.reports()]
    assert images == sorted(set(images))
    again = subprocess.run(
        [sys.executable, "-m", "dcmark", *words, str(tmp_path / "two"), *more, "--json"],
        capture_output=True, text=True, env=environment, timeout=240, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr[-2000:]
    assert json.loads(again.stdout)["resumed_at"] == 64  # done: nothing is left to do


def test_several_processes_and_a_batch_that_does_not_divide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="multiple of 3"):
        replace(OPTIONS, rounds=3)
    monkeypatch.setattr("dcmark.train.loop.processes", lambda: 3)
    monkeypatch.setattr("dcmark.train.loop._together", lambda _device: nullcontext(0))
    with pytest.raises(UsageError, match="processes x rounds"):
        train("pggan", TINY["pggan"], data_of(), tmp_path / "run", OPTIONS, device="cpu")
