"""Common corruptions in the manner of CIFAR-10-C and MNIST-C (Hendrycks & Dietterich 2019).

Built on torchvision's transforms: they are maintained, work on tensors of any size, and are a
dependency already; the packages that made the published sets are neither. So severities are of this
project's choosing, and numbers compare students with each other, not with published mCE values.

Shapes: B images, C channels, H x W pixels in [0, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as V

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
"""From images, a strength and a generator to corrupted images in [0, 1]."""


def gaussian_noise(x_BCHW: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """x + sigma xi, clipped to [0, 1]."""
    xi = torch.randn(x_BCHW.shape, generator=generator, device=x_BCHW.device)
    return (x_BCHW + sigma * xi).clamp(0, 1)


def _shot_noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    photons = 1 / strength
    return (torch.poisson(x * photons, generator=generator) / photons).clamp(0, 1)


def _impulse_noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    u = torch.rand(x.shape, generator=generator, device=x.device)
    return torch.where(u < strength / 2, 0.0, torch.where(u > 1 - strength / 2, 1.0, x))


def _blur(x: Tensor, strength: float, _: torch.Generator) -> Tensor:
    blurred: Tensor = V.gaussian_blur(x, [5, 5], [strength, strength])
    return blurred


def _pixelate(x: Tensor, strength: float, _: torch.Generator) -> Tensor:
    height, width = x.shape[2:]
    small = [max(1, round(height * strength)), max(1, round(width * strength))]
    coarse = V.resize(x, small, antialias=True)
    back: Tensor = V.resize(coarse, [height, width], V.InterpolationMode.NEAREST)
    return back


def _jpeg(x: Tensor, strength: float, _: torch.Generator) -> Tensor:
    pixels = (x * 255).round().to(torch.uint8).cpu().expand(-1, 3, -1, -1)
    decoded = torch.stack([V.jpeg_image(image, round(strength)) for image in pixels])
    return decoded[:, : x.shape[1]].to(x.device).float() / 255


def _contrast(x: Tensor, strength: float, _: torch.Generator) -> Tensor:
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return ((x - mean) * strength + mean).clamp(0, 1)


def _rotate(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    signs = torch.randint(2, (len(x),), generator=generator) * 2 - 1
    bilinear = V.InterpolationMode.BILINEAR
    left, right = (V.rotate(x, sign * strength, interpolation=bilinear) for sign in (-1, 1))
    return torch.where((signs > 0).view(-1, 1, 1, 1).to(x.device), right, left)


def _translate(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    angle = 2 * torch.pi * torch.rand((), generator=generator)
    shift = [round(float(strength * x.shape[-1] * part)) for part in (angle.cos(), angle.sin())]
    moved: Tensor = V.affine(x, 0.0, shift, 1.0, [0.0, 0.0])
    return moved


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "shot_noise": (_shot_noise, (0.01, 0.02, 0.05, 0.1, 0.2)),
    "impulse_noise": (_impulse_noise, (0.01, 0.03, 0.06, 0.12, 0.2)),
    "gaussian_blur": (_blur, (0.4, 0.7, 1.0, 1.5, 2.0)),
    "pixelate": (_pixelate, (0.9, 0.75, 0.6, 0.5, 0.4)),
    "jpeg": (_jpeg, (60, 40, 25, 15, 8)),
    "brightness": (lambda x, strength, _: (x + strength).clamp(0, 1), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "rotate": (_rotate, (5, 10, 15, 22, 30)),
    "translate": (_translate, (0.03, 0.06, 0.1, 0.14, 0.18)),
}
"""Name -> the corruption, and its strengths at severities 1 to 5."""
