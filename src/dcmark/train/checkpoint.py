"""Checkpoints: import of official ones, without running anything they hold, and safe ones of our own.

Official checkpoints of StyleGAN2 and StyleGAN3 (PyTorch) and of PGGAN (TensorFlow) are pickles,
programs that a loader would run. Here a process without rights reads them as data
(:mod:`dcmark.train._unpickle`) and hands back numbers and plain text only. What is saved by
:func:`save` is a safetensors file with the settings as JSON in its metadata.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dcmark.errors import LimitError, SourceError, UnsupportedError, UsageError
from dcmark.train import pggan, stylegan2, stylegan3

MAX_BYTES = 4 << 30
"""Largest checkpoint read, bytes; the largest official ones are below 400 MB."""

_CLASSES: dict[type[nn.Module], str] = {
    stylegan3.Generator: "Generator",
    stylegan2.Generator: "Generator",
    stylegan2.Discriminator: "Discriminator",
    pggan.Generator: "G_paper",
    pggan.Discriminator: "D_paper",
}
_EXPECTED = "expected an official checkpoint of StyleGAN2, StyleGAN3 or PGGAN"


class OfficialNames(Protocol):
    """What a model needs to go by the names of official checkpoints."""

    def official_names(self) -> dict[str, str]:
        """Official name -> name in ``state_dict``; several may stand for the same tensor."""
        ...


@dataclass(frozen=True)
class Imported:
    """A checkpoint as plain data.

    Attributes:
        config: ``format`` (``stylegan`` or ``pggan``) and ``networks``: for each its ``class`` and
            ``settings``, in the words of the official programs.
        tensors: by network (``G``, ``D``, and the running average ``G_ema`` or ``Gs``; what else the
            checkpoint has), then by official name, in the official layout.
    """

    config: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]] = field(repr=False)

    def model(self, name: str = "") -> nn.Module:
        """The network of that name with its weights; without a name the one to make images with.

        Raises:
            UsageError: there is no such network.
            UnsupportedError: it is of an architecture or with settings that are not supported.
        """
        name = name or next((known for known in ("G_ema", "Gs", "G") if known in self.tensors), "G")
        try:
            description, tensors = self.config["networks"][name], self.tensors[name]
        except KeyError:
            known = ", ".join(sorted(self.tensors)) or "none"
            raise UsageError(f"expected one of the networks of this checkpoint ({known}), found {name!r}") from None
        try:
            # Nothing is allocated for what the settings merely claim: only if every shape is that of
            # a tensor that is really there do these take the places of the empty ones.
            with torch.device("meta"):
                model = _build(description["class"], description["settings"], tensors)
        except (UsageError, TypeError, KeyError) as error:
            raise UnsupportedError(f"expected settings of a published network in {name!r}, found: {error}") from error
        load_official_state(model, tensors)
        return model.eval()

    @classmethod
    def of(cls, models: Mapping[str, nn.Module]) -> Imported:
        """The same for models of ours, such as ``{"G": ..., "D": ..., "G_ema": ...}``."""
        networks = {}
        for name, model in models.items():
            kind = next((kind for known, kind in _CLASSES.items() if type(model) is known), None)
            if kind is None:
                raise UsageError(f"expected a generator or discriminator of dcmark.train, found {type(model).__name__}")
            networks[name] = {"class": kind, "settings": cast(Any, model).config.to_official()}
        format_ = "pggan" if any(n["class"] in {"G_paper", "D_paper"} for n in networks.values()) else "stylegan"
        tensors = {name: export_official_state(model) for name, model in models.items()}
        return cls({"format": format_, "networks": networks}, tensors)


def _build(kind: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The model, not yet with its weights, for a class name of an official program."""
    if kind in {"G_paper", "D_paper"}:
        config = pggan.Config.from_official(settings)
        return pggan.Generator(config) if kind == "G_paper" else pggan.Discriminator(config)
    if kind == "Generator" and "synthesis.input.freqs" in tensors:
        return stylegan3.Generator(stylegan3.Config.from_official(settings))
    if kind == "Generator":
        return stylegan2.Generator(stylegan2.GeneratorConfig.from_official(settings))
    if kind == "Discriminator":
        return stylegan2.Discriminator(stylegan2.DiscriminatorConfig.from_official(settings))
    raise UnsupportedError(f"expected a generator or a discriminator, found a network of class {kind!r}")


