"""The methods by the papers' names: each is a composition of a loss with noise.

A method of your own is one function here or in your own module, and one file in ``conf/method``
whose ``_target_`` names it.
"""

from collections.abc import Sequence

from noisy_kd.method import losses
from noisy_kd.method.method import COMBINATIONS, Hint, Method, TeacherDropout
from noisy_kd.method.noise import AdditiveNoise, InputNoise, LogitNoise, RandomLabels, RandomSigma


def logit_regression() -> Method:
    """Logit regression (Ba & Caruana; [NT] equation 1): the baseline."""
    return Method(loss=losses.logit_regression)


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
    return Method(loss=losses.logit_regression, target=noise)


def noisy_student(alpha: float, sigma: float) -> Method:
    """The same noise on the student's logits ([NT] 5.2): 1/(2T) sum ||(1 + s xi) g - z||^2.

    In expectation ||g - z||^2 + alpha sigma^2 ||g||^2: a penalty on large logits.
    """
    return Method(loss=losses.logit_regression, output=LogitNoise(alpha, sigma))


def random_sigma(alpha: float, sigma_min: float = 0.01, sigma_max: float = 1.0) -> Method:
    """The noisy teacher with sigma ~ U[sigma_min, sigma_max] anew each mini-batch ([NT] 5.4)."""
    return Method(
        loss=losses.logit_regression, target=RandomSigma(alpha, sigma_max, sigma_min=sigma_min)
    )


def two_teachers(teachers: Sequence[str], combination: str = "geometric_mean") -> Method:
    """Regression on the logits of several teachers, made one ([NT] 5.4); no noise.

    Args:
        teachers: their networks, ids of ``conf/model`` or notations; any number.
        combination: a key of :data:`noisy_kd.method.method.COMBINATIONS`.

    Raises:
        ValueError: if there is no teacher, or the combination is unknown.
    """
    if not teachers:
        raise ValueError("teachers=[]: name one teacher at least.")
    if combination not in COMBINATIONS:
        raise ValueError(f"combination={combination}: choose {', '.join(COMBINATIONS)}.")
    return Method(
        loss=losses.logit_regression, teachers=combination if len(teachers) > 1 else "one"
    )


def hinton(temperature: float = 4.0, weight: float = 0.9) -> Method:
    """Hinton et al. 2015: (1 - lambda) CE + lambda tau^2 KL of the softened outputs.

    Args:
        temperature: tau, above 0.
        weight: lambda, the share of the teacher, in [0, 1].

    Raises:
        ValueError: if a value is out of its range.
    """
    return Method(loss=losses.distillation(temperature, weight))


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
        temperature: as in :func:`hinton`.
        weight: as in :func:`hinton`.

    Raises:
        ValueError: if a value is out of its range.
    """
    if not isinstance(hint_epochs, int) or hint_epochs < 0:
        raise ValueError(f"hint_epochs={hint_epochs}: a number of epochs, 0 for none.")
    stage = Hint(hint, guided, hint_epochs) if hint_epochs else None
    return Method(loss=losses.distillation(temperature, weight), hint=stage)


def fickle_teacher(
    p: float = 0.3, passes: int = 0, temperature: float = 4.0, weight: float = 0.9
) -> Method:
    """Fickle Teacher ([NR]): dropout stays active in the teacher, another target each time.

    Args:
        p: of the teacher's dropout layers; a teacher without any gets one after its last hidden
            layer.
        passes: 0 asks the teacher at each step; M draws one of M cached passes per sample.
        temperature: as in :func:`hinton`.
        weight: as in :func:`hinton`.

    Raises:
        ValueError: if a value is out of its range.
    """
    dropout = TeacherDropout(p, passes)
    return Method(
        loss=losses.distillation(temperature, weight), teacher_dropout=dropout if p else None
    )


def soft_randomization(sigma: float = 0.2, temperature: float = 4.0, weight: float = 0.9) -> Method:
    """Soft Randomization ([NR]): the student sees x + sigma xi, the teacher the clean image.

    Args:
        sigma: standard deviation of the noise on the preprocessed images.
        temperature: as in :func:`hinton`.
        weight: as in :func:`hinton`.

    Raises:
        ValueError: if a value is out of its range.
    """
    return Method(loss=losses.distillation(temperature, weight), input=InputNoise(sigma))


def messy_collaboration(
    rate: float = 0.2, where: str = "both", temperature: float = 4.0, weight: float = 0.9
) -> Method:
    """Messy Collaboration ([NR]): in each mini-batch a share of the labels is drawn at random.

    Args:
        rate: of the labels.
        where: in the training of the ``teacher``, of the ``student``, or ``both``.
        temperature: as in :func:`hinton`.
        weight: as in :func:`hinton`.

    Raises:
        ValueError: if a value is out of its range.
    """
    if where not in ("teacher", "student", "both"):
        raise ValueError(f"where={where}: choose teacher, student or both.")
    noise = RandomLabels(rate) if rate else None
    return Method(
        loss=losses.distillation(temperature, weight),
        labels=noise if where != "teacher" else None,
        teacher_labels=noise if where != "student" else None,
    )


def logit_noise_additive(alpha: float, sigma: float) -> Method:
    """z' = z + sigma xi: tells noise in proportion to the logits from noise as such."""
    return Method(loss=losses.logit_regression, target=AdditiveNoise(alpha, sigma))


def supervised(label_smoothing: float = 0.0) -> Method:
    """Cross-entropy on the labels: how teachers are trained, and a student without a teacher.

    Args:
        label_smoothing: share of the target that is spread over all classes, in [0, 1).

    Raises:
        ValueError: if it is out of its range.
    """
    loss = losses.smoothed_cross_entropy(label_smoothing) if label_smoothing else None
    return Method(loss=loss or losses.cross_entropy, has_teacher=False)
