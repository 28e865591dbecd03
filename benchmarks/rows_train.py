"""Training: what a thousand images cost, by preset, and beside the same step written plainly.

On a processor the presets up to 256 pixels are measured with small batches in float32. Where there is a CUDA
device, all presets are measured on it as they are meant to be used, with the batch of their targets.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks import cost_train
from benchmarks.measure import PEAK
from benchmarks.table import Row, Setting, section

if TYPE_CHECKING:
    from torch import Tensor

BATCH_CUDA = 32
SMALL: tuple[tuple[str, str, int, int], ...] = (
    ("pggan", "tiny", 32, 16),
    ("stylegan3", "tiny", 32, 16),
    ("stylegan3", "t-64", 64, 4),
    ("stylegan3", "r-64", 64, 4),
    ("pggan", "ct-64", 64, 4),
    ("stylegan3", "t-128", 128, 4),
    ("pggan", "ct-128", 128, 4),
)
"""Model, preset, pixels of a side and batch on a processor."""
LARGE = (("stylegan3", "t-256", 256, 4), ("pggan", "ct-256", 256, 4))
TARGETS = {("stylegan3", "t-256"): 50.0, ("stylegan3", "t-512"): 90.0, ("stylegan3", "t-1024"): 157.0,
           ("stylegan3", "r-256"): 57.0}  # fmt: skip
"""s/kimg on one H200; the published figures of the authors' code on an A100."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a process of its own measures; see :func:`worker`."""

    model: str
    preset: str
    side: int
    batch: int
    device: str = "cpu"
    plain: bool = False
    steps: int = 3
    threads: int = 2


def _prepared(job: Job) -> tuple[Any, Any]:
    import torch

    from dcmark.train import base

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    kind = base.find(job.model)
    shape = base.ImageShape(1, job.side, job.side)
    given = dict(kind.presets[job.preset])
    if job.device == "cpu":
        given["precision"] = "float32"  # half precision is emulated there
    learner = kind.learner(kind.settings(shape, given), shape, job.device)
    if job.model == "pggan":
        learner.images_seen = 1 << 40  # grown to full size, where almost all of the time goes
    return learner, torch.rand(job.batch, 1, job.side, job.side, device=job.device) * 2 - 1


