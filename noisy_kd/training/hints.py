"""FitNets' hints (Romero et al. 2015): a first stage of training on a middle layer."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisy_kd.data.dataset import keyed_generator
from noisy_kd.method.method import Hint
from noisy_kd.model.layers import initialise
from noisy_kd.model.network import upto


class HintStage(nn.Module):
    """A regressor, a 1x1 convolution, from the student's middle layer to the teacher's.

    Both are pooled to the smaller of their sizes; a fully connected layer counts as one pixel.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, regressor: nn.Conv2d, epochs: int
    ) -> None:
        super().__init__()
        self.parts = (teacher, student)  # not modules of this one: they belong to their nets
        self.regressor, self.epochs = regressor, epochs

    def forward(self, x: Tensor) -> Tensor:
        """1/2 ||r(student's layer) - teacher's layer||^2: channels summed, mean over pixels."""
        teacher, student = self.parts
        teacher.to(x.device)
        with torch.no_grad():
            hint = _as_image(teacher(x))
        guided = _as_image(student(x))
        size = (min(hint.shape[2], guided.shape[2]), min(hint.shape[3], guided.shape[3]))
        hint, guided = (F.adaptive_avg_pool2d(one, size) for one in (hint, guided))
        difference: Tensor = self.regressor(guided).float() - hint.float()
        return difference.square().sum(dim=1).mean() / 2


def _as_image(features: Tensor) -> Tensor:
    if features.ndim == 3:  # tokens [B, N, D]
        return features.permute(0, 2, 1)[..., None]
    return features if features.ndim == 4 else features[:, :, None, None]


def hint_stage(
    hint: Hint,
    teacher: nn.Module,
    student: nn.Module,
    input_shape: tuple[int, int, int],
    seed: int,
) -> HintStage:
    """The first stage between two nets, the regressor with initial weights.

    Raises:
        InputError: if one has no such layer.
    """
    upper, lower = upto(teacher, hint.teacher), upto(student, hint.student)
    device = next(teacher.parameters()).device
    x = torch.zeros(1, *input_shape, device=device)
    with torch.no_grad():
        own, wanted = (_as_image(copy.deepcopy(net).eval()(x)) for net in (lower, upper))
        regressor = nn.Conv2d(own.shape[1], wanted.shape[1], 1)
    initialise(regressor, keyed_generator(seed, "regressor"))
    return HintStage(upper, lower, regressor.to(device), hint.epochs)
