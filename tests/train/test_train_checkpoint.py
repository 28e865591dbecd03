"""Official checkpoints come in exactly; whatever else comes in does nothing."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_pickles import EXECUTES, REFUSED, with_source

from dcmark.errors import LimitError, SourceError, UnsupportedError, UsageError
from dcmark.train import _machine, checkpoint
from dcmark.train.checkpoint import Imported, export_official_state, import_official, load, save

STYLEGAN, PGGAN = "ckpt_sg3t_r32_c1", "ckpt_pggan_r16_c1"


@pytest.fixture(params=[STYLEGAN, PGGAN])
def official(request: pytest.FixtureRequest, golden: Path) -> tuple[Path, dict[str, Any]]:
    path = golden / "gan" / f"{request.param}.pkl"
    with np.load(golden / "gan" / f"{request.param}.expected.npz", allow_pickle=False) as expected:
        return path, dict(expected)


def tensors_of(expected: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in expected.items():
        if key.startswith(("state/", "var/")):
            _, network, tensor = key.split("/", 2)
            found.setdefault(network, {})[tensor] = torch.from_numpy(value)
    return found


def assert_same(found: dict[str, dict[str, torch.Tensor]], expected: dict[str, dict[str, torch.Tensor]]) -> None:
    assert found.keys() == expected.keys()
    for network, tensors in expected.items():
        assert found[network].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[network][name].dtype == tensor.dtype, name
            assert torch.equal(found[network][name], tensor), name


def test_every_tensor_is_exact(official: tuple[Path, dict[str, Any]]) -> None:
    path, expected = official
    assert_same(import_official(path).tensors, tensors_of(expected))


@torch.no_grad()
def test_the_same_images(official: tuple[Path, dict[str, Any]]) -> None:
    path, expected = official
    imported = import_official(path)
    latents = torch.from_numpy(expected["z" if "z" in expected else "latents"])
    tolerance = 1e-5 if "z" in expected else 3e-5
    for key in ("img_G", "img_G_ema", "img_Gs"):
        if key in expected:
            images, reference = imported.model(key.removeprefix("img_"))(latents), torch.from_numpy(expected[key])
            assert float((images - reference).abs().max()) <= tolerance * max(1.0, float(reference.abs().max()))
    if "logits_D" in expected:
        images = torch.from_numpy(expected["img_G_ema"])
        scores = imported.model("D")(torch.cat([images, images]))  # a group of four was recorded
        reference = torch.from_numpy(expected["logits_D"])
        assert scores.shape == reference.shape
        assert float((scores - reference).abs().max()) <= 1e-5 * max(1.0, float(reference.abs().max()))


def test_saved_and_read_again(official: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, expected = official
    first = import_official(path)
    save(first, tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert_same(again.tensors, tensors_of(expected))
    assert again.config == first.config
    exported = {name: export_official_state(first.model(name)) for name in ("G", "D")}
    assert_same(exported, {name: first.tensors[name] for name in exported})
    assert Imported.of({"G": first.model("G"), "D": first.model("D")}).config["networks"].keys() == {"G", "D"}


def test_nothing_of_where_the_data_lay_is_kept(golden: Path) -> None:
    assert "dataset.zip" not in json.dumps(import_official(golden / "gan" / f"{STYLEGAN}.pkl").config)


def test_the_payloads_are_live(tmp_path: Path) -> None:
    """What is refused below does act where a loader of Python's is let at it."""
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    for number, build in enumerate(EXECUTES.values()):
        if number % 4:  # a process each: a quarter of them shows enough
            continue
        marker = tmp_path / f"executed{number}"
        subprocess.run([sys.executable, "-c", code], input=build(str(marker)), capture_output=True, check=False)
        assert marker.is_dir(), list(EXECUTES)[number]


