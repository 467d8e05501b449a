import math

import pytest
import torch

from noisy_kd.method import LogitNoise
from noisy_kd.method.noise import select

N, C = 20_000, 10


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def z():
    return torch.randn(N, C, generator=generator(1)) * 4 + 0.1


def relative(noise, z, seed=0):
    return noise(z, generator(seed)) / z - 1


@pytest.mark.parametrize("alpha", [0.15, 0.5, 0.8])
def test_alpha_is_the_share_of_selected_samples(z, alpha):
    moved = relative(LogitNoise(alpha, 0.9), z) != 0
    share = moved.any(dim=1).float().mean().item()
    assert abs(share - alpha) < 4 * math.sqrt(alpha * (1 - alpha) / N)


def test_alpha_picks_samples_and_not_batches(z):
    """KD_Lib tosses one coin per mini-batch: there a batch is perturbed whole or not at all."""
    noise, g = LogitNoise(0.5, 0.9), generator()
    for start in range(0, 640, 64):
        batch = z[start : start + 64]
        share = (noise(batch, g) != batch).any(dim=1).float().mean()
        assert 0.2 < share < 0.8


def test_unselected_samples_are_untouched_and_selected_ones_move_in_every_class(z):
    moved = LogitNoise(0.5, 0.9)(z, generator()) != z
    assert ((moved.sum(dim=1) == 0) | (moved.sum(dim=1) == C)).all()


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_sigma_is_a_standard_deviation(z, sigma):
    """KD_Lib takes a variance: there 0.25 moves logits by 0.5."""
    xi = relative(LogitNoise(1.0, sigma), z)
    assert xi.std().item() == pytest.approx(sigma, rel=4 / math.sqrt(2 * N * C))
    assert abs(xi.mean().item()) < 4 * sigma / math.sqrt(N * C)


def test_noise_is_normal_and_independent_between_classes_and_samples(z):
    xi = relative(LogitNoise(1.0, 0.5), z) / 0.5
    assert (xi**4).mean().item() == pytest.approx(3, abs=0.1)
    correlation = torch.corrcoef(xi.T) - torch.eye(C)
    assert correlation.abs().max() < 5 / math.sqrt(N)
    assert torch.corrcoef(torch.stack([xi[:-1, 0], xi[1:, 0]]))[0, 1].abs() < 5 / math.sqrt(N)


@pytest.mark.parametrize("noise", [LogitNoise(0.0, 0.9), LogitNoise(0.5, 0.0)])
def test_no_noise_leaves_every_bit(z, noise):
    assert torch.equal(noise(z, generator()), z)
    assert noise.is_identity


def test_one_generator_fixes_everything(z):
    noise = LogitNoise(0.5, 0.9)
    assert torch.equal(noise(z, generator(3)), noise(z, generator(3)))
    assert not torch.equal(noise(z, generator(3)), noise(z, generator(4)))


def test_alpha_and_sigma_share_their_random_numbers(z):
    """Common random numbers: sigma scales the same draws, alpha grows the same selection."""
    small, large = (relative(LogitNoise(1.0, s), z.double()) for s in (0.2, 0.4))
    assert torch.allclose(2 * small, large, atol=1e-5)
    few, many = (relative(LogitNoise(a, 0.5), z) != 0 for a in (0.3, 0.6))
    assert (few <= many).all()


def test_one_xi_per_batch(z):
    xi = relative(LogitNoise(0.5, 0.9, noise_per="batch"), z.double())
    rows = xi[(xi != 0).any(dim=1)]
    assert torch.allclose(rows, rows[:1].expand_as(rows), atol=1e-6)
    assert 0.4 < len(rows) / N < 0.6


def test_alpha_may_select_values(z):
    moved = relative(LogitNoise(0.3, 0.9, alpha_selects="values"), z) != 0
    assert moved.float().mean().item() == pytest.approx(0.3, abs=4 / math.sqrt(N * C))
    assert not moved.all(dim=1).any() or moved.all(dim=1).float().mean() < 1e-3


@pytest.mark.parametrize(("alpha", "count"), [(0.0, 0), (0.15, 10), (0.5, 32), (1.0, 64)])
def test_exact_selection_takes_the_same_number_in_every_batch(z, alpha, count):
    noise, g = LogitNoise(alpha, 0.9, selection="exact"), generator()
    for start in range(0, 640, 64):
        batch = z[start : start + 64]
        assert (noise(batch, g) != batch).any(dim=1).sum() == count


def test_exact_selection_is_uniform_over_samples():
    g = generator()
    hits = sum(select(torch.rand(8, 1, generator=g), 0.25, "exact") for _ in range(4000))
    assert (hits.float() / 4000 - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 4000)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"alpha": -0.1, "sigma": 1}, "alpha"),
        ({"alpha": 1.1, "sigma": 1}, "alpha"),
        ({"alpha": math.nan, "sigma": 1}, "alpha"),
        ({"alpha": 0.5, "sigma": -1}, "sigma"),
        ({"alpha": 0.5, "sigma": math.inf}, "sigma"),
        ({"alpha": 0.5, "sigma": 1, "selection": "some"}, "selection"),
        ({"alpha": 0.5, "sigma": 1, "resample": "never"}, "resample"),
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        LogitNoise(**arguments)
