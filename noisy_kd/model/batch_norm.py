"""Batch normalisation (Ioffe & Szegedy 2015) as an aid in training, folded away afterwards.

The paper's networks have none. With it NIN learns in a fraction of the epochs; once trained, each
normalisation is an affine map of fixed statistics, which goes into the weights of the layer before
it. So the network that comes out is the paper's, layer by layer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def with_batch_norm(net: nn.Sequential) -> nn.Sequential:
    """The net with batch normalisation before the ReLU of every layer that has one.

    Args:
        net: as :func:`noisy_kd.model.network.build` makes it of a notation.

    Returns:
        A net that shares the weights, in training mode; of a net without a ReLU, the same layers.
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
    """The net that computes in eval mode what this one does, without batch normalisation.

    Args:
        normed: as :func:`with_batch_norm` makes it; it stays as it is, but for its mode.

    Returns:
        A net of the original layers, in eval mode, with weights of its own where one was folded.
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
