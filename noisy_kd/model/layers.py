"""Dropout with a generator of its own; batch normalisation as an aid in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


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


def set_dropout_generator(net: nn.Module, generator: torch.Generator | None) -> None:
    """Let every dropout layer of the net draw from this generator."""
    for module in net.modules():
        if isinstance(module, Dropout):
            module.generator = generator


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
