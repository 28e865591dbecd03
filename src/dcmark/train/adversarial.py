"""Two networks that learn from one another: what all training steps have in common."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dcmark.errors import UnsupportedError

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Adversaries:
    """Generator and discriminator with their optimisers, and the running average of the generator.

    The average is what images are made with. All state can be taken out as plain named tensors and
    put back, so that training goes on exactly where it stopped.

    Attributes:
        generator, discriminator: the networks in training, changed in place.
        average: running average of the generator.
        images_seen: number of real images shown so far; schedules are counted in it.
    """

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

    def _learn(self, name: str, loss: Tensor) -> None:
        """One step of one network down the gradient of a loss; the other network stays as it is."""
        optimizer = self._optimizers[name]
        network = self._network(name)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # An overflow in half precision must not end the training.
            parameter.grad = None if gradient is None else gradient.nan_to_num(0, 1e5, -1e5)
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
