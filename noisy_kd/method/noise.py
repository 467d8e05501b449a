"""Noise on logits: the noisy teacher of [NT] (equation 2, Algorithm 1), and its relatives.

Shapes: B samples in the mini-batch, C classes. z_BC are a teacher's logits (or a student's). What
the noise does to the expected loss and gradient is derived in ``docs/method.md``.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

READINGS = {
    "alpha_selects": ("samples", "values"),
    "selection": ("bernoulli", "exact"),
    "noise_per": ("sample", "batch"),
    "resample": ("step", "once"),
}


def perturb(z_BC: Tensor, xi: Tensor, selected: Tensor, sigma: float | Tensor) -> Tensor:
    """Return [NT] equation 2: z' = (1 + sigma xi) z where selected, z bit for bit elsewhere.

    xi is standard normal, [B, C] or [1, C]; ``selected`` is [B, 1] for samples, [B, C] for values.
    """
    return z_BC * torch.where(selected, 1 + sigma * xi, 1.0)


def select(u: Tensor, alpha: float, selection: str = "bernoulli") -> Tensor:
    """Return which samples the noise meets ([NT] Algorithm 1, line 5), from uniform draws u.

    ``bernoulli``: each with probability alpha. ``exact``: the round(alpha n) smallest of the n
    draws, so that their number is the same in every mini-batch. Both grow with alpha: what is
    selected at 0.3 is selected at 0.5 too.
    """
    if selection == "bernoulli":
        return u < alpha
    rank = u.flatten().argsort().argsort().view(u.shape)
    return rank < round(alpha * u.numel())


@dataclass(frozen=True)
class LogitNoise:
    """Logit perturbation: the paper's noisy teacher, with each open reading as a setting.

    On the *student's* logits (section 5.2) it is called in the same way; the gradient then passes
    through the factor 1 + xi.

    Args:
        alpha: probability that a sample is selected, in [0, 1].
        sigma: standard deviation of the noise, relative to the logit; at least 0.
        alpha_selects: ``samples`` (section 3.3, Algorithm 1) or single ``values`` (section 5.1).
        selection: ``bernoulli``, or ``exact``: round(alpha B) of the mini-batch.
        noise_per: one xi for each ``sample``, or one for the ``batch`` (Algorithm 1, line 4).
        resample: anew at each ``step`` (Algorithm 1), or ``once`` for the whole training
            (section 5.2: a sample's noisy logits remain the same): fixed wrong targets.

    Raises:
        ValueError: if a value is out of its range.

    Examples:
        >>> noise = LogitNoise(alpha=0.5, sigma=0.9)
        >>> targets = noise(teacher_logits, torch.Generator().manual_seed(0))
    """

    alpha: float
    sigma: float
    alpha_selects: str = "samples"
    selection: str = "bernoulli"
    noise_per: str = "sample"
    resample: str = "step"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha}: a probability lies in [0, 1].")
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise ValueError(f"sigma={self.sigma}: a standard deviation is finite and at least 0.")
        for name, choices in READINGS.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)}: choose {' or '.join(choices)}.")

    @property
    def is_identity(self) -> bool:
        """Whether it leaves every logit as it is."""
        return self.alpha == 0 or self.sigma == 0

    def __call__(self, z_BC: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the perturbed logits, [B, C].

        The draws do not depend on alpha and sigma, which enter as a threshold and a scale: runs
        with one seed share their random numbers.
        """
        samples, classes = z_BC.shape
        rows = 1 if self.noise_per == "batch" else samples
        columns = classes if self.alpha_selects == "values" else 1
        sigma = self._sigma(z_BC.device, generator)
        xi = torch.randn(rows, classes, generator=generator, device=z_BC.device)
        u = torch.rand(samples, columns, generator=generator, device=z_BC.device)
        return self._apply(z_BC, xi, select(u, self.alpha, self.selection), sigma)

    def _sigma(self, device: torch.device, generator: torch.Generator | None) -> float | Tensor:
        return self.sigma

    def _apply(self, z_BC: Tensor, xi: Tensor, selected: Tensor, sigma: float | Tensor) -> Tensor:
        return perturb(z_BC, xi, selected, sigma)


class AdditiveNoise(LogitNoise):
    """z' = z + sigma xi for the selected samples: the control for noise in proportion to z."""

    def _apply(self, z_BC: Tensor, xi: Tensor, selected: Tensor, sigma: float | Tensor) -> Tensor:
        return z_BC + torch.where(selected, sigma * xi, 0.0)


@dataclass(frozen=True)
class RandomSigma(LogitNoise):
    """Logit perturbation with one sigma' ~ U[sigma_min, sigma] for each mini-batch ([NT] 5.4)."""

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sigma_min <= self.sigma:
            raise ValueError(f"sigma_min={self.sigma_min}: it lies between 0 and sigma_max.")

    def _sigma(self, device: torch.device, generator: torch.Generator | None) -> Tensor:
        u = torch.rand((), generator=generator, device=device)
        return self.sigma_min + (self.sigma - self.sigma_min) * u


@dataclass(frozen=True)
class InputNoise:
    """Soft Randomization ([NR]): x + sigma xi on the student's preprocessed images [B, C, H, W]."""

    sigma: float

    def __post_init__(self) -> None:
        LogitNoise(0.0, self.sigma)  # checks sigma

    def __call__(self, x_BCHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if self.sigma == 0:
            return x_BCHW
        xi = torch.randn(x_BCHW.shape, generator=generator, device=x_BCHW.device)
        return x_BCHW + self.sigma * xi


@dataclass(frozen=True)
class RandomShift:
    """Each image [B, C, H, W] moved by up to so many pixels in both directions, anew each time.

    For a teacher's training. Every move is equally likely, none included. What moves in is 0:
    black, or the mean image where it is subtracted. The memory layout stays.
    """

    pixels: int

    def __post_init__(self) -> None:
        if self.pixels < 0:
            raise ValueError(f"shift={self.pixels}: a number of pixels is at least 0.")

    def __call__(self, x_BCHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        count, _, height, width = x_BCHW.shape
        device, most = x_BCHW.device, 2 * self.pixels
        start = torch.randint(most + 1, (2, count, 1), generator=generator, device=device)
        rows_BH = start[0] + torch.arange(height, device=device)
        columns_BW = start[1] + torch.arange(width, device=device)
        image_B = torch.arange(count, device=device)
        padded_BHWC = F.pad(x_BCHW, [self.pixels] * 4).permute(0, 2, 3, 1)
        moved_BHWC = padded_BHWC[image_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None]]
        return torch.empty_like(x_BCHW).copy_(moved_BHWC.permute(0, 3, 1, 2))


@dataclass(frozen=True)
class RandomLabels:
    """Messy Collaboration ([NR]): a share ``rate`` of the labels [B] is drawn anew, uniformly.

    A label may be drawn as it was.
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate={self.rate}: a probability lies in [0, 1].")

    def __call__(
        self, labels_B: Tensor, classes: int, generator: torch.Generator | None = None
    ) -> Tensor:
        if self.rate == 0:
            return labels_B
        u = torch.rand(labels_B.shape, generator=generator, device=labels_B.device)
        drawn = torch.randint(classes, labels_B.shape, generator=generator, device=labels_B.device)
        return torch.where(u < self.rate, drawn, labels_B)
