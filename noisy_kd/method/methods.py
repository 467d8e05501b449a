"""The family of methods: each is a composition of a loss with noise in one place or another.

A method of your own is one function here or in your own module, and one file in ``conf/method``
whose ``_target_`` names it.

Shapes: B samples in the mini-batch, N training samples, T teachers (mostly 1), C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from noisy_kd.method import losses
from noisy_kd.method.noise import (
    AdditiveNoise,
    InputNoise,
    LogitNoise,
    RandomLabels,
    RandomShift,
    RandomSigma,
)
from noisy_kd.method.teachers import COMBINATIONS, one, random_teacher

Loss = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""From the student's logits [B, C], the target [B, C] or None, and the labels [B], to a scalar."""

LogitsNoise = LogitNoise | RandomSigma | AdditiveNoise


@dataclass(frozen=True)
class TeacherDropout:
    """Dropout that stays active in the teacher while it teaches.

    Args:
        probability: of each activation to be dropped, in [0, 1).
        passes: the target is drawn from so many passes made beforehand; 0 asks the teacher at
            each step.

    Raises:
        ValueError: if a value is out of its range.
    """

    probability: float
    passes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1:
            raise ValueError(f"p={self.probability}: a dropout probability lies in [0, 1).")
        if self.passes < 0:
            raise ValueError(f"passes={self.passes}: 0 for a live teacher, or a number of passes.")


@dataclass(frozen=True)
class Hint:
    """FitNets' first stage: the student's middle layer learns to predict the teacher's.

    Args:
        teacher: the hint layer by its place in the notation (``C2``: the second convolution;
            ``FC1``: the first fully connected layer); None for the middle one.
        student: the guided layer, likewise.
        epochs: of the first stage.
    """

    teacher: str | None
    student: str | None
    epochs: int


