"""What a student minimises. Shapes: B samples in the mini-batch, C classes."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""From the student's logits [B, C], the target [B, C] or None, and the labels [B], to a scalar."""


def logit_regression(g_BC: Tensor, z_BC: Tensor | None, _: Tensor | None = None) -> Tensor:
    """Return the loss of [NT] equations 1 and 3: 1/(2T) sum_i ||g(x_i) - z_i||^2.

    T is the mini-batch's size: the sum over classes, the mean over samples, and the half.
    """
    assert z_BC is not None, "logit regression needs a teacher's logits"
    return (g_BC - z_BC).square().sum(dim=1).mean() / 2


def cross_entropy(g_BC: Tensor, _: Tensor | None, labels_B: Tensor) -> Tensor:
    """Return the loss of supervised training: the mean of -log softmax(g)[label]."""
    return F.cross_entropy(g_BC, labels_B)


def smoothed_cross_entropy(smoothing: float) -> Loss:
    """Return cross-entropy with label smoothing (Szegedy et al. 2016): share of a flat target."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"label_smoothing={smoothing}: a share lies in [0, 1).")

    def loss(g_BC: Tensor, _: Tensor | None, labels_B: Tensor) -> Tensor:
        return F.cross_entropy(g_BC, labels_B, label_smoothing=smoothing)

    return loss


def distillation(temperature: float, weight: float) -> Loss:
    """Return the loss of Hinton et al. 2015, and of [NR].

    (1 - lambda) CE(g, y) + lambda tau^2 KL(softmax(z / tau) || softmax(g / tau)), the mean over the
    mini-batch; tau^2 keeps the gradient's size at every temperature tau; lambda is the weight.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: a temperature is above 0.")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight={weight}: the teacher's share lies in [0, 1].")

    def loss(g_BC: Tensor, z_BC: Tensor | None, labels_B: Tensor) -> Tensor:
        assert z_BC is not None, "distillation needs a teacher's logits"
        soft = F.kl_div(
            F.log_softmax(g_BC / temperature, dim=1),
            F.log_softmax(z_BC / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        hard = F.cross_entropy(g_BC, labels_B)
        return (1 - weight) * hard + weight * temperature**2 * soft

    return loss
