"""A run: exact resumption after any end, errors that leave the last checkpoint whole, and what it writes down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcmark.errors import OutputExistsError, SourceError, StorageError, TrainingError, UsageError
from dcmark.train import base
from dcmark.train.augment import AugmentSettings
from dcmark.train.data import ArrayImages, Meaning
from dcmark.train.demo import phantom_data
from dcmark.train.loop import Batches, Options, pick_device, train
from dcmark.train.run import Run
from dcmark.train.sampling import open_sampler

TINY: dict[str, dict[str, Any]] = {
    "pggan": {"capacity": 64, "widest": 8, "steady": 32, "fading": 32, "group": 4},
    "stylegan3": {
        "capacity": 64, "widest": 8, "layers": 4, "latent": 8, "style": 8, "margin": 2, "r1_interval": 3,
        "half_life": 100,
    },
}  # fmt: skip
OPTIONS = Options(
    images=96, batch=8, checkpoint_images=32, report_images=16, sheet_images=64, seed=3, workers=2, mirror=True
)


def data_of(labels: bool = False, side: int = 16) -> ArrayImages:
    data = phantom_data(20, side)
    return ArrayImages(data._images[:, 0], np.arange(20) % 2 if labels else None, data.meaning)


def options_for(model: str) -> Options:
    return replace(OPTIONS, augment=AugmentSettings(images=200)) if model == "stylegan3" else OPTIONS


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return Run(run).last_checkpoint().tensors()


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


@pytest.mark.parametrize("model", ["pggan", "stylegan3"])
@pytest.mark.parametrize("labels", [False, True])
def test_going_on_is_exact(model: str, labels: bool, tmp_path: Path) -> None:
    data, options = data_of(labels), options_for(model)
    whole = train(model, TINY[model], data, tmp_path / "whole", options, device="cpu")
    for images in (40, 40, 72, 96):  # 40 is between two checkpoints, and asked for twice
        torch.manual_seed(images)  # what else happens in the process must not matter
        part = train(model, TINY[model], data, tmp_path / "parts", replace(options, images=images), device="cpu")
    assert part.images_seen == whole.images_seen == 96
    assert_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    first, second = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    about = [run.last_checkpoint().about for run in (first, second)]
    assert about[0]["augmentation"] == about[1]["augmentation"]
    if model == "stylegan3" and not labels:
        assert about[0]["augmentation"]["p"] > 0
    images = [r["images"] for r in second.reports()]
    assert images == sorted(set(images)) and images[-1] == 96


@pytest.mark.parametrize("model", ["pggan", "stylegan3"])
def test_kill_and_go_on_is_exact(model: str, tmp_path: Path) -> None:
    """The process is killed outright, several times over, wherever it happens to be."""
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\nfrom dataclasses import replace\n"
        "sys.path.insert(0, sys.argv[3])\nfrom test_train_run import TINY, data_of, options_for\n"
        "from dcmark.train.loop import train\n"
        "options = replace(options_for(sys.argv[2]), images=480)\n"
        "train(sys.argv[2], TINY[sys.argv[2]], data_of(), Path(sys.argv[1]), options, device='cpu')\n"
    )
    here = str(Path(__file__).parent)

    def command(run: Path) -> list[str]:
        return [sys.executable, "-c", code, str(run), model, here]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    killed = 0
    for _ in range(12):
        process = subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        before = len(Run(tmp_path / "killed").reports()) if (tmp_path / "killed" / "config.json").exists() else 0
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            log = tmp_path / "killed" / "log.jsonl"
            if killed < 3 and log.exists() and len(log.read_bytes().splitlines()) >= before + 3:
                process.kill()
                killed += 1
            time.sleep(0.01)
        _, err = process.communicate()
        assert process.returncode in {0, -9, 1 if os.name == "nt" else 0}, err.decode()
        if process.returncode == 0:
            break
    assert killed == 3
    assert_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "killed"))


def test_gradient_accumulation_is_the_same_step() -> None:
    shape = base.ImageShape(1, 16, 16)
    kind = base.find("stylegan3")
    states = []
    for rounds in (1, 2):
        torch.manual_seed(0)
        learner = kind.learner(kind.settings(shape, TINY["stylegan3"] | {"group": 1}), shape)
        learner.rounds = rounds
        learner.generator.double(), learner.discriminator.double(), learner.average.double()  # type: ignore[attr-defined]
        torch.manual_seed(1)
        real, z = torch.randn(8, 1, 16, 16, dtype=torch.float64), torch.randn(2, 8, 8, dtype=torch.float64)
        learner(real, None, (z[0], z[1]))  # type: ignore[operator]
        states.append(learner.state_dict())
    for name, value in states[0].items():
        if "magnitude" not in name and not name.endswith("mean"):  # running statistics move once a part
            torch.testing.assert_close(states[1][name].double(), value.double(), atol=1e-5, rtol=1e-4)


def test_the_run_directory(tmp_path: Path) -> None:
    data = data_of()
    train("pggan", TINY["pggan"], data, tmp_path / "run", OPTIONS, device="cpu", source="somewhere")
    run = Run(tmp_path / "run")
    assert run.config["data"]["hash"] == data.hash and run.config["model"] == "pggan" and run.config["source"]
    assert [c.images_seen for c in run.checkpoints()] == [64, 96]
    starts = json.loads((run.path / "environment.json").read_text())["starts"]
    assert starts[0]["torch"] == torch.__version__
    sheets = sorted(path.name for path in (run.path / "sheets").iterdir())
    assert "reals.png" in sheets and "000000000096.png" in sheets
    assert {"images", "seconds", "seconds_per_kimg", "left_s", "generator/loss"} <= run.reports()[-1].keys()
    assert not list(run.path.rglob("*.draft"))


def test_samples_are_the_same_alone_and_again(tmp_path: Path) -> None:
    trained = train("stylegan3", TINY["stylegan3"], data_of(), tmp_path / "run", OPTIONS, device="cpu")
    sampler = open_sampler(tmp_path / "run")
    images = np.stack(list(sampler.images([5, 6, 7])))
    alone = next(sampler.images([6]))
    np.testing.assert_allclose(images[1], alone, atol=1e-5)
    np.testing.assert_array_equal(images, trained.learner.sample([5, 6, 7], None).numpy())
    typical = np.stack(list(sampler.images([5, 6, 7], truncation=0.0)))
    np.testing.assert_allclose(typical[0], typical[1], atol=1e-5)
    walk = np.stack(list(sampler.walk([5, 7], 5)))
    np.testing.assert_allclose(walk[[0, 4]], images[[0, 2]], atol=1e-5)
    assert sampler.origin.images_seen == 96


def test_padded_images_are_made_without_the_padding(tmp_path: Path) -> None:
    data = ArrayImages(phantom_data(16, 16)._images[:, 0, :12, :], meaning=Meaning(-1000, 1000))
    train("pggan", TINY["pggan"], data, tmp_path / "run", replace(OPTIONS, pad=True), device="cpu")
    sampler = open_sampler(tmp_path / "run")
    assert sampler.shape == (1, 12, 16) and next(sampler.images([0])).shape == (1, 12, 16)


def test_labels_choose_what_is_made(tmp_path: Path) -> None:
    train("stylegan3", TINY["stylegan3"], data_of(labels=True), tmp_path / "run", OPTIONS, device="cpu")
    sampler = open_sampler(tmp_path / "run")
    first, second = next(sampler.images([0], 0)), next(sampler.images([0], 1))
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(next(sampler.images([0], [1.0, 0.0])), first, atol=1e-6)
    for wrong in (None, 2, [0.5]):
        with pytest.raises(UsageError, match="expected a"):
            next(sampler.images([0], wrong))


class Poisoned(ArrayImages):
    """Data whose last image turns into NaN once asked for often enough."""

    asked = 0

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        self.asked += 1
        return (np.full_like(image, np.nan) if self.asked > 60 else image), label


def test_nan_in_the_data_stops_with_the_checkpoint_whole(tmp_path: Path) -> None:
    images = phantom_data(20, 16)._images.astype(np.float32)
    data = Poisoned(images, meaning=Meaning(-1000, 1000))
    with pytest.raises(TrainingError, match="NaN"):
        train("pggan", TINY["pggan"], data, tmp_path / "run", OPTIONS, device="cpu")
    assert all(v.isfinite().all() for v in state_of(tmp_path / "run").values())


@pytest.mark.parametrize("model", ["pggan", "stylegan3"])
def test_nan_losses_stop_with_the_checkpoint_whole(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(model, TINY[model], data_of(), tmp_path / "run", replace(OPTIONS, images=64), device="cpu")
    before = state_of(tmp_path / "run")
    kind = type(
        base.find(model).learner(
            base.find(model).settings(base.ImageShape(1, 16, 16), TINY[model]), base.ImageShape(1, 16, 16)
        )
    )
    original = kind.step

    def overflowing(self: Any, images: torch.Tensor, labels: Any) -> dict[str, float]:
        with torch.no_grad():
            next(self.generator.parameters()).fill_(float("inf"))
        return original(self, images, labels)

    monkeypatch.setattr(kind, "step", overflowing)
    with pytest.raises(TrainingError, match="expected a finite loss"):
        train(model, TINY[model], data_of(), tmp_path / "run", OPTIONS, device="cpu")
    assert_equal(state_of(tmp_path / "run"), before)
    monkeypatch.undo()
    train(model, TINY[model], data_of(), tmp_path / "run", OPTIONS, device="cpu")


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    with pytest.raises(TrainingError, match="NaN"):
        run.save({"a": torch.tensor([1.0, float("nan")])}, {"images_seen": 1}, keep=2)
    assert run.checkpoints() == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    train("pggan", TINY["pggan"], data_of(), tmp_path / "run", replace(OPTIONS, images=32), device="cpu")
    before = state_of(tmp_path / "run")
    code = (
        "import sys, resource, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\nsys.path.insert(0, sys.argv[2])\n"
        "from test_train_run import TINY, OPTIONS, data_of\nfrom dcmark.train.loop import train\n"
        "from dcmark.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try:\n train('pggan', TINY['pggan'], data_of(), Path(sys.argv[1]), OPTIONS, device='cpu')\n"
        "except StorageError as error:\n print(error)\n sys.exit(9)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    assert "make room" in done.stdout
    assert_equal(state_of(tmp_path / "run"), before)
    assert not list((tmp_path / "run" / "checkpoints").glob("*.draft"))
    train("pggan", TINY["pggan"], data_of(), tmp_path / "run", OPTIONS, device="cpu")


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create(tmp_path / "run", {})
    run.save({"a": torch.ones(2)}, {"images_seen": 1}, keep=2)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="disk full"):
        run.save({"a": torch.zeros(2)}, {"images_seen": 2}, keep=2)
    assert torch.equal(run.last_checkpoint().tensors()["a"], torch.ones(2))


def test_another_view_is_refused(tmp_path: Path) -> None:
    train("pggan", TINY["pggan"], data_of(), tmp_path / "run", replace(OPTIONS, images=32), device="cpu")
    before = state_of(tmp_path / "run")
    other = phantom_data(20, 16, seed=9)
    with pytest.raises(UsageError, match="data's hash"):
        train("pggan", TINY["pggan"], other, tmp_path / "run", OPTIONS, device="cpu")
    with pytest.raises(UsageError, match="setting capacity"):
        train("pggan", TINY["pggan"] | {"capacity": 32}, data_of(), tmp_path / "run", OPTIONS, device="cpu")
    with pytest.raises(UsageError, match="option seed"):
        train("pggan", TINY["pggan"], data_of(), tmp_path / "run", replace(OPTIONS, seed=4), device="cpu")
    with pytest.raises(UsageError, match="the model"):
        train("stylegan3", TINY["stylegan3"], data_of(), tmp_path / "run", OPTIONS, device="cpu")
    assert_equal(state_of(tmp_path / "run"), before)


@pytest.mark.parametrize("model", ["pggan", "stylegan3"])
def test_sizes_that_do_not_fit(model: str, tmp_path: Path) -> None:
    data = ArrayImages(np.zeros((8, 48, 48), np.uint8))
    with pytest.raises(UsageError, match=r"power of two.*48x48.*--pad"):
        train(model, {}, data, tmp_path / "run", OPTIONS, device="cpu")
    assert not (tmp_path / "run").exists()


def test_labels_that_are_missing(tmp_path: Path) -> None:
    class Forgetful(ArrayImages):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image, label if index else None

    data = Forgetful(np.zeros((8, 16, 16), np.uint8), np.arange(8) % 2)
    with pytest.raises(TrainingError, match="label"):
        train("pggan", TINY["pggan"], data, tmp_path / "run", OPTIONS, device="cpu")


@pytest.mark.parametrize(
    "wrong",
    [{"capacity": "many"}, {"surprise": 1}, {"widest": "3.5"}, {"fresh_start": "perhaps"}, {"steady": 0, "fading": 0}],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected"):
        train("pggan", wrong, data_of(), tmp_path / "run", OPTIONS, device="cpu")


def test_settings_from_a_command_line_are_read_as_what_they_are() -> None:
    settings = base.find("pggan").settings(
        base.ImageShape(1, 16, 16), {"capacity": "128", "rate": "2e-3", "fresh_start": "no", "latent": "none"}
    )
    assert (settings.capacity, settings.rate, settings.fresh_start, settings.latent) == (128, 0.002, False, None)


def test_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(OutputExistsError):
        train("pggan", TINY["pggan"], data_of(), tmp_path, OPTIONS, device="cpu")
    with pytest.raises(SourceError):
        open_sampler(tmp_path)
    with pytest.raises(UsageError):
        base.find("surprise")
    with pytest.raises(UsageError):
        pick_device("abacus")


def test_every_image_once_an_epoch() -> None:
    data = data_of()
    batches = Batches(data, replace(OPTIONS, mirror=False, batch=10), 0, 1)
    epoch = [index for step in range(2) for index, _ in batches.indices(step)]
    assert sorted(epoch) == list(range(20))
    halves = [Batches(data, replace(OPTIONS, batch=10), rank, 2).indices(3) for rank in (0, 1)]
    assert halves[0] + halves[1] == Batches(data, replace(OPTIONS, batch=10), 0, 1).indices(3)


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """torchrun's environment, gloo on the CPU: both see halves of each batch and agree on the gradients."""
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\nfrom dataclasses import replace\nsys.path.insert(0, sys.argv[2])\n"
        "from test_train_run import TINY, OPTIONS, data_of\nfrom dcmark.train.loop import train\n"
        "t = train('pggan', TINY['pggan'], data_of(), Path(sys.argv[1]), OPTIONS, device='cpu')\n"
        "w = torch.cat([p.flatten() for p in t.learner.generator.parameters()])\n"
        "print(t.images_seen, float(w.double().sum()))\n"
    )
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = []
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        command = [sys.executable, "-c", code, str(tmp_path / "run"), str(Path(__file__).parent)]
        both.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    found = []
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        found.append(out.split())
    assert found[0] == found[1] and found[0][0] == "96"