def import_official(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Imported:
    """Read an official checkpoint (``.pkl``); nothing in it is executed.

    Args:
        path: a regular file.
        max_bytes: larger files are refused.

    Raises:
        SourceError: the file cannot be read.
        LimitError: it is larger than allowed.
        UnsupportedError: it is no official checkpoint, or it is damaged or malicious.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise SourceError("expected a checkpoint file, found something that is no regular file")
        if size > max_bytes:
            raise LimitError(f"expected a checkpoint of at most {max_bytes} bytes, found {size} bytes")
        with path.open("rb") as source, tempfile.TemporaryDirectory(prefix="dcmark-") as folder:
            result = Path(folder) / "checkpoint.safetensors"
            with result.open("wb") as output:
                _read_apart(source.fileno(), output.fileno(), size)
            return load(result)
    except OSError as error:
        raise SourceError(f"expected a readable checkpoint file, found: {error.strerror}") from error


def _read_apart(source: int, output: int, size: int) -> None:
    """Let a process of its own read the pickle; see :mod:`dcmark.train._unpickle`."""
    root = str(Path(__file__).resolve().parents[2])
    # Isolated, without site-packages' start-up files, and with no module path but the standard library and ours.
    code = "import sys; sys.path.append(sys.argv[1]); from dcmark.train._unpickle import main; main()"
    command = [sys.executable, "-I", "-S", "-B", "-c", code, root]
    needed = ("SYSTEMROOT",)  # without it Windows starts no process
    environment = {name: os.environ[name] for name in needed if name in os.environ}
    try:
        done = subprocess.run(
            command,
            stdin=source,
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=30 + size / (4 << 20),
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedError(
            f"{_EXPECTED}, found a file that takes far longer to read than any of its size"
        ) from None
    if done.returncode == 0:
        return
    found = (
        done.stderr.decode("ascii", "replace") if done.returncode == 3 else "one that its reader had to be kept from"
    )
    raise UnsupportedError(f"{_EXPECTED}, found {found[:300]}; nothing in the file was executed")


def save(checkpoint: Imported, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint as safetensors, with its configuration as JSON under ``checkpoint``."""
    tensors = {
        f"{network}/{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for network, named in checkpoint.tensors.items()
        for name, tensor in named.items()
    }
    save_file(tensors, path, metadata={"checkpoint": json.dumps(checkpoint.config)})


def load(path: str | os.PathLike[str]) -> Imported:
    """Read what :func:`save` wrote.

    Raises:
        SourceError: the file cannot be read.
        UnsupportedError: it is no such file.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            config = json.loads((opened.metadata() or {})["checkpoint"])
            orders = config.pop("orders", {})
            tensors: dict[str, dict[str, Tensor]] = {name: {} for name in config["networks"]}
            for key in opened.keys():  # noqa: SIM118  not a dictionary
                network, _, name = key.partition("/")
                tensor = opened.get_tensor(key)
                if key in orders:  # stored with its axes from the slowest to the fastest
                    axes = torch.tensor(orders[key])
                    tensor = tensor.permute(axes.argsort().tolist()).contiguous()
                tensors[network][name] = tensor.clone()  # the file must not stay mapped
    except OSError as error:
        raise SourceError(f"expected a readable checkpoint file, found: {error.strerror}") from error
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise UnsupportedError("expected a safetensors checkpoint written by dcmark, found something else") from error
    return Imported(config, tensors)


def _axes(model: nn.Module, tensor: Tensor) -> tuple[int, ...] | None:
    """How the axes of an official tensor are to be arranged for this model."""
    arrangements = cast(Mapping[int, tuple[int, ...]], getattr(model, "official_axes", {}))
    return arrangements.get(tensor.ndim)


def load_official_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model the weights of an official checkpoint; the model may be without storage as yet.

    Raises:
        UnsupportedError: names or shapes are not those of the model; the model is left as it was.
    """
    names = cast(OfficialNames, model).official_names()
    own = model.state_dict()
    if names.keys() != tensors.keys():
        missing, extra = sorted(names.keys() - tensors.keys()), sorted(tensors.keys() - names.keys())
        raise UnsupportedError(
            f"expected the {len(names)} tensors of {type(model).__name__}, found {len(missing)} missing "
            f"(such as {missing[:2]}) and {len(extra)} unknown (such as {extra[:2]})"
        )
    state: dict[str, Tensor] = {}
    for name, ours in names.items():
        axes = _axes(model, tensors[name])
        tensor = tensors[name] if axes is None else tensors[name].permute(axes)
        if tensor.shape != own[ours].shape or not tensor.is_floating_point():
            raise UnsupportedError(
                f"expected {name} to be of shape {tuple(own[ours].shape)} here, found {tuple(tensor.shape)}"
            )
        if ours in state and not torch.equal(state[ours], tensor):
            raise UnsupportedError(f"expected all filters of the checkpoint to be the same, found {name} to differ")
        state[ours] = tensor
    state = {
        ours: tensor.to(own[ours].dtype).clone(memory_format=torch.contiguous_format) for ours, tensor in state.items()
    }
    model.load_state_dict(state, assign=any(value.is_meta for value in own.values()))


def export_official_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model under the names, and in the layout, of official checkpoints."""
    state = model.state_dict()
    exported = {}
    for name, ours in cast(OfficialNames, model).official_names().items():
        axes = _axes(model, state[ours])
        tensor = state[ours]
        if axes is not None:
            tensor = tensor.permute(torch.tensor(axes).argsort().tolist())
        exported[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return exported
