"""Students side by side: each learns what it learns alone. The peers' bugs by name."""

import contextlib
import copy
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback
from stacks import EPOCHS, distiller, random_logits, train, weights

from noisy_kd.data.dataset import EpochOrder, keyed_generator
from noisy_kd.method import methods
from noisy_kd.model.network import network
from noisy_kd.training.distiller import SCHEDULES
from noisy_kd.training.fit import TrainingSamples
from noisy_kd.training.logits import cached_logits
from noisy_kd.training.numerics import Numerics
from noisy_kd.training.stack import StudentStack
from noisy_kd.training.teacher import TeacherTraining, frozen


@pytest.fixture
def logits(digits):
    return random_logits(digits)


def test_a_step_is_algorithm_1(short, digits, logits, float32):
    """One epoch by hand, with the same draws, gives the same weights."""
    one = distiller(float32, schedule="constant")
    net = copy.deepcopy(one.student)
    train(short, digits, logits, float32, [one], epochs=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    dataset, noise = digits.training_set(), keyed_generator(1, "noise", 0)
    for samples in EpochOrder(len(dataset), 64, seed=1):
        x, _ = dataset[samples]
        z = logits[dataset.rows[samples]]
        xi = torch.randn(len(z), 10, generator=noise)
        selected = torch.rand(len(z), 1, generator=noise) < 0.5
        target = torch.where(selected, (1 + 0.9 * xi) * z, z)
        loss = 0.5 * (net(x) - target).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(weights(one.student), weights(net), atol=1e-6)


def test_one_seed_fixes_everything(short, digits, logits, float32):
    """KD_Lib draws from two generators: there one manual_seed does not repeat a run."""
    layers = "FC20-D0.3-FC10"
    students = [distiller(float32, layers=layers, seed=s) for s in (1, 1, 2)]
    for i, one in enumerate(students):
        torch.manual_seed(i)  # the global generator does not matter
        train(short, digits, logits, float32, [one])
    assert torch.equal(weights(students[0].student), weights(students[1].student))
    assert not torch.equal(weights(students[0].student), weights(students[2].student))


def test_students_side_by_side_learn_what_they_learn_alone(short, digits, logits, float32):
    def distillers():
        noisy = [methods.noisy_teacher(a, s) for a in (0.2, 0.5) for s in (0.3, 0.9)]
        layers = "FC20-D0.3-FC10"
        return [
            *(distiller(float32, method, layers=layers) for method in noisy),
            distiller(float32, noisy[0], seed=2, layers=layers),
            distiller(float32, methods.logit_regression()),
        ]

    together, alone = distillers(), distillers()
    _, record, best = train(short, digits, logits, float32, together)
    for k, one in enumerate(alone):
        _, own, own_best = train(short, digits, logits, float32, [one])
        assert [losses[k] for losses in record.losses] == [loss for (loss,) in own.losses]
        assert torch.equal(weights(together[k].student), weights(one.student))
        assert best.best[k].errors == own_best.best[0].errors


def test_zero_noise_trains_like_logit_regression_bit_for_bit(short, digits, logits, float32):
    compared = [
        methods.logit_regression(),
        methods.noisy_teacher(0, 0.9),
        methods.noisy_teacher(0.5, 0),
    ]
    distillers = [distiller(float32, method) for method in compared]
    train(short, digits, logits, float32, distillers)
    clean, *without_noise = (weights(one.student) for one in distillers)
    for other in without_noise:
        assert torch.equal(clean, other)


def test_noise_drawn_once_is_one_wrong_target_for_each_sample(short, digits, logits, float32):
    one = distiller(float32, methods.noisy_teacher(0.5, 0.9, resample="once"))
    stack, _, _ = train(short, digits, logits, float32, [one])
    (target,) = stack.targets
    clean = logits[digits.train_rows]
    moved = (target != clean).any(dim=1).float().mean()
    assert 0.4 < moved < 0.6
    assert stack.metrics()[0]["perturbation"] == pytest.approx(
        float((target - clean).square().sum() / clean.square().sum()), rel=1e-4
    )


def test_the_perturbation_is_logged_in_its_expected_size(short, digits, logits, float32):
    stack, _, _ = train(short, digits, logits, float32, [distiller(float32)])
    assert stack.metrics()[0]["perturbation"] == pytest.approx(0.5 * 0.9**2, rel=0.2)


def test_the_student_is_back_in_train_mode_after_each_validation(short, digits, logits, float32):
    """KD_Lib leaves it in eval mode: there dropout is off from the second epoch on."""
    one = distiller(float32, layers="FC9-D0.5-FC10")
    _, record, _ = train(short, digits, logits, float32, [one])
    assert len(record.modes) > EPOCHS
    assert all(mode == [True] for mode in record.modes)


def test_the_teacher_never_moves_and_gets_no_gradient(short, digits, float32, store, tmp_path):
    """KD_Lib back-propagates through its teacher; torchdistill leaves it in train mode."""
    config = short()
    untrained = network(config.teacher.layers, digits.input_shape, 10)
    teacher = TeacherTraining(config, untrained, "teacher", digits, float32, None).trained(tmp_path)
    before = weights(teacher)
    logits = cached_logits(teacher, digits, store)["train"]
    stack, _, _ = train(short, digits, logits, float32, [distiller(float32)])
    assert torch.equal(weights(teacher), before)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    stack.train()
    assert not teacher.training
    assert not any("teacher" in name for name in stack.state_dict())


def test_a_frozen_net_is_in_eval_mode_throughout():
    net = frozen(network("FC9-D0.5-FC10", (1, 8, 8)))
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_the_loss_falls_and_the_student_agrees_with_its_teacher(short, digits, float32):
    labels = torch.nn.functional.one_hot(digits.images.labels, 10).float() * 10
    one = distiller(float32, methods.noisy_teacher(0.5, 0.1), lr=5e-3)
    stack, record, best = train(short, digits, labels, float32, [one], epochs=10)
    losses = [loss for (loss,) in record.losses]
    assert losses[-1] < 0.5 * losses[0]
    metrics = stack.metrics()[0]
    assert metrics["agreement"] == pytest.approx(1 - metrics["val_error"])
    assert metrics["val_error"] < 0.25
    assert best.best[0].errors <= metrics["val_errors"]


def test_supervised_learning_needs_no_teacher(short, digits, float32):
    one = distiller(float32, methods.supervised(), lr=5e-3)
    stack, _, _ = train(short, digits, None, float32, [one], epochs=10)
    assert stack.metrics()[0]["val_error"] < 0.1
    assert "agreement" not in stack.metrics()[0]


def test_a_diverging_student_does_not_harm_its_neighbours(short, digits, logits, float32):
    bad, good, alone = (distiller(float32, lr=lr) for lr in (1e30, 1e-3, 1e-3))
    stack, record, _ = train(short, digits, logits, float32, [bad, good])
    assert stack.diverged == [True, False]
    train(short, digits, logits, float32, [alone])
    assert torch.equal(weights(good.student), weights(alone.student))
    assert len(record.losses) == EPOCHS


def test_training_stops_when_every_student_has_diverged(short, digits, logits, float32):
    stack, record, _ = train(short, digits, logits, float32, [distiller(float32, lr=1e30)])
    assert stack.diverged == [True]
    assert len(record.losses) == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_learning_rate_follows_its_schedule(short, digits, logits, float32, name):
    _, record, _ = train(short, digits, logits, float32, [distiller(float32, schedule=name)])
    steps = EPOCHS * 20
    done = [(20 * (epoch + 1) - 1) / steps for epoch in range(EPOCHS)]
    assert record.rates == pytest.approx([1e-3 * SCHEDULES[name](d) for d in done])


def test_schedules_begin_and_end_where_they_should():
    assert [f(0.0) for f in SCHEDULES.values()] == [1, 1, 1, 1, 0]
    assert [f(1.0) for f in SCHEDULES.values()] == pytest.approx([1, 0, 0, 0.01, 0])
    assert [SCHEDULES["onecycle"](d) for d in (0.1, 0.2, 0.6)] == pytest.approx([0.5, 1, 0.5])
    assert [SCHEDULES["step"](d) for d in (0.49, 0.5, 0.75)] == pytest.approx([1, 0.1, 0.01])


def test_several_mini_batches_in_a_lightning_step_change_nothing(short, digits, logits, float32):
    plain = Numerics(torch.device("cpu"), "32", fast=False)
    fast, slow = distiller(float32), distiller(plain)
    _, few, _ = train(short, digits, logits, float32, [fast])
    _, many, _ = train(short, digits, logits, plain, [slow])
    assert (len(few.ids), len(many.ids)) == (2 * EPOCHS, 20 * EPOCHS)
    assert torch.equal(torch.cat(few.ids), torch.cat(many.ids))
    # Fused Adam differs from plain Adam by rounding.
    assert torch.allclose(weights(fast.student), weights(slow.student), atol=1e-4)


def test_bfloat16_gives_the_same_error_within_the_spread_of_seeds(short, digits, float32):
    labels = torch.nn.functional.one_hot(digits.images.labels, 10).float() * 10
    bf16 = Numerics(torch.device("cpu"), "bf16", fast=True)
    errors = []
    for numerics in (float32, bf16):
        layers = "[C3(S1P1)@8-MP2(S2)]-FC32-FC10"
        seeds = [distiller(numerics, seed=s, layers=layers, lr=3e-3) for s in range(5)]
        stack, _, _ = train(short, digits, labels, numerics, seeds, epochs=8)
        errors.append(torch.tensor([m["val_error"] for m in stack.metrics()]))
        assert seeds[0].student[0].weight.dtype == torch.float32
    exact, rounded = errors
    assert abs(exact.mean() - rounded.mean()) <= exact.std()


def test_a_swallowed_interrupt_still_ends_the_training(short, digits, logits, float32):
    class Swallow(Callback):
        def on_train_epoch_start(self, trainer, stack):
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)  # the signal is handled here

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(short, digits, logits, float32, [distiller(float32)], 1, callbacks=[Swallow()])
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("samples", "sizes"), [(67, [32]), (68, [32, 2]), (64, [32]), (65, [32])])
def test_devices_skip_together_what_is_too_small_to_normalise(
    digits, float32, samples, sizes, monkeypatch
):
    """Of 67 samples the last mini-batch gives one device two and the other one: neither steps."""
    one = distiller(float32)
    one.student.append(torch.nn.BatchNorm1d(10))
    for rank in (0, 1):
        stack = StudentStack([one], TrainingSamples(digits.training_set(), 64), float32)
        two_devices = SimpleNamespace(global_rank=rank, world_size=2)
        monkeypatch.setattr(StudentStack, "trainer", two_devices)
        seen = []
        monkeypatch.setattr(
            StudentStack, "_step", lambda _, k, x, y, *more, s=seen: s.append(len(y)) or {}
        )
        x = torch.zeros(samples)
        stack._steps(0, x, x, x, torch.zeros(2))
        assert seen == sizes