def worker(job: Job) -> None:
    """Print seconds for a thousand images and, with CUDA, the most memory, bytes."""
    import torch

    learner, images = _prepared(job)
    cuda = job.device.startswith("cuda")

    def step(number: int) -> float:
        if hasattr(learner, "steps"):
            learner.steps = number
        began = time.perf_counter()
        learner.step(images, None)
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    with plainly() if job.plain else mock.patch.object(learner, "rounds", 1):
        for warm in range(3 if cuda else 1):
            step(warm)
        usual = sorted(step(1) for _ in range(job.steps))[job.steps // 2]
        seconds = usual
        if hasattr(learner, "steps"):  # the penalty comes once in so many steps
            interval = learner.settings.r1_interval
            penalised = sorted(step(0) for _ in range(max(job.steps // 2, 1)))[0]
            seconds = ((interval - 1) * usual + penalised) / interval
    memory = torch.cuda.max_memory_allocated() if cuda else None
    print(json.dumps({"s_per_kimg": seconds / job.batch * 1000, "memory": memory}))


def measured(job: Job) -> tuple[float, int]:
    """Seconds for a thousand images, and the most memory, bytes: of the device, or of the process."""
    code = f"from benchmarks.rows_train import Job, worker\nworker({job!r})\n"
    ran = subprocess.run([sys.executable, "-c", code + PEAK], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(ran.stderr[-800:])
    told, peak = ran.stdout.split("\n")[-3:-1]
    found = json.loads(told)
    return found["s_per_kimg"], found["memory"] or int(peak)


@section("training", "Training generative models: seconds and memory for a thousand images")
def training_rows(setting: Setting) -> Iterator[Row]:
    """By preset: on the processor, beside the plain step, and on CUDA where there is any."""
    if importlib.util.find_spec("torch") is None:
        yield Row("a training step", None, note="not installed (torch); make bench-train installs it")
        return
    import torch

    yield from _processor(setting.turns < 5)
    if not torch.cuda.is_available():
        for (_, preset), target in TARGETS.items():
            estimate = cost_train.work(preset, BATCH_CUDA).words()
            note = f"there was no CUDA device; the target is for one H200; {estimate}"
            yield Row(f"StyleGAN3 {preset.upper()} on CUDA, batch {BATCH_CUDA}", None, "s/kimg", target, note=note)
        return
    yield from _cuda(torch.cuda.get_device_name())


def _processor(quick: bool) -> Iterator[Row]:
    for model, preset, side, batch in SMALL[:3] if quick else SMALL:
        own: list[float] = []
        plain: list[float] = []
        memory = other = 0
        for _ in range(1 if quick else 3):  # in turn: what else the machine does hits both alike
            seconds, memory = measured(Job(model, preset, side, batch))
            own.append(seconds)
            seconds, other = measured(Job(model, preset, side, batch, plain=True))
            plain.append(seconds)
        middle, beside = sorted(own)[len(own) // 2], sorted(plain)[len(plain) // 2]
        name = f"{model} {preset}, {side} px, batch {batch}, two threads"
        yield Row(name, middle, "s/kimg", note=f"float32, {memory / 1e9:.2f} GB in all")
        note = f"plain: {beside:.0f} s/kimg, {other / 1e9:.2f} GB"
        yield Row(f"{name}: times as fast as the plain step", beside / middle, "x", 1.0, "least", note)
    for model, preset, side, batch in () if quick else LARGE:
        seconds, memory = measured(Job(model, preset, side, batch, steps=1))
        name = f"{model} {preset}, {side} px, batch {batch}, two threads"
        yield Row(name, seconds, "s/kimg", note=f"float32, {memory / 1e9:.2f} GB in all; no place to train it")


def _cuda(device: str) -> Iterator[Row]:
    from dcmark.train import base

    for model in ("stylegan3", "pggan"):
        for preset in base.find(model).presets:
            side = preset.rpartition("-")[2]
            if not side.isdigit():
                continue
            job = Job(model, preset, int(side), BATCH_CUDA, "cuda", steps=9)
            name = f"{model} {preset} on {device}, batch {BATCH_CUDA}"
            try:
                seconds, memory = measured(job)
            except RuntimeError as error:
                reason = "out of memory" if "out of memory" in str(error) else str(error).strip().splitlines()[-1][:100]
                yield Row(name, None, "s/kimg", TARGETS.get((model, preset)), note=reason)
                continue
            yield Row(
                name, seconds, "s/kimg", TARGETS.get((model, preset)), "most", f"{memory / 1e9:.1f} GB on the device"
            )


# The same step, written plainly -------------------------------------------------------------------------------------


@contextmanager
def plainly() -> Iterator[None]:
    """Within it, networks use the textbook forms of their operations: the same results, every step spelled out."""
    from dcmark.train import layers, signal
    from dcmark.train.pggan import networks
    from dcmark.train.stylegan2 import discriminator as judge
    from dcmark.train.stylegan2 import generator as older
    from dcmark.train.stylegan3 import generator, training

    places: list[tuple[Any, str, Callable[..., Any]]] = [
        (module, name, function)
        for name, function in (("resample", plain_resample), ("modulated_conv2d", plain_modulated_conv2d))
        for module in (layers, signal, judge, older, generator, training)
        if hasattr(module, name)
    ]
    places.append((networks.EqualizedConv, "forward", plain_equalized_conv))
    patches = [mock.patch.object(*place) for place in places]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def plain_resample(
    x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, padding: Any = (0, 0, 0, 0), gain: float = 1.0
) -> Tensor:
    """Zeros between the samples, padding, one convolution with the whole kernel, every so many samples kept."""
    import torch
    from torch.nn import functional

    count, channels, height, width = x.shape
    if up > 1:
        spread = x.reshape(count, channels, height, 1, width, 1)
        spread = functional.pad(spread, (0, up - 1, 0, 0, 0, up - 1))
        x = spread.reshape(count, channels, height * up, width * up)
    x = functional.pad(x, padding)
    whole = torch.outer(kernel, kernel) if kernel.ndim == 1 else kernel
    whole = (whole * gain).to(x.dtype).flip(0, 1).expand(channels, 1, -1, -1)
    return functional.conv2d(x, whole, groups=channels)[:, :, ::down, ::down]


def plain_modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    gain: Tensor | None = None,
    padding: int = 0,
    up: bool = False,
) -> Tensor:
    """Weights for every sample, in one grouped convolution, as the paper puts it."""
    from torch.nn import functional

    count, channels, height, width = x.shape
    each = weight[None] * style[:, None, :, None, None]
    if demodulate:
        each = each * (each.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    if gain is not None:
        each = each * gain
    each = each.to(x.dtype)
    x = x.reshape(1, count * channels, height, width)
    if up:
        turned = each.transpose(1, 2).reshape(count * channels, -1, *weight.shape[2:])
        x = functional.conv_transpose2d(x, turned, stride=2, padding=padding, groups=count)
    else:
        x = functional.conv2d(x, each.reshape(-1, *weight.shape[1:]), padding=padding, groups=count)
    return x.reshape(count, -1, *x.shape[2:])


def plain_equalized_conv(self: Any, x: Tensor) -> Tensor:
    """Doubling by repeated pixels before the convolution, halving by averages after it."""
    from torch.nn import functional

    weight = self.weight * self.scale
    if self.change == 1:
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        return functional.conv2d(x, weight.transpose(0, 1).flip(2, 3), self.bias, padding=self.padding)
    x = functional.conv2d(x, weight, self.bias, padding=self.padding)
    return functional.avg_pool2d(x, 2) if self.change == -1 else x
