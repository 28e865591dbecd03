"""What a training step asks of a GPU, counted from its operations without running any: an estimate, no measurement.

The networks are built and traced on PyTorch's ``meta`` device, where tensors have shapes and no content, so the count
is of exactly the operations that would run. Two bounds follow: arithmetic over the speed of matrix units, and bytes
read and written by every operation over the speed of the memory. Without compiled kernels that fuse them, operations
run one after the other, each reading its input and writing its output, and memory is what limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

H200_BYTES = 4.8e12
"""Bytes a second of the memory of an H200, as its maker states."""
H200_FLOPS = {"half": 790e12, "single": 60e12}
"""Operations a second in half precision (matrix units) and in float32 without TF32."""
G_PASSES, D_PASSES = 4.0, 8.5
"""Forward passes that a step is worth for each image. Generator: forward twice, and backward at twice a forward.
Discriminator: forward and the gradient of the images for the generator; forward and both gradients of real and made
images for itself; and a sixteenth of the penalty with its second derivatives."""
_MOVES_NOTHING = (
    "view", "reshape", "expand", "permute", "transpose", "unbind", "select", "slice", "detach", "t.default", "alias",
    "squeeze", "unsqueeze", "split", "as_strided", "empty", "_to_copy.meta",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """Of a thousand images: arithmetic of convolutions and of resampling, and bytes moved."""

    convolutions: float
    resampling: float
    single: float
    moved: float

    @property
    def arithmetic_s(self) -> float:
        """Seconds, were nothing but arithmetic to be done at full speed."""
        total = self.convolutions + self.resampling
        return (total - self.single) / H200_FLOPS["half"] + self.single / H200_FLOPS["single"]

    @property
    def memory_s(self) -> float:
        """Seconds, were nothing but memory to be read and written at full speed."""
        return self.moved / H200_BYTES

    def words(self) -> str:
        """For a note of the table."""
        share = self.resampling / (self.convolutions + self.resampling)
        return (
            f"estimate for an H200: {(self.convolutions + self.resampling) / 1e15:.2f} PFLOP ({share:.0%} resampling), "
            f"at least {self.arithmetic_s:.0f} s; {self.moved / 1e12:.0f} TB moved by unfused operations, "
            f"at least {self.memory_s:.0f} s"
        )


def _counter() -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):  # type: ignore[misc, no-untyped-call, unused-ignore]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
            self.dense = self.resampling = self.single = self.moved = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            name = str(func).removeprefix("aten.")
            tensors = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, torch.Tensor)]
            if not name.startswith(_MOVES_NOTHING):
                self.moved += sum(one.numel() * one.element_size() for one in tensors)
            count = flop_registry.get(getattr(func, "_overloadpacket", None))
            if count is not None:
                done = float(count(*args, **(kwargs or {}), out_val=out))
                depthwise = name.startswith("convolution") and args[1].shape[1] == 1 and args[8] > 1
                if depthwise or name.startswith(("bmm", "mm")):  # dense layers are addmm
                    self.resampling += done
                else:
                    self.dense += done
                if args[0].dtype == torch.float32:
                    self.single += done
            return out

    return Counter()


def work(preset: str, batch: int = 32) -> Work:
    """What a thousand images cost with a preset of StyleGAN3, from one forward pass of both networks on ``meta``."""
    import torch

    from dcmark.train import base, stylegan2
    from dcmark.train.stylegan3 import Generator
    from dcmark.train.stylegan3.model import Settings

    side = int(preset.rpartition("-")[2])
    kind, shape = base.find("stylegan3"), base.ImageShape(1, side, side)
    settings = kind.settings(shape, kind.presets[preset])
    assert isinstance(settings, Settings)
    total = [0.0, 0.0, 0.0, 0.0]
    with torch.no_grad():
        generator = Generator(settings.generator(shape)).to("meta")
        judge = stylegan2.Discriminator(settings.discriminator(shape)).to("meta")
        latents = torch.empty(batch, settings.latent, device="meta")
        images = torch.empty(batch, 1, side, side, device="meta")
        for network, given, passes in ((generator, latents, G_PASSES), (judge, images, D_PASSES)):
            counter = _counter()
            with counter:
                network(given)
            found = (counter.dense, counter.resampling, counter.single, counter.moved)
            total = [a + passes * b * 1000 / batch for a, b in zip(total, found, strict=True)]
    return Work(*total)
