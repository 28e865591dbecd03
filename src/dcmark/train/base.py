"""What a generative model has to offer, and where models are found.

A model comes from the entry-point group ``dcmark.models``: each entry names an object that keeps
the contract of :class:`Model`, and ``dcmark.testing.models.ModelContract`` has the tests it must pass.
StyleGAN3 and PGGAN are two such entries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dcmark import plugins
from dcmark.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dcmark.train.augment import Augmentation

_S = TypeVar("_S")

GROUP = "dcmark.models"


@dataclass(frozen=True, slots=True)
class ImageShape:
    """What images a model is for.

    Attributes:
        channels: any number.
        rows, columns: pixels.
        labels: length of the label vector; 0 for none.
    """

    channels: int
    rows: int
    columns: int
    labels: int = 0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do.

    Attributes:
        sizes: in words, which images it takes.
        channels: in words.
        bits: deepest stored values that it was made for; floating point inside.
        labels: whether it can be told what to make.
        augmentation: whether adaptive augmentation can be used with it.
        truncation: whether typical images can be asked for.
        transform: whether images can be shifted and turned as they are made.
    """

    sizes: str
    channels: str = "any number"
    bits: int = 16
    labels: bool = True
    augmentation: bool = True
    truncation: bool = False
    transform: bool = False


class Learner(Protocol):
    """A model in training.

    Contract:
        * ``state_dict`` is all there is to know: a learner of the same settings that is given it goes
          on bit by bit as this one would have, on the same machine, when the random numbers of
          PyTorch are seeded alike before every step.
        * ``sample`` changes nothing and draws no random numbers but from its seeds.
        * tensors of ``state_dict`` that ``sample`` needs have names that begin with ``average.``.
    """

    images_seen: int
    rounds: int
    augmentation: Augmentation | None
    mask: Tensor | None

    def step(self, images: Tensor, labels: Tensor | None) -> dict[str, float]:
        """Learn from one batch (N, C, H, W), -1 to 1, with labels (N, L); what to report, by name."""
        ...

    def sample(
        self, seeds: Sequence[int], labels: Tensor | None, *, truncation: float = 1.0, transform: Tensor | None = None
    ) -> Tensor:
        """An image for each seed, (N, C, H, W), nominally -1 to 1; the same alone as in company."""
        ...

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """The latent vectors of seeds, (N, latent)."""
        ...

    def sample_latents(
        self, latents: Tensor, labels: Tensor | None, *, truncation: float = 1.0, transform: Tensor | None = None
    ) -> Tensor:
        """As ``sample``, from latent vectors."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All state as named tensors."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what ``state_dict`` gave."""
        ...

    def networks(self) -> dict[str, nn.Module]:
        """The networks by the names of official checkpoints: ``G``, ``D`` and the average."""
        ...


class Model(Protocol):
    """A kind of generative model.

    Contract:
        * ``settings`` gives a frozen dataclass whose fields are plain values, so that JSON holds it
          and ``Settings(**json)`` is the same again; whatever is impossible is refused there.
        * ``learner`` builds it with random weights from PyTorch's random numbers, on a device.
    """

    name: str
    summary: str
    capabilities: Capabilities
    presets: Mapping[str, Mapping[str, Any]]

    def settings(self, shape: ImageShape, given: Mapping[str, Any]) -> Any:
        """All settings for images of a shape, where ``given`` says no other.

        Raises:
            UsageError: unknown or impossible settings, or images that the model cannot take.
        """
        ...

    def learner(self, settings: Any, shape: ImageShape, device: Any = "cpu") -> Learner:
        """A model in training, with fresh weights."""
        ...


def names() -> list[str]:
    """Names of all models; nothing is imported."""
    return plugins.names(GROUP)


def find(name: str) -> Model:
    """The model of a name.

    Raises:
        UsageError: there is none.
        MissingExtraError: PyTorch or safetensors are not installed.
    """
    try:
        for needed in ("torch", "safetensors"):
            import_module(needed)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "training") from error
    if name not in plugins.names(GROUP):
        raise UsageError(f"expected one of the models {', '.join(names())}, found {name!r}")
    found: Model = plugins.load(GROUP, name)
    return found


def filled(settings: type[_S], given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> _S:
    """A settings dataclass from named values; texts, as a command line gives them, are read as what is expected.

    Raises:
        UsageError: a name that it does not have, or a value of another type.
    """
    known = {field.name: field for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    values = dict(defaults or {})
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"expected one of the settings {', '.join(known)}, found {name!r}")
        default = values.get(name, known[name].default)
        values[name] = _read(value, default, name) if isinstance(value, str) else value
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
    return settings(**values)


def _read(text: str, default: Any, name: str) -> Any:
    if isinstance(default, bool):
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() in words:
            return words[text.lower()]
    elif isinstance(default, str):
        return text
    elif text.lower() == "none" and (default is None or default is dataclasses.MISSING):
        return None
    else:
        for kind in (int, float):
            try:
                number = kind(text)
            except ValueError:
                continue
            if not (isinstance(default, int) and isinstance(number, float)):
                return number
    raise UsageError(f"expected {name} to be like {default!r}, found {text!r}")
