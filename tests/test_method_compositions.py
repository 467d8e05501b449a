import pytest
import torch
from torch.nn.functional import cross_entropy

from noisy_kd.method import LogitNoise, Method, logit_regression, methods
from noisy_kd.method.method import COMBINATIONS
from noisy_kd.method.methods import logit_regression as regression_method
from noisy_kd.method.methods import noisy_teacher, supervised
from noisy_kd.method.noise import RandomShift

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


def test_noise_on_the_students_logits_is_a_penalty_on_their_size():
    """E||(1 + s xi) g - z||^2 = ||g - z||^2 + alpha sigma^2 ||g||^2."""
    method, draws = methods.noisy_student(0.5, 0.9), generator()
    losses = [method.loss(method.step_output(G, draws), Z, LABELS) for _ in range(3000)]
    clean = logit_regression(G, Z)
    penalty = 0.5 * 0.9**2 * G.square().sum(dim=1).mean() / 2
    mean = torch.stack(losses).mean()
    error = torch.stack(losses).std() / len(losses) ** 0.5
    assert abs(mean - clean - penalty) < 4 * error
    assert torch.equal(method.step_target(Z, draws), Z)


def test_the_gradient_of_a_noisy_student_passes_through_the_noise():
    method = methods.noisy_student(1.0, 0.9)
    g = G.clone().requires_grad_()
    noisy = method.step_output(g, generator())
    noisy.sum().backward()
    assert torch.allclose(g.grad, noisy.detach() / G, atol=1e-5)


def test_random_sigma_draws_one_sigma_for_a_mini_batch():
    method, draws = methods.random_sigma(1.0, 0.01, 1.0), generator()
    z = torch.ones(400, 10)
    sigmas = torch.stack([method.step_target(z, draws).std() for _ in range(400)])
    uniform = torch.linspace(0.01, 1.0, 400)
    assert (sigmas.sort().values - uniform).abs().max() < 0.12  # Kolmogorov's bound at 1e-5
    assert methods.random_sigma(0.0).is_logit_regression
    assert methods.random_sigma(0.5, 0.0, 0.0).is_logit_regression
    narrow = methods.random_sigma(0.5, 0.9, 0.9).step_target(z, generator())
    assert 0.4 < (narrow != z).any(dim=1).float().mean() < 0.6


def test_two_teachers_on_negative_logits():
    one, other = torch.tensor([[-4.0, 2.0, 9.0]]), torch.tensor([[-1.0, -8.0, 1.0]])
    both = torch.stack([one, other], dim=1)
    mean = methods.two_teachers(["a", "b"]).fixed_target(both, generator())
    assert torch.allclose(mean, torch.tensor([[-2.5, -3.0, 5.0]]))
    assert torch.allclose(mean.exp(), (one.exp() * other.exp()).sqrt())  # of e^z, geometric
    signed = methods.two_teachers(["a", "b"], "signed_geometric_mean").fixed_target(both, None)
    assert torch.allclose(signed, torch.tensor([[-2.0, -4.0, 3.0]]))


def test_one_teacher_alone_is_logit_regression():
    for combination in COMBINATIONS:
        method = methods.two_teachers(["a"], combination)
        assert method.is_logit_regression
        assert torch.equal(method.fixed_target(Z.unsqueeze(1), generator()), Z)
    assert not methods.two_teachers(["a", "b"]).is_logit_regression


def test_a_random_teacher_is_drawn_for_each_sample():
    z = torch.stack([torch.zeros(4000, 3), torch.ones(4000, 3), torch.full((4000, 3), 2.0)], dim=1)
    method, draws = methods.two_teachers(["a", "b", "c"], "random_teacher"), generator()
    fixed = method.fixed_target(z, draws)
    first, second = method.step_target(fixed, draws), method.step_target(fixed, draws)
    assert (first == first[:, :1]).all()
    assert torch.bincount(first[:, 0].long()).min() > 1200
    assert 0.25 < (first[:, 0] == second[:, 0]).float().mean() < 0.42
    assert torch.equal(method.clean_target(z), torch.ones(4000, 3))


def test_hinton_is_cross_entropy_and_softened_divergence():
    soft, hard = torch.softmax(Z / 3, dim=1), torch.log_softmax(G / 3, dim=1)
    divergence = (soft * (soft.log() - hard)).sum(dim=1).mean()
    expected = 0.4 * cross_entropy(G, LABELS) + 0.6 * 9 * divergence
    assert torch.isclose(methods.hinton(3.0, 0.6).loss(G, Z, LABELS), expected)
    labels_alone = methods.hinton(3.0, 0.0).loss(G, Z, LABELS)
    assert torch.isclose(labels_alone, supervised().loss(G, None, LABELS))
    assert methods.hinton(3.0, 1.0).loss(Z, Z, LABELS).abs() < 1e-6


@pytest.mark.parametrize(
    "make",
    [
        lambda: methods.hinton(0.0),
        lambda: methods.hinton(1.0, 1.5),
        lambda: methods.two_teachers([]),
        lambda: methods.two_teachers(["a"], "mean"),
        lambda: methods.random_sigma(0.5, 0.9, 0.1),
        lambda: methods.random_sigma(1.5),
        lambda: methods.noisy_student(0.5, -1),
    ],
)
def test_values_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="="):
        make()


KD = methods.hinton(4.0, 0.9)


