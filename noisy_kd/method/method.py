"""What a method is: a loss, with noise in one place or another.

Shapes: B samples in the mini-batch, N training samples, T teachers (mostly 1), C classes.
"""

from __future__ import annotations

from collections.abc import Callable
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
        if not isinstance(self.passes, int) or self.passes < 0:
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
        return self.loss is regression and clean and self.teachers == "one"

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


def regression(g_BC: Tensor, z_BC: Tensor | None, _: Tensor) -> Tensor:
    """Return the loss of logit regression, [NT] equations 1 and 3; labels play no part."""
    assert z_BC is not None, "logit regression needs a teacher's logits"
    return losses.logit_regression(g_BC, z_BC)
