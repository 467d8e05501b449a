"""Initial weights, Dropout with a generator, other pixels for a teacher, BatchNorm as an aid."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from noisy_kd.errors import InputError


class Dropout(nn.Dropout):
    """Dropout that draws its mask from ``generator``; None is torch's global generator.

    So nets side by side do not disturb each other's draws, and runs that differ only in p see the
    same uniform numbers.
    """

    generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        uniform = torch.rand(x.shape, generator=self.generator, device=x.device)
        return x * ((uniform >= self.p) / (1 - self.p)).to(x.dtype)


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python, and restore them afterwards."""
    state, python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)
            random.setstate(python)


class TeacherInput(nn.Module):
    """A teacher that expects other pixels than the student: another size, mean and deviation.

    Args:
        net: the teacher.
        undo: from the student's input [B, C, H, W] to pixels in [0, 1].
        size: height and width that the teacher expects; None leaves them.
        mean: subtracted from each channel of the pixels in [0, 1]; grey images are repeated.
        std: then divides each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        undo: Callable[[Tensor], Tensor],
        size: int | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.net, self.undo, self.size = net, undo, size
        for name, values in (("mean", mean or (0.0,)), ("std", std or (1.0,))):
            buffer = torch.tensor(values).view(-1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, x: Tensor) -> Any:
        x = self.undo(x)
        if self.size is not None:
            size = (self.size, self.size)
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        return self.net((x - self.mean) / self.std)

    def extra_repr(self) -> str:
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return f"size={self.size}, mean={mean}, std={std}"


def teacher_channels(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> int:
    """Return how many channels a :class:`TeacherInput` gives images of so many.

    Raises:
        InputError: if mean or std has another number of values, or a std is not above 0.
    """
    wanted = channels if channels > 1 else 3  # grey images are repeated
    for key, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, wanted):
            raise InputError(
                f"teacher.input.{key}={list(values)} has {len(values)} values: give 1 or {wanted}, "
                "one for each channel."
            )
        if not all(map(math.isfinite, values or ())):
            raise InputError(
                f"teacher.input.{key}={list(values or ())}: all values must be finite."
            )
    if min(std or [1]) <= 0:
        raise InputError(f"teacher.input.std={list(std or ())}: all values must be above 0.")
    return max(channels, len(mean or ()), len(std or ()))


def set_dropout_generator(net: nn.Module, generator: torch.Generator | None) -> None:
    """Let every dropout layer of the net draw from this generator."""
    for module in net.modules():
        if isinstance(module, Dropout):
            module.generator = generator


def has_batch_norm(net: nn.Module) -> bool:
    """Return whether a net, in training, needs mini-batches of at least two samples."""
    return any(isinstance(module, _BatchNorm) for module in net.modules())


def with_batch_norm(net: nn.Sequential) -> nn.Sequential:
    """Return the net in training mode, with batch normalisation before every ReLU.

    It shares the weights. (Ioffe & Szegedy 2015. The paper's networks have none; with it NIN learns
    in a fraction of the epochs, and :func:`folded` gives the paper's network back.)
    """
    normed = nn.Sequential()
    for layer, following in zip(net, [*net[1:], None], strict=True):
        normed.append(layer)
        if isinstance(following, nn.ReLU):
            if isinstance(layer, nn.Conv2d):
                normed.append(nn.BatchNorm2d(layer.out_channels))
            elif isinstance(layer, nn.Linear):
                normed.append(nn.BatchNorm1d(layer.out_features))
    return normed.train()


@torch.no_grad()
def folded(normed: nn.Sequential) -> nn.Sequential:
    """Return the net without batch normalisation that computes the same in eval mode.

    Each normalisation, then an affine map of fixed statistics, goes into a copy of the weights
    before it.
    """
    net = nn.Sequential()
    for layer in normed.eval():
        before = net[-1] if len(net) else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            net[-1] = fuse_conv_bn_eval(before, layer)
        elif isinstance(layer, nn.BatchNorm1d) and isinstance(before, nn.Linear):
            net[-1] = fuse_linear_bn_eval(before, layer)
        else:
            net.append(layer)
    return net


def initialise(net: nn.Module, generator: torch.Generator, how: str = "he") -> None:
    """Draw the weights of convolutions and fully connected layers.

    Args:
        net: is changed.
        generator: that is drawn from.
        how: ``he``, He et al. 2015: normal with variance 2 / fan-in; ``xavier``, Glorot & Bengio
            2010: uniform with variance 2 / (fan-in + fan-out); both with zero biases. ``torch``:
            torch's default, uniform within 1 / sqrt(fan-in), biases too.
    """
    for module in net.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        fan_in = math.prod(module.weight.shape[1:])
        edge = 1 / math.sqrt(fan_in)
        if how == "he":
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in), generator=generator)
        elif how == "xavier":
            nn.init.xavier_uniform_(module.weight, generator=generator)
        else:
            nn.init.uniform_(module.weight, -edge, edge, generator=generator)
        if module.bias is not None and how == "torch":
            nn.init.uniform_(module.bias, -edge, edge, generator=generator)
        elif module.bias is not None:
            nn.init.zeros_(module.bias)
