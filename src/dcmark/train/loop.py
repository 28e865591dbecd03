"""Training: the same call starts a run, goes on with it exactly, or does nothing when it is done.

Every random number of a step follows from the seed of the run and the number of the step (and of the
process), and so does the order of the data: nothing depends on where a run was interrupted.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from dcmark.errors import TrainingError, UsageError
from dcmark.progress import NoProgress, Progress
from dcmark.train import base
from dcmark.train.adversarial import processes
from dcmark.train.augment import Augmentation, AugmentSettings
from dcmark.train.batches import Batches, stacked_labels
from dcmark.train.data import ImageData, Padded
from dcmark.train.run import Run, check_same
from dcmark.train.settings import check_range
from dcmark.train.sheets import contact_sheet

_MAY_CHANGE = (
    "images", "checkpoint_images", "report_images", "sheet_images", "keep", "workers", "compiled", "channels_last",
)  # fmt: skip
"""Options that do not change what is learned."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to train.

    Attributes:
        images: real images to be shown in all; training can be made longer later.
        batch: images a step, over all processes.
        rounds: parts that a batch goes through the networks in.
        seed: of everything random.
        mirror: show every image mirrored half of the times. Off: a heart is on one side.
        augment: adaptive augmentation, or None.
        pad: pad images that are no squares of a power of two.
        checkpoint_images, report_images, sheet_images: from one to the next, in images shown.
        keep: how many checkpoints stay.
        workers: threads that read images.
        compiled: let ``torch.compile`` work on the generator.
        channels_last: keep weights and images with the channels innermost, as tensor cores like them.
    """

    images: int = 25_000_000
    batch: int = 32
    rounds: int = 1
    seed: int = 0
    mirror: bool = False
    augment: AugmentSettings | None = None
    pad: bool = False
    checkpoint_images: int = 50_000
    report_images: int = 4_000
    sheet_images: int = 50_000
    keep: int = 2
    workers: int = 2
    compiled: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        for name in ("images", "batch", "rounds", "checkpoint_images", "report_images", "sheet_images", "keep"):
            check_range(self, name, 1, 1 << 40)
        check_range(self, "workers", 1, 256)
        check_range(self, "seed", 0, (1 << 31) - 1)
        if self.batch % self.rounds:
            raise UsageError(f"expected a batch of a multiple of {self.rounds} (rounds), found {self.batch}")


@dataclass
class Trained:
    """What a call of :func:`train` did.

    Attributes:
        run: the run directory.
        images_seen: images shown in all.
        resumed_at: images shown when this call began; 0 for a new run.
        learner: the model as it is now.
        last_report: means of the last reports.
    """

    run: Run
    images_seen: int
    resumed_at: int
    learner: base.Learner
    last_report: dict[str, Any] = field(default_factory=dict)


def pick_device(asked: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes CUDA, else MPS, else the CPU.

    Raises:
        UsageError: it is not there.
    """
    if asked == "auto":
        mps = torch.backends.mps.is_available()
        asked = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"expected a device of this machine (auto, cpu, cuda, mps), found {asked!r}") from error
    local = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", int(local)) if device.type == "cuda" and local else device


