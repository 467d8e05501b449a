"""Noise on logits: the noisy teacher of [NT] (equation 2, Algorithm 1).

Shapes: B samples in the mini-batch, C classes. z_BC are a teacher's logits (or a student's).

What the noise does and does not do: with s ~ Bernoulli(alpha) the selection, z' = (1 + s xi) z and
the noise drawn anew at each step, E||g - z'||^2 = ||g - z||^2 + alpha sigma^2 ||z||^2. The added
term does not depend on the student's weights, so the expected gradient is the clean one; the method
acts through zero-mean gradient noise of covariance proportional to alpha sigma^2 diag(z^2). The
cross term that [NT] section 3.4 prints as a product of norms is an inner product of mean zero,
-2 <g - z, s xi z>. On the *student's* logits the same noise adds alpha sigma^2 ||g||^2: a penalty.
"""

from __future__ import annotations

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
    """[NT] equation 2, z' = (1 + sigma xi) z where selected, z elsewhere (there bit for bit).

    Args:
        z_BC: logits, [B, C].
        xi: standard normal, [B, C] (or [1, C]: one draw for the mini-batch).
        selected: true where the noise acts, [B, 1] for samples or [B, C] for single values.
        sigma: standard deviation of the noise.
    """
    return z_BC * torch.where(selected, 1 + sigma * xi, 1.0)


def select(u: Tensor, alpha: float, selection: str = "bernoulli") -> Tensor:
    """Which samples the noise meets ([NT] Algorithm 1, line 5), from uniform draws u.

    ``bernoulli``: each with probability alpha. ``exact``: the round(alpha n) smallest of the n
    draws, so that their number is the same in every mini-batch. Both grow with alpha: what is
    selected at 0.3 is selected at 0.5 too.

    Returns:
        A boolean tensor of u's shape.
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

    Example:
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
        """Perturbed logits, [B, C].

        The draws do not depend on alpha and sigma, which enter as a threshold and a scale: runs
        with one seed share their random numbers.
        """
        samples, classes = z_BC.shape
        rows = 1 if self.noise_per == "batch" else samples
        columns = classes if self.alpha_selects == "values" else 1
        xi = torch.randn(rows, classes, generator=generator, device=z_BC.device)
        u = torch.rand(samples, columns, generator=generator, device=z_BC.device)
        return perturb(z_BC, xi, select(u, self.alpha, self.selection), self.sigma)


@dataclass(frozen=True)
class AdditiveNoise:
    """z' = z + sigma xi for the selected samples: the control for noise in proportion to z.

    Args:
        alpha: probability that a sample is selected, in [0, 1].
        sigma: standard deviation of the noise, in logits; at least 0.

    Raises:
        ValueError: if a value is out of its range.
    """

    alpha: float
    sigma: float
    resample: str = "step"

    def __post_init__(self) -> None:
        LogitNoise(self.alpha, self.sigma)

    @property
    def is_identity(self) -> bool:
        """Whether it leaves every logit as it is."""
        return self.alpha == 0 or self.sigma == 0

    def __call__(self, z_BC: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Perturbed logits, [B, C]; the draws are those of :class:`LogitNoise`."""
        xi = torch.randn(z_BC.shape, generator=generator, device=z_BC.device)
        u = torch.rand(len(z_BC), 1, generator=generator, device=z_BC.device)
        return z_BC + torch.where(select(u, self.alpha), self.sigma * xi, 0.0)


@dataclass(frozen=True)
class InputNoise:
    """Soft Randomization ([NR]): x + sigma xi on the student's images, xi ~ N(0, I).

    Args:
        sigma: standard deviation, on the scale of the preprocessed images; at least 0.

    Raises:
        ValueError: if it is out of its range.
    """

    sigma: float

    def __post_init__(self) -> None:
        LogitNoise(0.0, self.sigma)

    def __call__(self, x_BCHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noisy images, [B, C, H, W]."""
        if self.sigma == 0:
            return x_BCHW
        xi = torch.randn(x_BCHW.shape, generator=generator, device=x_BCHW.device)
        return x_BCHW + self.sigma * xi


@dataclass(frozen=True)
class RandomShift:
    """Each image moved by up to so many pixels in both directions, anew each time.

    For a teacher's training. What moves in is 0: black, or the mean image where it is subtracted.

    Args:
        pixels: the largest move, at least 0; each one up to it, also none, is as likely.

    Raises:
        ValueError: if it is negative.
    """

    pixels: int

    def __post_init__(self) -> None:
        if self.pixels < 0:
            raise ValueError(f"shift={self.pixels}: a number of pixels is at least 0.")

    def __call__(self, x_BCHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Moved images, [B, C, H, W], in the memory layout that they had."""
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
    """Messy Collaboration ([NR]): a share of the labels is drawn anew, uniformly over all classes.

    Args:
        rate: probability that a label is drawn anew, in [0, 1]; it may come out as it was.

    Raises:
        ValueError: if it is out of its range.
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate={self.rate}: a probability lies in [0, 1].")

    def __call__(
        self, labels_B: Tensor, classes: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Labels, int64 [B]."""
        if self.rate == 0:
            return labels_B
        u = torch.rand(labels_B.shape, generator=generator, device=labels_B.device)
        drawn = torch.randint(classes, labels_B.shape, generator=generator, device=labels_B.device)
        return torch.where(u < self.rate, drawn, labels_B)


@dataclass(frozen=True)
class RandomSigma:
    """Logit perturbation whose sigma ~ U[sigma_min, sigma_max] anew each mini-batch ([NT] 5.4).

    Args:
        alpha: probability that a sample is selected, in [0, 1].
        sigma_min: least standard deviation, at least 0.
        sigma_max: largest standard deviation, at least ``sigma_min``.

    Raises:
        ValueError: if a value is out of its range.
    """

    alpha: float
    sigma_min: float = 0.01
    sigma_max: float = 1.0
    resample: str = "step"

    def __post_init__(self) -> None:
        LogitNoise(self.alpha, self.sigma_max)
        if not 0 <= self.sigma_min <= self.sigma_max:
            raise ValueError(f"sigma_min={self.sigma_min}: it lies between 0 and sigma_max.")

    @property
    def is_identity(self) -> bool:
        """Whether it leaves every logit as it is."""
        return self.alpha == 0 or self.sigma_max == 0

    def __call__(self, z_BC: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Perturbed logits, [B, C], all with one sigma."""
        u = torch.rand((), generator=generator, device=z_BC.device)
        sigma = self.sigma_min + (self.sigma_max - self.sigma_min) * u
        xi = torch.randn(z_BC.shape, generator=generator, device=z_BC.device)
        chosen = torch.rand(len(z_BC), 1, generator=generator, device=z_BC.device) < self.alpha
        return perturb(z_BC, xi, chosen, sigma)
