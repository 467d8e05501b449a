"""The family of methods: each is a composition of a loss with noise in one place or another.

A method of your own is one function here or in your own module, and one file in ``conf/method``
whose ``_target_`` names it.

Shapes: B samples in the mini-batch, N training samples, T teachers (mostly 1), C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from noisy_kd.method import losses
from noisy_kd.method.noise import LogitNoise, RandomSigma
from noisy_kd.method.teachers import COMBINATIONS, one, random_teacher

Loss = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""From the student's logits [B, C], the target [B, C] or None, and the labels [B], to a scalar."""


@dataclass(frozen=True)
class Method:
    """What happens in one training step: ``loss(output(student(x)), target(z), labels)``.

    Args:
        loss: what the student minimises.
        target: noise on the teacher's logits, None for none.
        output: noise on the student's logits, None for none.
        teachers: ``one``, or how the logits of several become one target.
        has_teacher: whether there is a teacher at all.
    """

    loss: Loss
    target: LogitNoise | RandomSigma | None = None
    output: LogitNoise | RandomSigma | None = None
    teachers: str = "one"
    has_teacher: bool = True

    @property
    def is_logit_regression(self) -> bool:
        """Whether this is plain logit regression, also as the zero-noise end of a noisy method."""
        noises = (self.target, self.output)
        clean = all(noise is None or noise.is_silent for noise in noises)
        return self.loss is _regression and clean and self.teachers == "one"

    @property
    def moves_target(self) -> bool:
        """Whether the target of a sample changes in training, or is not the teachers' own."""
        return self.target is not None or self.teachers == "random_teacher"

    def clean_target(self, z_NTC: Tensor) -> Tensor:
        """The teachers' own target, [N, C], by which they are judged; [N, C] is one teacher's."""
        combine = one if self.teachers == "one" else COMBINATIONS[self.teachers]
        return combine(z_NTC if z_NTC.ndim == 3 else z_NTC.unsqueeze(1))

    def fixed_target(self, z_NTC: Tensor, generator: torch.Generator) -> Tensor:
        """All targets, [N, C], with the noise that is drawn once for the whole training, if any.

        [N, T, C] where each step draws a teacher.
        """
        if self.teachers == "random_teacher":
            return z_NTC
        z_NC = self.clean_target(z_NTC)
        if self.target is not None and self.target.resample == "once":
            return self.target(z_NC, generator)
        return z_NC

    def step_target(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """The targets [B, C] of one mini-batch, with what is drawn at each step."""
        if z.ndim == 3:
            z = random_teacher(z, generator)
        if self.target is not None and self.target.resample == "step":
            return self.target(z, generator)
        return z

    def step_output(self, g_BC: Tensor, generator: torch.Generator) -> Tensor:
        """The student's logits [B, C] as the loss sees them."""
        return g_BC if self.output is None else self.output(g_BC, generator)


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


def noisy_student(alpha: float, sigma: float) -> Method:
    """The same noise on the student's logits ([NT] 5.2): 1/(2T) sum ||(1 + s xi) g - z||^2.

    In expectation ||g - z||^2 + alpha sigma^2 ||g||^2: a penalty on large logits.
    """
    return Method(loss=_regression, output=LogitNoise(alpha, sigma))


def random_sigma(alpha: float, sigma_min: float = 0.01, sigma_max: float = 1.0) -> Method:
    """The noisy teacher with sigma ~ U[sigma_min, sigma_max] anew each mini-batch ([NT] 5.4)."""
    return Method(loss=_regression, target=RandomSigma(alpha, sigma_min, sigma_max))


def two_teachers(teachers: Sequence[str], combination: str = "geometric_mean") -> Method:
    """Regression on the logits of several teachers, made one ([NT] 5.4); no noise.

    Args:
        teachers: their networks, ids of ``conf/model`` or notations; any number.
        combination: a key of :data:`noisy_kd.method.teachers.COMBINATIONS`.

    Raises:
        ValueError: if there is no teacher, or the combination is unknown.
    """
    if not teachers:
        raise ValueError("teachers=[]: name one teacher at least.")
    if combination not in COMBINATIONS:
        raise ValueError(f"combination={combination}: choose {', '.join(COMBINATIONS)}.")
    return Method(loss=_regression, teachers=combination if len(teachers) > 1 else "one")


def hinton(temperature: float = 4.0, weight: float = 0.9) -> Method:
    """Hinton et al. 2015: (1 - lambda) CE + lambda tau^2 KL of the softened outputs.

    Args:
        temperature: tau, above 0.
        weight: lambda, the share of the teacher, in [0, 1].

    Raises:
        ValueError: if a value is out of its range.
    """
    return Method(loss=partial(_distillation, *_checked(temperature, weight)))


def supervised() -> Method:
    """Cross-entropy on the labels: how teachers are trained, and a student without a teacher."""
    return Method(loss=_labels, has_teacher=False)


def _checked(temperature: float, weight: float) -> tuple[float, float]:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: a temperature is above 0.")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight={weight}: the teacher's share lies in [0, 1].")
    return temperature, weight


def _regression(g_BC: Tensor, z_BC: Tensor | None, _: Tensor) -> Tensor:
    assert z_BC is not None, "logit regression needs a teacher's logits"
    return losses.logit_regression(g_BC, z_BC)


def _distillation(
    temperature: float, weight: float, g_BC: Tensor, z_BC: Tensor | None, labels_B: Tensor
) -> Tensor:
    assert z_BC is not None, "distillation needs a teacher's logits"
    return losses.distillation(g_BC, z_BC, labels_B, temperature, weight)


def _labels(g_BC: Tensor, _: Tensor | None, labels_B: Tensor) -> Tensor:
    return losses.cross_entropy(g_BC, labels_B)