@dataclass(frozen=True)
class Method:
    """What happens in one training step.

    ``loss(output(student(input(x))), target(teacher(x)), labels(y))``: noise can act in each of
    these places, on the teacher itself, and in the teacher's own training.

    Args:
        loss: what the student minimises.
        input: noise on the net's images; a student's teacher sees them clean.
        target: noise on the teacher's logits.
        output: noise on the student's logits.
        labels: noise on the student's labels.
        teacher_labels: noise on the labels in the teacher's training.
        teacher_dropout: dropout in the teacher while it teaches.
        teachers: ``one``, or how the logits of several become one target.
        hint: a first stage on a middle layer.
        has_teacher: whether there is a teacher at all.
    """

    loss: Loss
    input: InputNoise | RandomShift | None = None
    target: LogitsNoise | None = None
    output: LogitsNoise | None = None
    labels: RandomLabels | None = None
    teacher_labels: RandomLabels | None = None
    teacher_dropout: TeacherDropout | None = None
    teachers: str = "one"
    hint: Hint | None = None
    has_teacher: bool = True

    @property
    def is_logit_regression(self) -> bool:
        """Whether this is plain logit regression, also as the zero-noise end of a noisy method."""
        noises = (self.target, self.output)
        clean = all(noise is None or noise.is_identity for noise in noises)
        return self.loss is _regression and clean and self.teachers == "one"

    @property
    def draws_once(self) -> bool:
        """Whether noise is drawn once for the whole training."""
        return self.target is not None and self.target.resample == "once"

    @property
    def draws_teacher(self) -> bool:
        """Whether each step draws a sample's target from several."""
        return self.teachers == "random_teacher" or self.passes > 0

    @property
    def moves_target(self) -> bool:
        """Whether a sample's target is another one at each step, or not the teachers' own."""
        return self.target is not None or self.draws_teacher or self.teacher_dropout is not None

    @property
    def passes(self) -> int:
        """How many passes of the teacher are made beforehand, besides the clean one."""
        return self.teacher_dropout.passes if self.teacher_dropout else 0

    def clean_target(self, z_NTC: Tensor) -> Tensor:
        """The teachers' own target, [N, C], by which they are evaluated; [N, C] is one teacher's.

        With passes made beforehand the first is the clean one.
        """
        combine = one if self.teachers == "one" else COMBINATIONS[self.teachers]
        return combine(z_NTC if z_NTC.ndim == 3 else z_NTC.unsqueeze(1))

    def fixed_target(self, z_NTC: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """All targets, [N, C], with the noise that is drawn once for the whole training, if any.

        [N, T, C] where each step draws one of T.
        """
        z = self.clean_target(z_NTC)
        if self.draws_teacher:  # noise that is drawn once falls on each of them
            z = z_NTC[:, 1:] if self.passes else z_NTC
        if self.target is None or not self.draws_once:
            return z
        if z.ndim == 2:
            return self.target(z, generator)
        return torch.stack([self.target(one, generator) for one in z.unbind(1)], dim=1)

    def step_target(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """The targets [B, C] of one mini-batch, with what is drawn at each step."""
        if z.ndim == 3:
            z = random_teacher(z, generator) if self.draws_teacher else self.clean_target(z)
        if self.target is not None and not self.draws_once:
            return self.target(z, generator)
        return z

    def step_input(self, x_BCHW: Tensor, generator: torch.Generator | None) -> Tensor:
        """The images [B, C, H, W] as the net in training sees them."""
        return x_BCHW if self.input is None else self.input(x_BCHW, generator)

    def step_labels(
        self, labels_B: Tensor, classes: int, generator: torch.Generator | None
    ) -> Tensor:
        """The labels [B] as the loss sees them."""
        return labels_B if self.labels is None else self.labels(labels_B, classes, generator)

    def step_output(self, g_BC: Tensor, generator: torch.Generator | None) -> Tensor:
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
    return Method(loss=_distillation(temperature, weight))


def fitnets(
    hint: str | None = None,
    guided: str | None = None,
    hint_epochs: int = 5,
    temperature: float = 4.0,
    weight: float = 0.9,
) -> Method:
    """FitNets (Romero et al. 2015, reference [24] of [NT]): hint regression, then distillation.

    In the first epochs 1/2 ||r(student's guided layer) - teacher's hint layer||^2 with a
    regressor r, a 1x1 convolution that is learned as well; then :func:`hinton`.

    Args:
        hint: the teacher's layer by its place in the notation, ``C2`` or ``FC1``; None: the middle.
        guided: the student's layer, likewise.
        hint_epochs: of the first stage; 0 is plain distillation.
        temperature: tau, above 0.
        weight: lambda, in [0, 1].

    Raises:
        ValueError: if a value is out of its range.
    """
    if hint_epochs < 0:
        raise ValueError(f"hint_epochs={hint_epochs}: a number of epochs, 0 for none.")
    stage = Hint(hint, guided, hint_epochs) if hint_epochs else None
    return Method(loss=_distillation(temperature, weight), hint=stage)


def fickle_teacher(
    p: float = 0.3, passes: int = 0, temperature: float = 4.0, weight: float = 0.9
) -> Method:
    """Fickle Teacher ([NR]): dropout stays active in the teacher, another target each time.

    Args:
        p: of the teacher's dropout layers; a teacher without any gets one after its last hidden
            layer.
        passes: 0 asks the teacher at each step; M draws one of M cached passes per sample.
        temperature: tau, above 0.
        weight: lambda, in [0, 1].

    Raises:
        ValueError: if a value is out of its range.
    """
    dropout = TeacherDropout(p, passes)
    return Method(loss=_distillation(temperature, weight), teacher_dropout=dropout if p else None)


def soft_randomization(sigma: float = 0.2, temperature: float = 4.0, weight: float = 0.9) -> Method:
    """Soft Randomization ([NR]): the student sees x + sigma xi, the teacher the clean image.

    Args:
        sigma: standard deviation of the noise on the preprocessed images.
        temperature: tau, above 0.
        weight: lambda, in [0, 1].

    Raises:
        ValueError: if a value is out of its range.
    """
    return Method(loss=_distillation(temperature, weight), input=InputNoise(sigma))


WHERE = ("teacher", "student", "both")


def messy_collaboration(
    rate: float = 0.2, where: str = "both", temperature: float = 4.0, weight: float = 0.9
) -> Method:
    """Messy Collaboration ([NR]): in each mini-batch a share of the labels is drawn at random.

    Args:
        rate: of the labels.
        where: in the training of the ``teacher``, of the ``student``, or ``both``.
        temperature: tau, above 0.
        weight: lambda, in [0, 1].

    Raises:
        ValueError: if a value is out of its range.
    """
    if where not in WHERE:
        raise ValueError(f"where={where}: choose {', '.join(WHERE)}.")
    noise = RandomLabels(rate) if rate else None
    return Method(
        loss=_distillation(temperature, weight),
        labels=noise if where != "teacher" else None,
        teacher_labels=noise if where != "student" else None,
    )


def logit_noise_additive(alpha: float, sigma: float) -> Method:
    """z' = z + sigma xi: tells noise in proportion to the logits from noise as such."""
    return Method(loss=_regression, target=AdditiveNoise(alpha, sigma))


def supervised() -> Method:
    """Cross-entropy on the labels: how teachers are trained, and a student without a teacher."""
    return Method(loss=_labels, has_teacher=False)


def _regression(g_BC: Tensor, z_BC: Tensor | None, _: Tensor) -> Tensor:
    assert z_BC is not None, "logit regression needs a teacher's logits"
    return losses.logit_regression(g_BC, z_BC)


def _distillation(temperature: float, weight: float) -> Loss:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: a temperature is above 0.")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight={weight}: the teacher's share lies in [0, 1].")

    def loss(g_BC: Tensor, z_BC: Tensor | None, labels_B: Tensor) -> Tensor:
        assert z_BC is not None, "distillation needs a teacher's logits"
        return losses.distillation(g_BC, z_BC, labels_B, temperature, weight)

    return loss


def _labels(g_BC: Tensor, _: Tensor | None, labels_B: Tensor) -> Tensor:
    return losses.cross_entropy(g_BC, labels_B)
