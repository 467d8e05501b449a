"""Several teachers: one target of their logits, or another teacher for each sample.

Shapes: B samples in the mini-batch, T teachers, C classes. z_BTC are the teachers' logits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def geometric_mean(z_BTC: Tensor) -> Tensor:
    """The geometric mean of e^z, which is the arithmetic mean of the logits ([NT] 5.4, default).

    Returns:
        The combined logits, [B, C].
    """
    return z_BTC.mean(dim=1)


def signed_geometric_mean(z_BTC: Tensor) -> Tensor:
    """[NT] 5.4 read to the letter: the geometric mean of the logits' sizes, with a sign.

    |z| is the geometric mean of the teachers' |z_t|; the sign is that of their sum, for the plain
    geometric mean of numbers of either sign does not exist.

    Returns:
        The combined logits, [B, C]; 0 where any teacher's logit is 0.
    """
    size = z_BTC.abs().log().mean(dim=1).exp()
    return size * z_BTC.sum(dim=1).sign()


def random_teacher(z_BTC: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Each sample's target from one teacher, drawn anew: what noise on one teacher simulates.

    Returns:
        The drawn logits, [B, C].
    """
    samples, teachers, _ = z_BTC.shape
    drawn = torch.randint(teachers, (samples,), generator=generator, device=z_BTC.device)
    return z_BTC[torch.arange(samples, device=z_BTC.device), drawn]


def one(z_BTC: Tensor) -> Tensor:
    """The logits of the only teacher, [B, C]."""
    return z_BTC[:, 0]


COMBINATIONS = {
    "geometric_mean": geometric_mean,
    "signed_geometric_mean": signed_geometric_mean,
    "random_teacher": geometric_mean,  # what is drawn from in training is evaluated by its mean
}
