"""The papers' preprocessing as modules that can be exported.

Shapes: B images, C channels, H x W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisy_kd.errors import InputError
from noisy_kd.model.targets import check_allowed, locate

WINDOW = 9  # pixels a side (Jarrett et al. 2009)
WINDOW_STD = 2.0  # pixels; the papers do not give it


def per_pixel_mean(images_NCHW: Tensor, rows: Tensor, chunk: int = 4096) -> Tensor:
    """Return the mean of these rows of uint8 images on the scale [0, 1], float32 [C, H, W]."""
    total = torch.zeros(images_NCHW.shape[1:], dtype=torch.float64)
    for part in rows.split(chunk):
        total += images_NCHW[part].float().sum(dim=0)  # exact: 4096 * 255 < 2^24
    return (total / (255 * len(rows))).float()


class Scale(nn.Module):
    """uint8 pixels to float32 in [0, 1]."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW.to(torch.float32, copy=True).div_(255)


class SubtractMean(Scale):
    """uint8 pixels to [0, 1], less the training set's mean image [C, H, W]."""

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return super().forward(images_BCHW).sub_(self.mean)


class LocalContrastNormalisation(Scale):
    """uint8 pixels to [0, 1], then local contrast normalisation (Jarrett et al. 2009).

    Subtractive, then divisive: v = x - sum_cpq w_pq x, y = v / max(mean(s), s) with
    s = sqrt(sum_cpq w_pq v^2): w is a 9x9 Gaussian window over all channels that sums to 1, and at
    the border over the part of it that lies in the image.
    """

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x_BCHW = super().forward(images_BCHW)
        v = x_BCHW - _window_mean(x_BCHW.mean(dim=1, keepdim=True))
        s = _window_mean(v.square().mean(dim=1, keepdim=True)).clamp_min(0).sqrt()
        c = s.mean(dim=(2, 3), keepdim=True)
        return v / torch.maximum(s, c).clamp_min(1e-4)


def _window_mean(x_B1HW: Tensor) -> Tensor:
    """Return the Gaussian mean around every pixel, of the part of the window inside the image."""
    at = torch.arange(WINDOW, device=x_B1HW.device, dtype=x_B1HW.dtype) - WINDOW // 2
    weight = torch.exp(-(at**2) / (2 * WINDOW_STD**2))
    sums = []
    for part in (x_B1HW, torch.ones_like(x_B1HW[:1])):
        column = F.conv2d(part, weight.view(1, 1, -1, 1), padding=(WINDOW // 2, 0))
        sums.append(F.conv2d(column, weight.view(1, 1, 1, -1), padding=(0, WINDOW // 2)))
    return sums[0] / sums[1]


def kind_of(preprocessing: nn.Module) -> str:
    """Return how a file names a preprocessing: by its class here, or by an import path."""
    made_by = type(preprocessing)
    if made_by.__module__ == __name__:
        return made_by.__name__
    return f"{made_by.__module__}.{made_by.__qualname__}"


def restored(kind: str, state: dict[str, Tensor], allow: Sequence[str] | None = None) -> nn.Module:
    """Return the preprocessing that a file names, with its buffers as the constructor's arguments.

    ``allow`` as in :func:`noisy_kd.model.targets.check_allowed`; None for the user's own class.

    Raises:
        InputError: if its class cannot be imported, or does not take them.
    """
    target = kind if "." in kind else f"{__name__}.{kind}"
    if allow is not None:
        check_allowed(target, nn.Module, allow)
    try:
        preprocessing: nn.Module = locate(target)(**state)
    except Exception as error:  # whatever a user's own code raises
        raise InputError(
            f"the preprocessing {kind} cannot be made from its buffers "
            f"({', '.join(state) or 'none'}): its class must be at the top of a module, and its "
            f"arguments must be its buffers ({type(error).__name__})."
        ) from error
    return preprocessing.eval()
