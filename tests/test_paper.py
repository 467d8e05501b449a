"""[NT]: its equations by hand, what they imply, and its counts."""

import pytest
import torch
import yaml

from noisy_kd.config import CONF
from noisy_kd.method import LogitNoise, logit_regression
from noisy_kd.method.noise import perturb
from noisy_kd.model.complexity import layer_costs, multiplications
from noisy_kd.model.network import network

Z = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, -1.0]])
G = torch.tensor([[2.0, -2.0, 1.0], [0.5, 2.0, 0.0]])


def layers(name):
    return yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())["layers"]


def test_equation_1_by_hand():
    # ||(1, 0, -2)||^2 = 5, ||(0, 2, 1)||^2 = 5; 1/(2 * 2) * (5 + 5)
    assert logit_regression(G, Z) == 2.5


def test_equation_2_by_hand():
    xi = torch.tensor([[1.0, -1.0, 0.5], [2.0, 2.0, 2.0]])
    selected = torch.tensor([[True], [False]])
    expected = torch.tensor([[1.5, -1.0, 3.75], [0.5, 0.0, -1.0]])
    assert torch.equal(perturb(Z, xi, selected, sigma=0.5), expected)


def test_equation_3_is_not_the_mean_over_classes():
    assert logit_regression(G, Z) == 3 / 2 * torch.nn.functional.mse_loss(G, Z)


ALPHA, SIGMA, DRAWS = 0.4, 0.7, 40_000


def noisy_losses_and_gradients():
    g = G.clone().requires_grad_()
    noise, generator = LogitNoise(ALPHA, SIGMA), torch.Generator().manual_seed(0)
    z = Z.repeat(DRAWS, 1)
    noisy = noise(z, generator)
    squares = (G.repeat(DRAWS, 1) - noisy).square().sum(dim=1).view(DRAWS, 2)
    gradients = (g.detach().repeat(DRAWS, 1) - noisy).view(DRAWS, 2, 3)
    return squares, gradients


def test_noise_adds_a_constant_that_does_not_depend_on_the_student():
    """E||g - z'||^2 - ||g - z||^2 = alpha sigma^2 ||z||^2, within 4 standard errors."""
    squares, _ = noisy_losses_and_gradients()
    added = squares.mean(dim=0) - (G - Z).square().sum(dim=1)
    expected = ALPHA * SIGMA**2 * Z.square().sum(dim=1)
    error = squares.std(dim=0) / DRAWS**0.5
    assert ((added - expected).abs() < 4 * error).all()


def test_the_expected_gradient_is_the_clean_one():
    """And its covariance is alpha sigma^2 diag(z^2), each within sampling error."""
    _, gradients = noisy_losses_and_gradients()
    error = gradients.std(dim=0) / DRAWS**0.5
    assert ((gradients.mean(dim=0) - (G - Z)).abs() <= 4 * error).all()
    covariance = torch.cov(gradients[:, 0].T)
    expected = torch.diag(ALPHA * SIGMA**2 * Z[0].square())
    assert torch.allclose(covariance, expected, atol=0.05)


@pytest.mark.parametrize(
    ("name", "per_layer", "printed"),
    [
        ("shallow1", [4_915_200, 45_875_200, 8_257_536, 2_097_152, 10_240], "5-46-8-2"),
        ("shallow2", [2_457_600, 6_553_600, 1_179_648, 1_048_576, 10_240], "2.5-6.5-1.2-1"),
        ("shallow3", [1_228_800, 3_276_800, 1_179_648, 1_048_576, 10_240], "1.25-3.25-1.2-1"),
    ],
)
def test_multiplications_of_the_compression_study(name, per_layer, printed):
    costs = layer_costs(network(layers(name), (3, 32, 32)), (3, 32, 32))
    counts = [cost.multiplications for cost in costs if cost.multiplications]
    assert counts == per_layer
    for count, millions in zip(counts, printed.split("-"), strict=False):
        assert count / 1e6 == pytest.approx(float(millions), abs=0.3)


def test_multiplications_of_the_teacher_and_compression_ratios():
    nin = multiplications(network(layers("nin"), (3, 32, 32)), (3, 32, 32))
    assert nin == 224_845_824
    ratios = {"shallow1": (3.66, 3.68), "shallow2": (19.91, 19.99), "shallow3": (33.28, 33.34)}
    for name, (printed, exact) in ratios.items():
        ratio = nin / multiplications(network(layers(name), (3, 32, 32)), (3, 32, 32))
        assert round(ratio, 2) == exact
        assert ratio == pytest.approx(printed, rel=0.01)


def test_nin_without_its_second_1x1_layer_has_the_printed_count():
    without = layers("nin").replace(
        "[C1(S1P0)@192]-[C1(S1P0)@192]-[C1(S1P0)@10]", "[C1(S1P0)@192]-[C1(S1P0)@10]"
    )
    count = multiplications(network(without, (3, 32, 32)), (3, 32, 32))
    assert count == 222_486_528
