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


def distillation(
    g_BC: Tensor, z_BC: Tensor, labels_B: Tensor, temperature: float, weight: float
) -> Tensor:
    """Hinton et al. 2015, and the loss of [NR].

    (1 - lambda) CE(g, y) + lambda tau^2 KL(softmax(z / tau) || softmax(g / tau)); tau^2 keeps the
    gradient's size at every temperature.

    Args:
        g_BC: the student's logits, [B, C].
        z_BC: the teacher's logits, [B, C].
        labels_B: the classes, int64 [B].
        temperature: tau, above 0.
        weight: lambda, the share of the teacher, in [0, 1].

    Returns:
        The loss, a scalar: the mean over the mini-batch.
    """
    soft = F.kl_div(
        F.log_softmax(g_BC / temperature, dim=1),
        F.log_softmax(z_BC / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - weight) * cross_entropy(g_BC, labels_B) + weight * temperature**2 * soft
