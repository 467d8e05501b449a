"""Dropout whose masks come from a generator of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """Dropout that draws its mask from ``generator``, so that nets side by side do not disturb
    each other's draws, and runs that differ only in p see the same uniform numbers.

    ``generator = None`` is torch's global generator.
    """

    generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        uniform = torch.rand(x.shape, generator=self.generator, device=x.device)
        return x * ((uniform >= self.p) / (1 - self.p)).to(x.dtype)


def set_dropout_generator(net: nn.Module, generator: torch.Generator | None) -> None:
    """Let every dropout layer of the net draw from this generator."""
    for module in net.modules():
        if isinstance(module, Dropout):
            module.generator = generator