@contextmanager
def _together(device: torch.device) -> Iterator[int]:
    """Join the other processes of torchrun, if any; gives this one's rank."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield distributed.get_rank() if processes() > 1 else 0
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()


def prepare(model: str, given: Mapping[str, Any], data: ImageData, options: Options) -> tuple[ImageData, Any]:
    """Data as the model takes them, and the model's settings.

    Raises:
        UsageError: data, settings and model do not fit together.
    """
    kind = base.find(model)
    if options.pad:
        data = Padded(data)
    if options.augment is not None and not kind.capabilities.augmentation:
        raise UsageError(f"expected no augmentation for {model}, which cannot use it; leave --augment out")
    if data.labels and not kind.capabilities.labels:
        raise UsageError(f"expected data without labels for {model}, which cannot use them, found some")
    shape = base.ImageShape(*data.shape, labels=data.labels)
    return data, kind.settings(shape, given)


def _described(model: str, settings: Any, data: ImageData, options: Options) -> dict[str, Any]:
    about = {
        "shape": list(data.shape),
        "labels": data.labels,
        "count": len(data),
        "hash": data.hash,
        "archive_version": data.archive_version,
        "meaning": data.meaning.as_dict(),
        "within": list(data.within) if isinstance(data, Padded) else None,
    }
    plain = {"model": model, "settings": asdict(settings), "options": asdict(options), "data": about}
    described: dict[str, Any] = json.loads(json.dumps(plain))  # as it will be read back: tuples are lists
    return described


def train(
    model: str,
    given: Mapping[str, Any],
    data: ImageData,
    path: Path,
    options: Options,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    source: str = "",
) -> Trained:
    """Start a run, or go on with it where its last checkpoint is.

    Args:
        model: name of a model.
        given: settings that are not to be the model's own.
        data: what to learn from.
        path: the run directory; new, empty, or of a run with the same settings and data.
        source: where the data are, noted in a new run so that evaluations find them.

    Raises:
        UsageError: the run was started with other settings or other data, or these do not fit the model.
        TrainingError: a loss or weight is no longer finite; the last checkpoint is as it was.
        StorageError: a checkpoint could not be written; the one before it is as it was.
    """
    data, settings = prepare(model, given, data, options)
    config = _described(model, settings, data, options) | {"source": source}
    place = pick_device(device)
    with _together(place) as rank, torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        count = processes()
        if options.batch % (count * options.rounds):
            raise UsageError(
                f"expected a batch of a multiple of {count * options.rounds} (processes x rounds), "
                f"found {options.batch}"
            )
        run = _open(path, config, options) if rank == 0 else None
        if count > 1:
            distributed.barrier()
        run = run or Run(path)
        torch.manual_seed(options.seed)
        learner = base.find(model).learner(settings, base.ImageShape(*data.shape, labels=data.labels), place)
        learner.rounds = options.rounds
        if isinstance(data, Padded):
            learner.mask = torch.from_numpy(data.mask).to(place, torch.float32)
        if options.augment is not None:
            learner.augmentation = Augmentation(options.augment)
        if options.channels_last:
            for network in learner.networks().values():
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.compiled:
            learner.networks()["G"].compile()
        trainer = _Trainer(run, learner, data, options, place, rank, progress or NoProgress())
        return trainer.go()


def _open(path: Path, config: dict[str, Any], options: Options) -> Run:
    if not (path / "config.json").is_file():
        return Run.create(path, config)
    run = Run(path)
    if run.config.get("model") != config["model"]:
        raise UsageError(f"expected the model {run.config.get('model')!r} of this run, found {config['model']!r}")
    check_same(run.config["data"], config["data"], "the data's", but=("archive_version", "count"))
    check_same(run.config["settings"], config["settings"], "the setting")
    check_same(run.config["options"], config["options"], "the option", but=_MAY_CHANGE)
    del options
    return run


class _Trainer:
    """One process's part of a training."""

    def __init__(
        self,
        run: Run,
        learner: base.Learner,
        data: ImageData,
        options: Options,
        device: torch.device,
        rank: int,
        progress: Progress,
    ) -> None:
        self.run, self.learner, self.data, self.options = run, learner, data, options
        self.device, self.rank, self.progress = device, rank, progress
        self.step, self.seconds = 0, 0.0
        self.sums: dict[str, list[float]] = {}  # by name: sum and number of what was reported since the last line
        self.board: Any = None
        self.layout = torch.channels_last if options.channels_last else torch.contiguous_format

    def go(self) -> Trained:
        """Train until all images have been shown."""
        resumed = self._resume()
        learner, options = self.learner, self.options
        if self.rank == 0:
            self.board = _tensorboard(self.run.path, resumed)
            self.run.note_environment(self.device)
            if not resumed:
                self._reals()
                self._sheet()
        self.progress.start("train", options.images, "images")
        self.progress.advance(min(learner.images_seen, options.images))
        last: dict[str, Any] = (self.run.reports() or [{}])[-1]
        began = time.monotonic()
        batches = Batches(self.data, options, self.rank, processes())(self.step)
        try:
            while learner.images_seen < options.images:
                real, labels = next(batches)
                torch.manual_seed(_seed_of(options.seed, self.step, self.rank))
                shown = real.to(self.device, memory_format=self.layout)
                report = learner.step(shown, None if labels is None else labels.to(self.device))
                self.step += 1
                self._adapt(report)
                self._add(report)
                self.progress.advance(options.batch)
                done = learner.images_seen >= options.images
                if done or self._due(options.report_images):
                    self.seconds += time.monotonic() - began
                    began = time.monotonic()
                    last = self._report()
                if done or self._due(options.sheet_images):
                    self._sheet()
                if done or self._due(options.checkpoint_images):
                    self._save()
        finally:
            batches.close()  # type: ignore[attr-defined]
            self.progress.finish()
            if self.board is not None:
                self.board.close()
        return Trained(self.run, learner.images_seen, resumed, learner, last)

    def _due(self, interval: int) -> bool:
        seen = self.learner.images_seen
        return seen // interval > (seen - self.options.batch) // interval

    def _resume(self) -> int:
        found = self.run.checkpoints()
        if not found:
            if self.rank == 0:
                self.run.rewind_log(-1)
            return 0
        checkpoint = found[-1]
        self.learner.load_state_dict({k: v.to(self.device) for k, v in checkpoint.tensors().items()})
        self.step, self.seconds = int(checkpoint.about["step"]), float(checkpoint.about["seconds"])
        self.sums = {str(name): [float(total), int(count)] for name, (total, count) in checkpoint.about["sums"].items()}
        if self.learner.augmentation is not None:
            self.learner.augmentation.load_state(checkpoint.about["augmentation"])
        if self.rank == 0:
            self.run.rewind_log(checkpoint.images_seen)
        return checkpoint.images_seen

    def _adapt(self, report: dict[str, float]) -> None:
        augmentation = self.learner.augmentation
        if augmentation is not None and "discriminator/real_sign" in report:
            sign = torch.tensor(report["discriminator/real_sign"], dtype=torch.float64)
            if processes() > 1:
                sign = sign.to(self.device, torch.float32)
                distributed.all_reduce(sign)
                sign /= processes()
            augmentation.adapt(float(sign), self.options.batch)
            report["augmentation"] = augmentation.p

    def _add(self, report: Mapping[str, float]) -> None:
        bad = [name for name, value in report.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"expected finite losses, found {bad[0]} = {report[bad[0]]} after {self.learner.images_seen} images; "
                "the last checkpoint is whole: start a run with a lower learning rate or a higher penalty from there"
            )
        for name, value in report.items():
            total, count = self.sums.get(name, [0.0, 0])
            self.sums[name] = [total + value, count + 1]

    def _report(self) -> dict[str, Any]:
        seen = self.learner.images_seen
        rate = self.seconds / max(seen, 1) * 1000
        report: dict[str, Any] = {"images": seen, "seconds": round(self.seconds, 3), "seconds_per_kimg": round(rate, 3)}
        report["left_s"] = round(rate * max(self.options.images - seen, 0) / 1000, 1)
        if self.device.type == "cuda":
            report["memory_bytes"] = torch.cuda.max_memory_allocated(self.device)
        report |= {name: total / count for name, (total, count) in sorted(self.sums.items())}
        self.sums = {}
        if self.rank == 0:
            self.run.log(report)
            if self.board is not None:
                for name, value in report.items():
                    self.board.add_scalar(name, value, seen)
        return report

    def _save(self) -> None:
        if self.rank == 0:
            augmentation = self.learner.augmentation
            about = {
                "images_seen": self.learner.images_seen,
                "step": self.step,
                "seconds": self.seconds,
                "sums": self.sums,
                "augmentation": augmentation.state() if augmentation is not None else None,
                "data": self.data.hash,
            }
            self.run.save(self.learner.state_dict(), about, keep=self.options.keep)
        if processes() > 1:
            distributed.barrier()

    def _reals(self) -> None:
        chosen = np.linspace(0, len(self.data) - 1, min(len(self.data), 36)).astype(int)
        images = np.stack([self.data.meaning.to_model(self.data[int(i)][0]) for i in chosen])
        self.run.sheet("reals", contact_sheet(images))

    def _sheet(self) -> None:
        if self.rank != 0:
            return
        labels = None
        count = 16 if self.data.shape[1] > 256 else 36
        if self.data.labels:
            vectors = stacked_labels([self.data[i % len(self.data)][1] for i in range(count)], self.data.labels)
            labels = torch.from_numpy(vectors)
        images = [
            self.learner.sample([i], None if labels is None else labels[i : i + 1].to(self.device)).float().cpu()
            for i in range(count)
        ]
        self.run.sheet(f"{self.learner.images_seen:012}", contact_sheet(torch.cat(images).numpy()))


def _seed_of(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def _tensorboard(path: Path, images_seen: int) -> Any:
    """A writer where TensorBoard is installed, else None; what was logged after the checkpoint is taken back."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(path / "tensorboard"), purge_step=images_seen + 1 if images_seen else None)
