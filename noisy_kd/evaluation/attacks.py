"""Adversarial attacks in the maximum norm: FGSM and PGD with random starts.

Shapes: B images, C channels, H x W pixels in [0, 1], K classes. The model takes such images.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Model = Callable[[Tensor], Tensor]
"""From images in [0, 1], [B, C, H, W], to logits, [B, K]."""


def fgsm(model: Model, x_BCHW: Tensor, labels_B: Tensor, epsilon: float) -> Tensor:
    """Fast gradient sign method (Goodfellow et al. 2015): x + epsilon sign(gradient).

    Returns:
        Images in [0, 1], no pixel changed by more than epsilon.
    """
    return (x_BCHW + epsilon * _ascent(model, x_BCHW, labels_B)).clamp(0, 1)


def pgd(
    model: Model,
    x_BCHW: Tensor,
    labels_B: Tensor,
    epsilon: float,
    steps: int = 20,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent (Madry et al. 2018) from a random start in the epsilon ball.

    Steps of 2.5 epsilon / steps, each projected on the ball and on [0, 1].

    Returns:
        Images in [0, 1], no pixel changed by more than epsilon.
    """
    start = torch.rand(x_BCHW.shape, generator=generator, device=x_BCHW.device)
    adversarial = (x_BCHW + epsilon * (2 * start - 1)).clamp(0, 1)
    for _ in range(steps):
        step = 2.5 * epsilon / steps * _ascent(model, adversarial, labels_B)
        moved = (adversarial + step).clamp(x_BCHW - epsilon, x_BCHW + epsilon)
        adversarial = moved.clamp(0, 1)
    return adversarial


def _ascent(model: Model, x_BCHW: Tensor, labels_B: Tensor) -> Tensor:
    """Sign of the gradient of the cross-entropy."""
    with torch.enable_grad():
        x = x_BCHW.detach().requires_grad_()
        loss = F.cross_entropy(model(x), labels_B, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient.sign()
