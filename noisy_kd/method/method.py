"""What a method is: a loss, with noise in one place or another.

Shapes: B samples in the mini-batch, N training samples, T teachers (mostly 1), C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from noisy_kd.method import losses
from noisy_kd.method.noise import InputNoise, LogitNoise, RandomLabels, RandomShift


def geometric_mean(z_BTC: Tensor) -> Tensor:
    """Return the logits of the geometric mean of e^z: their arithmetic mean ([NT] 5.4)."""
    return z_BTC.mean(dim=1)


def signed_geometric_mean(z_BTC: Tensor) -> Tensor:
    """Return [NT] 5.4 read to the letter: the geometric mean of the |z_t|, with a sign.

    The sign is that of their sum, for the plain geometric mean of numbers of either sign does not
    exist; 0 where any teacher's logit is 0.
    """
    size = z_BTC.abs().log().mean(dim=1).exp()
    return size * z_BTC.sum(dim=1).sign()


COMBINATIONS = {
    "geometric_mean": geometric_mean,
    "signed_geometric_mean": signed_geometric_mean,
    "random_teacher": geometric_mean,  # what is drawn from in training is evaluated by its mean
}


@dataclass(frozen=True)
class TeacherDropout:
    """Dropout that stays active in the teacher while it teaches.

    The target is drawn from ``passes`` computed beforehand; 0 asks the teacher at each step.
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

    ``teacher`` and ``student`` are layers by their place in the notation (``C2``, ``FC1``), None
    for the middle one; ``epochs`` is the length of the stage.
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

    loss: losses.Loss
    input: InputNoise | RandomShift | None = None
    target: LogitNoise | None = None
    output: LogitNoise | None = None
    labels: RandomLabels | None = None
    teacher_labels: RandomLabels | None = None
    teacher_dropout: TeacherDropout | None = None
    teachers: str = "one"
    hint: Hint | None = None
    has_teacher: bool = True

    @property
    def is_logit_regression(self) -> bool:
        """Whether this is plain logit regression, also as the zero-noise end of a noisy method."""
        clean = all(noise is None or noise.is_identity for noise in (self.target, self.output))
        return self.loss is losses.logit_regression and clean and self.teachers == "one"

    @property
    def needs_labels(self) -> bool:
        """Whether the student learns from labels, so that images without one are of no use."""
        return self.loss is not losses.logit_regression

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
        """Whether a sample's target changes at each step, or is not the teachers' own."""
        return self.target is not None or self.draws_teacher or self.teacher_dropout is not None

    @property
    def passes(self) -> int:
        """How many passes of the teacher are computed beforehand, besides the clean one."""
        return self.teacher_dropout.passes if self.teacher_dropout else 0

    def clean_target(self, z_NTC: Tensor) -> Tensor:
        """Return the teachers' own target, [N, C], of [N, T, C], or of one teacher's [N, C].

        It is what the teachers are evaluated by. With passes the first is the clean one.
        """
        z_NTC = z_NTC if z_NTC.ndim == 3 else z_NTC.unsqueeze(1)
        return z_NTC[:, 0] if self.teachers == "one" else COMBINATIONS[self.teachers](z_NTC)

    def fixed_target(self, z_NTC: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return all targets, [N, C], with the noise that is drawn once for the whole training.

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
        """Return the targets [B, C] of one mini-batch, with what is drawn at each step."""
        if z.ndim == 3 and self.draws_teacher:  # which noise on one teacher simulates
            samples, teachers, _ = z.shape
            drawn = torch.randint(teachers, (samples,), generator=generator, device=z.device)
            z = z[torch.arange(samples, device=z.device), drawn]
        elif z.ndim == 3:
            z = self.clean_target(z)
        return z if self.target is None or self.draws_once else self.target(z, generator)

    def step_input(self, x_BCHW: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the images as the net in training sees them."""
        return x_BCHW if self.input is None else self.input(x_BCHW, generator)

    def step_labels(
        self, labels_B: Tensor, classes: int, generator: torch.Generator | None
    ) -> Tensor:
        """Return the labels as the loss sees them."""
        return labels_B if self.labels is None else self.labels(labels_B, classes, generator)

    def step_output(self, g_BC: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the student's logits as the loss sees them."""
        return g_BC if self.output is None else self.output(g_BC, generator)
