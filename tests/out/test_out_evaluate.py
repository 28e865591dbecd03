"""Judging a model: good ones come near the floor, bad ones do not, copies are found, the page holds it all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.testing
from numpy.typing import NDArray

from dcmark.cli.app import app
from dcmark.errors import DcmarkError, SourceError, UsageError
from dcmark.out import features
from dcmark.out.evaluate import Evaluation, evaluate
from dcmark.out.evaluation_page import write_page
from dcmark.out.memorisation import memorisation
from dcmark.train import loop
from dcmark.train.demo import phantom_data

DATA = phantom_data(300, 32)
REAL = np.stack([DATA.meaning.to_model(DATA[i][0]) for i in range(300)])


def others(count: int, seed: int = 5) -> NDArray[np.float32]:
    """Chests of people the model was not shown."""
    data = phantom_data(count, 32, seed)
    return np.stack([data.meaning.to_model(data[i][0]) for i in range(count)])


@pytest.fixture(scope="module")
def perfect() -> Evaluation:
    return evaluate(
        REAL, others(200), held_out=others(200, 6), to_physical=DATA.meaning.to_physical, unit="HU", repeats=6
    )


@pytest.fixture(scope="module")
def poor() -> Evaluation:
    blurred = others(200)
    blurred = (blurred + np.roll(blurred, 2, axis=2) + np.roll(blurred, 2, axis=3)) / 3
    return evaluate(REAL, blurred, to_physical=DATA.meaning.to_physical, unit="HU", repeats=6)


def test_a_perfect_model_is_at_the_floor(perfect: Evaluation, poor: Evaluation) -> None:
    names = {score.name for score in perfect.scores}
    assert names >= {
        "Fréchet distance", "kernel distance", "precision", "recall", "density", "coverage", "sliced Wasserstein",
        "MS-SSIM of pairs", "spectrum gap", "histogram gap",
    }  # fmt: skip
    for score in perfect.scores:
        assert score.low <= score.value <= score.high
        assert set(score.baselines) == {"shuffled pixels", "mean image", "one image"}
    for name in ("Fréchet distance", "sliced Wasserstein", "spectrum gap"):
        good, bad = perfect.score(name), poor.score(name)
        assert good.value < 2.5 * good.floor, name
        assert bad.low > good.high, name
        assert min(good.baselines.values()) > 2 * good.value, name
    assert perfect.score("coverage").value > 0.8 > poor.score("coverage").value
    assert perfect.tissues["real"]["lung"] == pytest.approx(perfect.tissues["made"]["lung"], rel=0.1)
    with pytest.raises(UsageError, match="expected one of"):
        perfect.score("beauty")


def test_degenerate_models_are_told_apart(perfect: Evaluation) -> None:
    """One image over and over is precise and covers nothing; all pairs of it are alike."""
    assert perfect.score("MS-SSIM of pairs").baselines["one image"] > 0.99
    assert perfect.score("recall").baselines["one image"] < 0.05
    assert perfect.score("precision").baselines["shuffled pixels"] == 0


def test_the_same_seed_the_same_verdict() -> None:
    found = [evaluate(REAL[:60], others(40), repeats=3, seed=s).as_dict() for s in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[0]["scores"] != found[2]["scores"]


def test_copies_are_found(perfect: Evaluation) -> None:
    assert not perfect.memorisation.alarm
    assert perfect.memorisation.ratio == pytest.approx(1, abs=0.1)
    assert perfect.memorisation.authenticity > 0.4
    made = others(40)
    rng = np.random.default_rng(0)
    for place, source in ((3, 17), (20, 250)):  # one as it is, one noisy and a little brighter
        made[place] = REAL[source] + (rng.normal(0, 0.01, REAL[0].shape) + 0.01 if place == 20 else 0)
    found = memorisation(REAL, made, others(300, 6))
    assert found.near_copies == [3, 20]
    assert (found.nearest[3], found.nearest[20]) == (17, 250)
    assert found.alarm
    thief = memorisation(REAL, REAL[:100], others(300, 6))
    assert thief.authenticity == 0
    assert thief.ratio is not None
    assert thief.ratio < 0.1


@pytest.mark.parametrize(
    ("real", "made", "words"),
    [
        (REAL[:10], REAL[:20], "at least 16 real"),
        (REAL[:20], REAL[:20, :, :16], "made images"),
        (REAL[:20], np.full((20, 1, 32, 32), np.nan, np.float32), "finite"),
    ],
)
def test_what_cannot_be_judged(real: Any, made: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        evaluate(real, made)


def test_the_page_holds_it_all(perfect: Evaluation, tmp_path: Path) -> None:
    title = "<script>alert(1)</script>"
    write_page(perfect, REAL, others(200), tmp_path / "page.html", title=title)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert title not in page
    assert "<svg" in page
    assert "data:image/png;base64," in page
    assert not re.findall(r"(?:src|href)=[\"']?(?!data:|#)[a-z/]", page)  # nothing is loaded from elsewhere
    for score in perfect.scores:
        assert score.name in page


def test_random_features_are_fixed() -> None:
    first, again = features.random_features(1), features.random_features(1)
    torch.manual_seed(1)
    assert first.hash == again.hash != features.random_features(3).hash
    np.testing.assert_array_equal(first(REAL[:5]), again(REAL[:5]))
    # The identity that reports carry; a change of the features must come with another version.
    assert features.RANDOM_VERSION == 1
    assert first.name.endswith("version 1")


def test_an_encoder_trained_on_the_data_knows_it_again(tmp_path: Path) -> None:
    trained = features.trained_features(REAL, steps=40)
    features.save_extractor(trained, tmp_path / "own.safetensors")
    loaded = features.load_extractor(tmp_path / "own.safetensors", 1)
    np.testing.assert_allclose(loaded(REAL[:4]), trained(REAL[:4]), atol=1e-6)
    assert len(loaded.hash) == 64
    with pytest.raises(UsageError, match="3 channels"):
        features.load_extractor(tmp_path / "own.safetensors", 3)


class Halves(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)


def test_torchscript_of_ones_own(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is old, and what evaluation networks are passed on as
        torch.jit.script(Halves()).save(str(tmp_path / "own.pt"))
    found = features.load_extractor(tmp_path / "own.pt", 1)
    np.testing.assert_allclose(found(REAL[:3])[:, 0], REAL[:3].mean((1, 2, 3)), atol=1e-6)
    judged = evaluate(REAL[:60], others(40), extractor=found, repeats=2)
    assert judged.extractor == {"name": "TorchScript from a file", "hash": found.hash}


@pytest.mark.parametrize("name", ["nothing.pt", "noise.pt", "noise.safetensors", "other.safetensors"])
def test_what_is_no_extractor(name: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "noise.pt").write_bytes(b"PK\3\4" + bytes(range(256)))
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 100)
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(SourceError, match="expected an extractor"):
        features.load_extractor(tmp_path / name, 1)


def test_a_pickle_is_not_opened_as_an_extractor(tmp_path: Path) -> None:
    """``torch.save`` of a module is a pickle; it is refused, not run."""

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.mkdir, (tmp_path / "executed",))

    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(SourceError):
        features.load_extractor(tmp_path / "evil.pt", 1)
    assert not (tmp_path / "executed").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A barely trained model, and the data it learned from."""
    folder = tmp_path_factory.mktemp("evaluated")
    np.save(folder / "data.npy", DATA._images[:60, 0])
    (folder / "data.meaning.json").write_text(json.dumps(DATA.meaning.as_dict()))
    from dcmark.train.data import open_images

    small = {"capacity": 64, "widest": 8, "steady": 16, "fading": 16}
    options = loop.Options(images=64, batch=8, checkpoint_images=64, report_images=64, sheet_images=64)
    data = open_images(folder / "data.npy")
    loop.train("pggan", small, data, folder / "run", options, device="cpu", source=str(folder / "data.npy"))
    return folder / "run"


def call(*words: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(app, [*words, "--quiet"])


@pytest.mark.parametrize("kind", ["random", "trained"])
def test_the_command(run: Path, tmp_path: Path, kind: str) -> None:
    page = tmp_path / "page.html"
    done = call("evaluate", str(run), "-n", "32", "--features", kind, "--out", str(page), "--json")
    assert done.exit_code == 0, done.exception
    told = json.loads(done.stdout)
    assert told["about"]["model"] == "pggan"
    assert told["counts"]["made"] == 32
    assert json.loads(page.with_suffix(".json").read_text("utf-8")) == told
    scores = {score["name"]: score for score in told["scores"]}
    assert scores["Fréchet distance"]["value"] > 5 * scores["Fréchet distance"]["floor"]  # it has hardly learned


def test_data_that_changed_since(run: Path) -> None:
    source = Path(json.loads((run / "config.json").read_text("utf-8"))["source"])
    before = source.read_bytes()
    try:
        np.save(source, DATA._images[1:61, 0])
        done = call("evaluate", str(run), "-n", "16")
        assert isinstance(done.exception, DcmarkError)
        assert "changed since" in str(done.exception)
    finally:
        source.write_bytes(before)
