"""Attacks against a linear model, where the worst perturbation is known in closed form."""

import pytest
import torch
from torch import nn

from noisy_kd.evaluation.attacks import fgsm, pgd

EPSILON = 0.05


@pytest.fixture
def linear():
    """Two classes; the margin w x + b falls fastest along -sign(w)."""
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(2, 16, generator=g))
    x = 0.3 + 0.4 * torch.rand(200, 1, 4, 4, generator=g)  # no pixel meets 0 or 1
    return net.requires_grad_(False), x, torch.randint(2, (200,), generator=g)


def margin(net, x, labels):
    logits = net(x)
    return logits.gather(1, labels[:, None]) - logits.gather(1, 1 - labels[:, None])


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_the_worst_perturbation_of_a_linear_model_is_found(attack, linear):
    net, x, labels = linear
    worst = EPSILON * (net[1].weight[0] - net[1].weight[1]).abs().sum()
    lost = margin(net, x, labels) - margin(net, attack(net, x, labels, EPSILON), labels)
    assert torch.allclose(lost, worst.expand_as(lost), atol=1e-4)


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_the_attack_stays_in_the_ball_and_among_images(attack, linear):
    net, _, labels = linear
    x = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    adversarial = attack(net, x, labels, 0.3)
    assert (adversarial - x).abs().max() <= 0.3 + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert not adversarial.requires_grad
    assert torch.equal(attack(net, x, labels, 0.0), x)


def test_starts_are_random_and_decided_by_the_generator(linear):
    net, x, labels = linear

    def start(seed):
        return pgd(net, x, labels, 0.1, steps=0, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    shift = (start(1) - x) / 0.1
    assert abs(float(shift.mean())) < 0.05
    assert float(shift.std()) == pytest.approx(3**-0.5, rel=0.05)  # uniform in the ball


def test_pgd_is_no_weaker_than_fgsm_on_a_curved_model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 3))
    x, labels = torch.rand(300, 1, 4, 4), torch.randint(3, (300,))

    def loss(adversarial):
        return nn.functional.cross_entropy(net(adversarial), labels)

    assert loss(x) < loss(fgsm(net, x, labels, 0.2)) < loss(pgd(net, x, labels, 0.2))


def test_the_same_as_foolbox():
    """A well-kept library finds the same FGSM images, and PGD ones that are no worse."""
    foolbox = pytest.importorskip("foolbox")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    x, labels = torch.rand(100, 1, 4, 4), torch.randint(3, (100,))
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    theirs, _, _ = foolbox.attacks.LinfFastGradientAttack(random_start=False)(
        model, x, labels, epsilons=0.1
    )
    assert torch.allclose(fgsm(net, x, labels, 0.1), theirs, atol=1e-6)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.1 * 2.5 / 20, steps=20)
    theirs, _, _ = attack(model, x, labels, epsilons=0.1)

    def loss(adversarial):
        return nn.functional.cross_entropy(net(adversarial), labels).item()

    assert loss(pgd(net, x, labels, 0.1)) == pytest.approx(loss(theirs), rel=0.01)
