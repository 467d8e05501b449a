"""What a student minimises. Shapes: B samples in the mini-batch, C classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def logit_regression(g_BC: Tensor, z_BC: Tensor) -> Tensor:
    """[NT] equations 1 and 3: 1/(2T) sum_i ||g(x_i) - z_i||^2, T the mini-batch's size.

    The sum over classes, the mean over samples, and the half.

    Args:
        g_BC: the student's logits, [B, C].
        z_BC: the teacher's logits, perturbed (equation 3) or not (equation 1), [B, C].

    Returns:
        The loss, a scalar.
    """
    return (g_BC - z_BC).square().sum(dim=1).mean() / 2


def cross_entropy(g_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Supervised training: the mean of -log softmax(g)[label]."""
    return F.cross_entropy(g_BC, labels_B)
