import pytest
import torch

from noisy_kd.evaluation.corruptions import CORRUPTIONS


@pytest.fixture(params=[(1, 28), (3, 32), (1, 8)], ids=["grey 28", "colour 32", "grey 8"])
def images(request):
    channels, size = request.param
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(40, channels, 4, 4, generator=g)
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")


def corrupted(name, images, severity, seed=0):
    corrupt, strengths = CORRUPTIONS[name]
    return corrupt(images, strengths[severity], torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_stay_images_and_severity_hurts_more(name, images):
    before = images.clone()
    distances = []
    for severity in range(5):
        made = corrupted(name, images, severity)
        assert made.shape == images.shape
        assert made.dtype == images.dtype
        assert made.min() >= -1e-6
        assert made.max() <= 1 + 1e-6
        distances.append(float((made - images).square().mean()))
    assert torch.equal(images, before)
    assert distances[-1] > distances[0]
    assert distances[-1] > 1e-4


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_generator_decides(name, images):
    assert torch.equal(corrupted(name, images, 2, 1), corrupted(name, images, 2, 1))


def test_noise_has_the_strength_it_says():
    grey = torch.full((50, 1, 28, 28), 0.5)
    assert float((corrupted("gaussian_noise", grey, 1) - grey).std()) == pytest.approx(
        0.08, rel=0.02
    )
    flipped = corrupted("impulse_noise", grey, 4)
    assert float((flipped != grey).float().mean()) == pytest.approx(0.2, rel=0.03)
    shot = corrupted("shot_noise", grey, 3)
    assert float(shot.var()) == pytest.approx(0.5 * 0.1, rel=0.1)  # a Poisson's