@pytest.mark.parametrize(
    "zero",
    [
        methods.soft_randomization(0.0),
        methods.messy_collaboration(0.0),
        methods.fickle_teacher(0.0),
        methods.fitnets(hint_epochs=0),
    ],
    ids=["soft randomization", "messy collaboration", "fickle teacher", "fitnets"],
)
def test_without_noise_they_are_hintons_distillation(zero):
    x = torch.rand(64, 1, 4, 4)
    assert torch.equal(zero.step_input(x, generator()), x)
    assert torch.equal(zero.step_labels(LABELS, 10, generator()), LABELS)
    target = zero.step_target(zero.fixed_target(Z.unsqueeze(1), generator()), generator())
    assert torch.equal(target, Z)
    assert zero.loss(G, target, LABELS) == KD.loss(G, Z, LABELS)
    assert zero.hint is None
    assert zero.teacher_dropout is None
    assert zero.teacher_labels is None


def test_additive_noise_does_not_grow_with_the_logits():
    z = torch.tensor([0.0, 1.0, 10.0]).expand(20000, 3)
    moved = methods.logit_noise_additive(1.0, 0.7).step_target(z, generator()) - z
    assert torch.allclose(moved.std(dim=0), torch.full((3,), 0.7), rtol=0.03)
    assert moved.mean(dim=0).abs().max() < 0.02
    half = methods.logit_noise_additive(0.5, 0.7).step_target(z, generator())
    assert abs((half != z).any(dim=1).float().mean() - 0.5) < 0.02
    for silent in (methods.logit_noise_additive(0.0, 0.7), methods.logit_noise_additive(0.5, 0.0)):
        assert silent.is_logit_regression
        assert torch.equal(silent.step_target(z, generator()), z)


def test_soft_randomization_moves_the_students_image_alone():
    method, x = methods.soft_randomization(0.3), torch.rand(64, 1, 28, 28)
    moved = method.step_input(x, generator()) - x
    assert float(moved.std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(moved.mean())) < 0.01
    assert torch.equal(method.step_target(Z, generator()), Z)


def test_images_are_moved_in_both_directions_each_move_as_likely():
    x = torch.arange(1.0, 1 + 3 * 6 * 7).view(1, 3, 6, 7).expand(5000, -1, -1, -1)
    shift = RandomShift(1)
    moved = shift(x, generator())
    assert moved.shape == x.shape
    padded = torch.nn.functional.pad(x[0], [1, 1, 1, 1])
    counts = []
    for row in range(3):
        for column in range(3):
            part = padded[:, row : row + 6, column : column + 7]
            counts.append(int((moved == part).all(dim=(1, 2, 3)).sum()))
    assert sum(counts) == 5000, "each is one of the nine moves, what moves in is 0"
    expected = 5000 / 9
    assert sum((count - expected) ** 2 / expected for count in counts) < 26.1  # chi2, p = 0.001
    assert torch.equal(shift(x, generator()), moved)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moved_images_keep_their_memory_layout(layout):
    x = torch.rand(5, 3, 6, 7).contiguous(memory_format=layout)
    assert RandomShift(2)(x, generator()).stride() == x.stride()
    grey = torch.rand(5, 1, 6, 7)
    assert RandomShift(2)(grey, generator()).stride() == grey.stride()


def test_messy_collaboration_draws_labels_anew_each_time():
    labels = torch.zeros(40000).long()
    method, draws = methods.messy_collaboration(0.4, "student"), generator()
    first, second = (method.step_labels(labels, 10, draws) for _ in range(2))
    assert abs((first != 0).float().mean() - 0.4 * 0.9) < 0.012  # a tenth come out as they were
    drawn = torch.bincount(first[first != 0], minlength=10)[1:].float()
    assert (drawn / drawn.mean() - 1).abs().max() < 0.1
    both = ((first != 0) & (second != 0)).float().mean()
    assert abs(both - (0.4 * 0.9) ** 2) < 0.012
    assert method.teacher_labels is None
    assert methods.messy_collaboration(0.4, "teacher").labels is None
    assert methods.messy_collaboration(0.4).teacher_labels.rate == 0.4


def test_passes_are_drawn_from_for_each_sample_and_the_clean_one_judges():
    z = torch.stack([torch.zeros(3000, 2), torch.ones(3000, 2), torch.full((3000, 2), 2.0)], dim=1)
    method, draws = methods.fickle_teacher(0.3, passes=2), generator()
    fixed = method.fixed_target(z, draws)
    drawn = method.step_target(fixed, draws)[:, 0]
    assert set(drawn.tolist()) == {1.0, 2.0}
    assert abs((drawn == 1).float().mean() - 0.5) < 0.05
    assert torch.equal(method.clean_target(z), z[:, 0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: methods.fickle_teacher(1.0),
        lambda: methods.fickle_teacher(0.3, passes=-1),
        lambda: methods.soft_randomization(-0.1),
        lambda: methods.messy_collaboration(1.1),
        lambda: methods.messy_collaboration(0.1, "nowhere"),
        lambda: methods.fitnets(hint_epochs=-1),
        lambda: methods.logit_noise_additive(0.5, -1),
    ],
)
def test_values_of_the_other_papers_methods_are_checked(make):
    with pytest.raises(ValueError, match="="):
        make()


def test_every_method_has_a_file_and_a_docstring_with_its_source():
    from noisy_kd.config import CONF

    for file in (CONF / "method").glob("*.yaml"):
        make = getattr(methods, file.stem)
        assert any(
            source in make.__doc__ for source in ("[NT]", "[NR]", "et al.", "z' =", "labels")
        )
