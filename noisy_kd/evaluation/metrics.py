"""Predictions and errors, in float32 and eval mode. Shapes: N samples, C classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noisy_kd.data import ImageTable, loader


@torch.no_grad()
def predict_logits(net: nn.Module, table: ImageTable, batch_size: int = 500) -> Tensor:
    """The net's logits of every sample of the table, in its order, float32 [N, C], on the CPU.

    The net's mode (train or eval) is what it was before.
    """
    was_training = net.training
    net.eval()
    logits = [net(x).float().cpu() for x, _, _ in loader(table, batch_size)]
    net.train(was_training)
    return torch.cat(logits)


def count_errors(logits_NC: Tensor, labels_N: Tensor) -> int:
    """How many samples are classified wrongly by the largest logit."""
    return int((logits_NC.argmax(dim=1) != labels_N.cpu()).sum())
