"""Two networks that learn from one another: what all training steps have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from dcmark.errors import TrainingError, UnsupportedError, UsageError

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def processes() -> int:
    """How many processes train together (torchrun); 1 without it."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def agree(tensors: list[Tensor]) -> None:
    """Replace tensors in place by their mean over all processes that train together."""
    count = processes()
    if count == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= count
    at = 0
    for tensor in tensors:
        tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
        at += tensor.numel()


class Adversaries:
    """Generator and discriminator with their optimisers, and the running average of the generator.

    The average is what images are made with. All state can be taken out as plain named tensors and
    put back, so that training goes on exactly where it stopped.

    Attributes:
        generator, discriminator: the networks in training, changed in place.
        average: running average of the generator.
        images_seen: number of real images shown so far, by all processes; schedules are counted in it.
        rounds: a batch goes through the networks in so many parts, whose gradients are added up: less
            memory for the same step.
        seen: what all images, real and made, go through before the discriminator sees them; called with the
            images, and with what is to be done to them between mask and augmentation.
    """

    rounds = 1
    seen: Callable[..., Tensor] = staticmethod(lambda images, between=None: between(images) if between else images)

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, adam: tuple[dict[str, Any], dict[str, Any]]
    ) -> None:
        """``adam``: learning rate, betas and eps of generator and discriminator."""
        self.generator, self.discriminator = generator, discriminator
        self.average = copy.deepcopy(generator).eval().requires_grad_(False)
        self.images_seen = 0
        self._optimizers = {
            "generator": torch.optim.Adam(generator.parameters(), **adam[0]),
            "discriminator": torch.optim.Adam(discriminator.parameters(), **adam[1]),
        }

    def _parts(self, *batch: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """The batch in ``rounds`` parts, each with its share of the whole in front."""
        count = next(len(part) for part in batch if part is not None)
        if count % self.rounds:
            raise UsageError(f"expected a batch of a multiple of {self.rounds} images, found {count}")
        size = count // self.rounds
        for start in range(0, count, size):
            yield 1 / self.rounds, *(None if x is None else x[start : start + size] for x in batch)

    def _learn(self, name: str, losses: Iterable[Tensor]) -> None:
        """One step of one network down the gradient of the sum of losses; the other network stays as it is."""
        optimizer = self._optimizers[name]
        parameters = [parameter for parameter in self._network(name).parameters() if parameter.requires_grad]
        for loss in losses:
            if not bool(loss.detach().isfinite()):
                raise TrainingError(
                    f"expected a finite loss of the {name}, found {float(loss.detach())} after {self.images_seen} "
                    "images; go on from the last checkpoint with a lower learning rate or a higher penalty"
                )
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        agree([parameter.grad for parameter in parameters if parameter.grad is not None])
        for parameter in parameters:
            if parameter.grad is not None:  # an overflow in half precision must not end the training
                parameter.grad = parameter.grad.nan_to_num(0, 1e5, -1e5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _network(self, name: str) -> nn.Module:
        return self.generator if name == "generator" else self.discriminator

    def state_dict(self) -> dict[str, Tensor]:
        """All state as named tensors: weights, running average, moments of Adam, images seen."""
        state = {"images_seen": torch.tensor(self.images_seen)}
        for name in ("generator", "discriminator", "average"):
            network = self.average if name == "average" else self._network(name)
            state |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for name, optimizer in self._optimizers.items():
            for key, parameter in self._network(name).named_parameters():
                moments = optimizer.state.get(parameter, {})
                state |= {f"adam.{name}.{key}.{moment}": moments[moment] for moment in _MOMENTS if moments}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what ``state_dict`` gave.

        Raises:
            UnsupportedError: the state is of other networks.
        """
        own = self.state_dict()
        missing = [key for key in own if not key.startswith("adam.") and key not in state]
        wrong = [key for key, value in own.items() if key in state and state[key].shape != value.shape]
        if missing or wrong:
            raise UnsupportedError(
                f"expected the state of these very networks, found {len(missing)} tensors missing and "
                f"{len(wrong)} of another shape; go on with the settings the run was started with"
            )
        self.images_seen = int(state["images_seen"])
        for name in ("generator", "discriminator", "average"):
            network = self.average if name == "average" else self._network(name)
            start = f"{name}."
            network.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
        for name, optimizer in self._optimizers.items():
            optimizer.state.clear()
            for key, parameter in self._network(name).named_parameters():
                start = f"adam.{name}.{key}."
                if f"{start}step" in state:
                    optimizer.state[parameter] = {m: state[f"{start}{m}"].clone() for m in _MOMENTS}
