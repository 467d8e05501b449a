"""Against independent computations in NumPy and SciPy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from noisy_kd.data import preprocessing


@pytest.fixture
def pixels():
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (50, 3, 32, 32), generator=g, dtype=torch.uint8)


def test_per_pixel_mean(pixels):
    rows = torch.tensor([3, 1, 40, 7])
    expected = pixels.numpy()[rows.numpy()].astype(np.float64).mean(axis=0) / 255
    mean = preprocessing.per_pixel_mean(pixels, rows, chunk=3)
    np.testing.assert_allclose(mean.numpy(), expected, atol=1e-7)
    shown = preprocessing.SubtractMean(mean)(pixels)
    np.testing.assert_allclose(shown.numpy(), pixels.numpy() / 255 - expected, atol=1e-6)


def window_mean(x):
    at = np.arange(9) - 4
    weight = np.exp(-(at**2) / (2 * preprocessing.WINDOW_STD**2))
    out = x
    inside = np.ones_like(x)
    for axis in (0, 1):
        out = ndimage.correlate1d(out, weight, axis=axis, mode="constant")
        inside = ndimage.correlate1d(inside, weight, axis=axis, mode="constant")
    return out / inside


def test_local_contrast_normalisation(pixels):
    ours = preprocessing.LocalContrastNormalisation()(pixels[:5]).numpy()
    for image, result in zip(pixels[:5].numpy().astype(np.float64) / 255, ours, strict=True):
        v = image - window_mean(image.mean(axis=0))
        s = np.sqrt(window_mean((v**2).mean(axis=0)))
        np.testing.assert_allclose(result, v / np.maximum(s, s.mean()), atol=1e-4)


def test_contrast_of_a_flat_image_is_zero():
    flat = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    shown = preprocessing.LocalContrastNormalisation()(flat)
    assert shown.abs().max() < 0.1
    assert torch.isfinite(shown).all()


def test_scale(pixels):
    np.testing.assert_allclose(preprocessing.Scale()(pixels), pixels.numpy() / np.float32(255))
