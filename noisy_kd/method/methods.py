"""The methods by the papers' names: each is a composition of a loss with noise.

A method of your own is one function here or in your own module, and one file in ``conf/method``
whose ``_target_`` names it.

Shapes: B samples in the mini-batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from noisy_kd.method import losses
from noisy_kd.method.method import Hint, Loss, Method, TeacherDropout, regression
from noisy_kd.method.noise import AdditiveNoise, InputNoise, LogitNoise, RandomLabels, RandomSigma
from noisy_kd.method.teachers import COMBINATIONS


def logit_regression() -> Method:
    """Logit regression (Ba & Caruana; [NT] equation 1): the baseline."""
    return Method(loss=regression)


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
    return Method(loss=regression, target=noise)


def noisy_student(alpha: float, sigma: float) -> Method:
    """The same noise on the student's logits ([NT] 5.2): 1/(2T) sum ||(1 + s xi) g - z||^2.

    In expectation ||g - z||^2 + alpha sigma^2 ||g||^2: a penalty on large logits.
    """
    return Method(loss=regression, output=LogitNoise(alpha, sigma))


def random_sigma(alpha: float, sigma_min: float = 0.01, sigma_max: float = 1.0) -> Method:
    """The noisy teacher with sigma ~ U[sigma_min, sigma_max] anew each mini-batch ([NT] 5.4)."""
    return Method(loss=regression, target=RandomSigma(alpha, sigma_min, sigma_max))


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
    return Method(loss=regression, teachers=combination if len(teachers) > 1 else "one")


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
        temperature, weight: as in :func:`hinton`.

    Raises:
        ValueError: if a value is out of its range.
    """
    if not isinstance(hint_epochs, int) or hint_epochs < 0:
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
        temperature, weight: as in :func:`hinton`.

    Raises:
        ValueError: if a value is out of its range.
    """
    dropout = TeacherDropout(p, passes)
    return Method(loss=_distillation(temperature, weight), teacher_dropout=dropout if p else None)


def soft_randomization(sigma: float = 0.2, temperature: float = 4.0, weight: float = 0.9) -> Method:
    """Soft Randomization ([NR]): the student sees x + sigma xi, the teacher the clean image.

    Args:
        sigma: standard deviation of the noise on the preprocessed images.
        temperature, weight: as in :func:`hinton`.

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
        temperature, weight: as in :func:`hinton`.

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
    return Method(loss=regression, target=AdditiveNoise(alpha, sigma))


def supervised() -> Method:
    """Cross-entropy on the labels: how teachers are trained, and a student without a teacher."""
    return Method(loss=_labels, has_teacher=False)


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
