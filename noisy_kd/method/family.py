"""The family of methods: each is a composition of a loss with noise in one place or another.

A method of your own is one function here or in your own module, and one file in ``conf/method``
whose ``_target_`` names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from noisy_kd.method import losses
from noisy_kd.method.noise import LogitNoise


@dataclass(frozen=True)
class Method:
    """What happens in one training step: ``loss(student(x), target(z), labels)``.

    Args:
        loss: from the student's logits [B, C], the target [B, C] (None without a teacher) and
            the labels [B] to a scalar.
        target: noise on the teacher's logits, None for none.
        has_teacher: whether there is a teacher at all.
    """

    loss: Callable[[Tensor, Tensor | None, Tensor], Tensor]
    target: LogitNoise | None = None
    has_teacher: bool = True

    @property
    def is_logit_regression(self) -> bool:
        """Whether this is plain logit regression, also as the zero-noise end of a noisy method."""
        clean = self.target is None or self.target.is_silent
        return self.loss is _regression and clean

    def fixed_target(self, z_NC: Tensor, generator: torch.Generator) -> Tensor:
        """All targets [N, C] with the noise that is drawn once for the whole training, if any."""
        if self.target is not None and self.target.resample == "once":
            return self.target(z_NC, generator)
        return z_NC

    def step_target(self, z_BC: Tensor, generator: torch.Generator) -> Tensor:
        """The targets [B, C] of one mini-batch, with the noise that is drawn at each step."""
        if self.target is not None and self.target.resample == "step":
            return self.target(z_BC, generator)
        return z_BC


def logit_regression() -> Method:
    """Logit regression (Ba & Caruana; [NT] equation 1): the baseline."""
    return Method(loss=_regression)


def noisy_teacher(
    alpha: float,
    sigma: float,
    alpha_selects: str = "samples",
    selection: str = "bernoulli",
    noise_per: str = "sample",
    resample: str = "step",
) -> Method:
    """The noisy teacher ([NT] equations 2 and 3): regression on perturbed logits.

    The arguments are those of :class:`noisy_kd.method.noise.LogitNoise`.
    """
    noise = LogitNoise(alpha, sigma, alpha_selects, selection, noise_per, resample)
    return Method(loss=_regression, target=noise)


def supervised() -> Method:
    """Cross-entropy on the labels: how teachers are trained, and a student without a teacher."""
    return Method(loss=_labels, has_teacher=False)


def _regression(g_BC: Tensor, z_BC: Tensor | None, _: Tensor) -> Tensor:
    assert z_BC is not None, "logit regression needs a teacher's logits"
    return losses.logit_regression(g_BC, z_BC)


def _labels(g_BC: Tensor, _: Tensor | None, labels_B: Tensor) -> Tensor:
    return losses.cross_entropy(g_BC, labels_B)