@pytest.mark.parametrize("name", [*EXECUTES, *REFUSED])
def test_hostile_pickles_execute_nothing(name: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "hostile.pkl"
    path.write_bytes((EXECUTES.get(name) or REFUSED[name])(str(marker)))
    with pytest.raises(UnsupportedError, match="nothing in the file was executed") as refusal:
        import_official(path)
    assert not marker.exists()
    assert "kept from" not in str(refusal.value)  # refused by the reader, before any guard around it had to act
    assert str(tmp_path) not in str(refusal.value)


def test_the_recorded_hostile_pickle(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = sorted((golden / "gan").glob("hostile_*.pkl"))
    assert found
    for path in found:
        with pytest.raises(UnsupportedError):
            import_official(path)
    assert not any(tmp_path.iterdir())


def test_source_text_in_a_checkpoint_is_left_alone(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "checkpoint.pkl"
    path.write_bytes(with_source(str(marker)))
    imported = import_official(path)
    assert imported.tensors == {"G_ema": {}} and not marker.exists()
    with pytest.raises(UnsupportedError):
        imported.model()


def test_the_guard_stops_what_the_reader_would_let_through(tmp_path: Path) -> None:
    """Even a reader with a hole could open, import and start nothing."""
    for deed in (
        "open('x', 'w')",
        "__import__('wave')",
        "__import__('os').mkdir('x')",
        "__import__('socket').socket()",
    ):
        code = (
            f"import sys; sys.path.append(sys.argv[1]); from dcmark.train._unpickle import confine; confine(10); {deed}"
        )
        root = str(Path(checkpoint.__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, root], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 5
    assert not any(tmp_path.iterdir())


def test_damage_is_refused_or_harmless(golden: Path) -> None:
    """Hundreds of damaged copies, read as data in this very process: an error, or plain data."""
    whole = {name: (golden / "gan" / f"{name}.pkl").read_bytes() for name in (STYLEGAN, PGGAN)}
    rng = random.Random(7)
    refused = 0
    for number in range(300):
        data = bytearray(whole[PGGAN if number % 4 else STYLEGAN])
        for _ in range(rng.choice([1, 1, 4])):
            data[rng.randrange(min(len(data), 3000) if number % 2 else len(data))] = rng.randrange(256)
        if number % 5 == 0:
            del data[rng.randrange(len(data)) :]
        reader = _machine.Reader(memoryview(bytes(data)))
        try:
            _machine.Machine(reader, _machine.Budget(len(data))).run()
        except Exception:
            refused += 1
    assert refused > 30


def test_cut_off_files_are_refused(golden: Path, tmp_path: Path) -> None:
    data = (golden / "gan" / f"{PGGAN}.pkl").read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        path = tmp_path / f"{length}.pkl"
        path.write_bytes(data[:length])
        with pytest.raises(UnsupportedError):
            import_official(path)


def test_what_cannot_be_read(tmp_path: Path, golden: Path) -> None:
    with pytest.raises(SourceError):
        import_official(tmp_path / "absent.pkl")
    with pytest.raises(SourceError):
        import_official(tmp_path)
    with pytest.raises(LimitError):
        import_official(golden / "gan" / f"{PGGAN}.pkl", max_bytes=1000)
    (tmp_path / "odd.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UnsupportedError):
        load(tmp_path / "odd.safetensors")
    with pytest.raises(UsageError, match="networks"):
        import_official(golden / "gan" / f"{PGGAN}.pkl").model("X")


def test_settings_that_promise_more_than_there_is_allocate_nothing(golden: Path) -> None:
    imported = import_official(golden / "gan" / f"{STYLEGAN}.pkl")
    imported.config["networks"]["G_ema"]["settings"]["img_resolution"] = 16384
    with pytest.raises(UnsupportedError):
        imported.model()


def test_tensors_of_the_old_format_are_torchs_own(tmp_path: Path) -> None:
    """Half and transposed tensors, as ``torch.save`` of today still writes them, through the machine."""
    for tensor in (torch.randn(3, 4).half(), torch.arange(6).view(2, 3), torch.tensor([True, False])):
        buffer = io.BytesIO()
        storage = torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True)
        torch.save(storage, buffer, _use_new_zipfile_serialization=False)
        data = buffer.getvalue()
        found = _machine.Machine(_machine.Reader(memoryview(b"")), _machine.Budget(len(data)))._load_storage(data)
        assert bytes(found.data) == tensor.contiguous().view(-1).numpy().tobytes()
