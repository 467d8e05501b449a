import torch

from noisy_kd.method import LogitNoise, Method, cross_entropy, logit_regression
from noisy_kd.method.family import logit_regression as regression_method
from noisy_kd.method.family import noisy_teacher, supervised

Z = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
G = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(64) % 10


def generator():
    return torch.Generator().manual_seed(2)


def test_noisy_teacher_regresses_on_perturbed_logits():
    method = noisy_teacher(0.5, 0.9)
    target = method.step_target(Z, generator())
    assert torch.equal(target, LogitNoise(0.5, 0.9)(Z, generator()))
    assert method.loss(G, target, LABELS) == logit_regression(G, target)
    assert torch.equal(method.fixed_target(Z, generator()), Z)


def test_frozen_noise_is_drawn_once():
    method = noisy_teacher(0.5, 0.9, resample="once")
    frozen = method.fixed_target(Z, generator())
    assert not torch.equal(frozen, Z)
    assert torch.equal(method.step_target(frozen, generator()), frozen)


def test_zero_noise_is_the_clean_parent():
    for method in (regression_method(), noisy_teacher(0.0, 0.9), noisy_teacher(0.5, 0.0)):
        assert method.is_logit_regression
        assert torch.equal(method.step_target(Z, generator()), Z)
    assert not noisy_teacher(0.5, 0.9).is_logit_regression
    assert not supervised().is_logit_regression


def test_supervised_has_no_teacher():
    method = supervised()
    assert not method.has_teacher
    assert method.loss(G, None, LABELS) == cross_entropy(G, LABELS)


def test_a_method_of_ones_own_is_a_composition():
    method = Method(loss=lambda g, z, y: (g - z).abs().mean(), target=LogitNoise(0.5, 0.9))
    assert not method.is_logit_regression
    assert method.loss(G, Z, LABELS) > 0
