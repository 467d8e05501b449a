"""The training loop, and the peers' bugs by name."""

import contextlib
import copy
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback

from noisy_kd.callbacks import BestEpoch
from noisy_kd.method import family
from noisy_kd.model.network import build
from noisy_kd.training import assembly
from noisy_kd.training.hardware import Numerics
from noisy_kd.training.learner import SCHEDULES, Learner, Member, fit
from noisy_kd.training.teacher import frozen

EPOCHS = 3


@pytest.fixture
def logits(digits):
    g = torch.Generator().manual_seed(0)
    return torch.randn(len(digits.images), 10, generator=g) * 3


class Watch(Callback):
    def __init__(self):
        self.losses, self.modes, self.rates, self.seen = [], [], [], []

    def on_train_batch_start(self, trainer, learner, batch, batch_idx):
        self.modes.append([net.training for net in learner.nets])
        self.seen.append(next(iter(batch.values()))[2])

    def on_train_epoch_end(self, trainer, learner):
        self.losses.append([m.get("loss") for m in learner.metrics()])
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def learn(short, digits, logits, numerics, members, epochs=EPOCHS, callbacks=()):
    watch, best = Watch(), BestEpoch()
    table, held_out = digits.training_table(), digits.validation_table()
    learner = Learner(members, table, held_out, logits, 64, epochs, numerics)
    fit(learner, assembly.trainer(short(), epochs, [watch, best, *callbacks]))
    return learner, watch, best


def member(numerics, method=None, seed=1, layers="FC20-FC10", lr=1e-3, **kwargs):
    net = build(layers, (1, 8, 8), 10, seed)
    optimizer = assembly.optimizer("torch.optim.Adam", lr, 0.0, numerics)
    return Member(net, method or family.noisy_teacher(0.5, 0.9), seed, optimizer, **kwargs)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_a_step_is_algorithm_1(short, digits, logits, float32):
    """One epoch by hand, with the same draws, gives the same weights."""
    from noisy_kd.data import keyed_generator
    from noisy_kd.data.module import EpochOrder

    one = member(float32, schedule="constant")
    net = copy.deepcopy(one.net)
    learn(short, digits, logits, float32, [one], epochs=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    table, noise = digits.training_table(), keyed_generator(1, "noise", 0)
    for samples in EpochOrder(len(table), 64, seed=1):
        x, _, _ = table[samples]
        z = logits[table.rows[samples]]
        xi = torch.randn(len(z), 10, generator=noise)
        selected = torch.rand(len(z), 1, generator=noise) < 0.5
        target = torch.where(selected, (1 + 0.9 * xi) * z, z)
        loss = 0.5 * (net(x) - target).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(weights(one.net), weights(net), atol=1e-6)


def test_one_seed_fixes_everything(short, digits, logits, float32):
    """KD_Lib draws from two generators: there one manual_seed does not repeat a run."""
    layers = "FC20-D0.3-FC10"
    runs = [member(float32, layers=layers, seed=s) for s in (1, 1, 2)]
    for i, one in enumerate(runs):
        torch.manual_seed(i)  # the global generator does not matter
        learn(short, digits, logits, float32, [one])
    assert torch.equal(weights(runs[0].net), weights(runs[1].net))
    assert not torch.equal(weights(runs[0].net), weights(runs[2].net))


def test_nets_side_by_side_learn_what_they_learn_alone(short, digits, logits, float32):
    def members():
        noisy = [family.noisy_teacher(a, s) for a in (0.2, 0.5) for s in (0.3, 0.9)]
        layers = "FC20-D0.3-FC10"
        return [
            *(member(float32, method, layers=layers) for method in noisy),
            member(float32, noisy[0], seed=2, layers=layers),
            member(float32, family.logit_regression()),
        ]

    together, alone = members(), members()
    _, watch, best = learn(short, digits, logits, float32, together)
    for k, one in enumerate(alone):
        _, own, own_best = learn(short, digits, logits, float32, [one])
        assert [losses[k] for losses in watch.losses] == [loss for (loss,) in own.losses]
        assert torch.equal(weights(together[k].net), weights(one.net))
        assert best.best[k].errors == own_best.best[0].errors


def test_zero_noise_trains_like_logit_regression_bit_for_bit(short, digits, logits, float32):
    methods = [
        family.logit_regression(),
        family.noisy_teacher(0, 0.9),
        family.noisy_teacher(0.5, 0),
    ]
    members = [member(float32, method) for method in methods]
    learn(short, digits, logits, float32, members)
    clean, *silent = (weights(m.net) for m in members)
    for other in silent:
        assert torch.equal(clean, other)


def test_frozen_noise_is_one_wrong_target_for_each_sample(short, digits, logits, float32):
    one = member(float32, family.noisy_teacher(0.5, 0.9, resample="once"))
    learner, _, _ = learn(short, digits, logits, float32, [one])
    clean = logits[digits.train_rows]
    moved = (one.target != clean).any(dim=1).float().mean()
    assert 0.4 < moved < 0.6
    assert learner.metrics()[0]["perturbation"] == pytest.approx(
        float((one.target - clean).square().sum() / clean.square().sum()), rel=1e-4
    )


def test_the_perturbation_is_logged_in_its_expected_size(short, digits, logits, float32):
    learner, _, _ = learn(short, digits, logits, float32, [member(float32)])
    assert learner.metrics()[0]["perturbation"] == pytest.approx(0.5 * 0.9**2, rel=0.2)


def test_the_student_is_back_in_train_mode_after_each_validation(short, digits, logits, float32):
    """KD_Lib leaves it in eval mode: there dropout is off from the second epoch on."""
    _, watch, _ = learn(short, digits, logits, float32, [member(float32, layers="FC9-D0.5-FC10")])
    assert len(watch.modes) > EPOCHS
    assert all(mode == [True] for mode in watch.modes)


def test_the_teacher_never_moves_and_gets_no_gradient(short, digits, float32, store, tmp_path):
    """KD_Lib back-propagates through its teacher; torchdistill leaves it in train mode."""
    from noisy_kd.training.logits import cached_logits
    from noisy_kd.training.teacher import trained_teacher

    teacher = trained_teacher(short(), digits, float32, tmp_path)
    before = weights(teacher)
    logits = cached_logits(teacher, digits, store)["train"]
    learner, _, _ = learn(short, digits, logits, float32, [member(float32)])
    assert torch.equal(weights(teacher), before)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    learner.train()
    assert not teacher.training
    assert not any("teacher" in name for name in learner.state_dict())
    net = frozen(build("FC9-D0.5-FC10", (1, 8, 8)))
    assert not any(module.training for module in net.modules())


def test_the_loss_falls_and_the_student_agrees_with_its_teacher(short, digits, float32):
    labels = torch.nn.functional.one_hot(digits.images.labels, 10).float() * 10
    one = member(float32, family.noisy_teacher(0.5, 0.1), lr=5e-3)
    learner, watch, best = learn(short, digits, labels, float32, [one], epochs=10)
    losses = [loss for (loss,) in watch.losses]
    assert losses[-1] < 0.5 * losses[0]
    metrics = learner.metrics()[0]
    assert metrics["agreement"] == pytest.approx(1 - metrics["val_error"])
    assert metrics["val_error"] < 0.25
    assert best.best[0].errors <= metrics["val_errors"]


def test_supervised_learning_needs_no_teacher(short, digits, float32):
    one = member(float32, family.supervised(), lr=5e-3)
    learner, _, _ = learn(short, digits, None, float32, [one], epochs=10)
    assert learner.metrics()[0]["val_error"] < 0.1
    assert "agreement" not in learner.metrics()[0]


def test_a_diverging_net_does_not_harm_its_neighbours(short, digits, logits, float32):
    bad, good, alone = (member(float32, lr=lr) for lr in (1e30, 1e-3, 1e-3))
    learner, watch, _ = learn(short, digits, logits, float32, [bad, good])
    assert learner.diverged == [True, False]
    learn(short, digits, logits, float32, [alone])
    assert torch.equal(weights(good.net), weights(alone.net))
    assert len(watch.losses) == EPOCHS


def test_training_stops_when_every_net_has_diverged(short, digits, logits, float32):
    learner, watch, _ = learn(short, digits, logits, float32, [member(float32, lr=1e30)])
    assert learner.diverged == [True]
    assert len(watch.losses) == 1


def test_the_learning_rate_follows_its_schedule(short, digits, logits, float32):
    for name in SCHEDULES:
        _, watch, _ = learn(short, digits, logits, float32, [member(float32, schedule=name)])
        steps = EPOCHS * 20
        done = [(20 * (epoch + 1) - 1) / steps for epoch in range(EPOCHS)]
        assert watch.rates == pytest.approx([1e-3 * SCHEDULES[name](d) for d in done])
    assert [f(0.0) for f in SCHEDULES.values()] == [1, 1, 1, 1]
    assert [f(1.0) for f in SCHEDULES.values()] == pytest.approx([1, 0, 0, 0.01])
    assert [SCHEDULES["step"](d) for d in (0.49, 0.5, 0.75)] == pytest.approx([1, 0.1, 0.01])


def test_several_mini_batches_in_a_lightning_step_change_nothing(short, digits, logits, float32):
    plain = Numerics(torch.device("cpu"), "32", fast=False)
    fast, slow = member(float32), member(plain)
    _, few, _ = learn(short, digits, logits, float32, [fast])
    _, many, _ = learn(short, digits, logits, plain, [slow])
    assert (len(few.seen), len(many.seen)) == (2 * EPOCHS, 20 * EPOCHS)
    assert torch.equal(torch.cat(few.seen), torch.cat(many.seen))
    # Fused Adam differs from plain Adam by rounding.
    assert torch.allclose(weights(fast.net), weights(slow.net), atol=1e-4)


def test_bfloat16_gives_the_same_error_within_the_spread_of_seeds(short, digits, float32):
    labels = torch.nn.functional.one_hot(digits.images.labels, 10).float() * 10
    bf16 = Numerics(torch.device("cpu"), "bf16", fast=True)
    errors = []
    for numerics in (float32, bf16):
        layers = "[C3(S1P1)@8-MP2(S2)]-FC32-FC10"
        members = [member(numerics, seed=s, layers=layers, lr=3e-3) for s in range(5)]
        learner, _, _ = learn(short, digits, labels, numerics, members, epochs=8)
        errors.append(torch.tensor([m["val_error"] for m in learner.metrics()]))
        assert members[0].net[0].weight.dtype == torch.float32
    exact, rounded = errors
    assert abs(exact.mean() - rounded.mean()) <= exact.std()


def test_an_interrupt_that_is_swallowed_ends_the_training_all_the_same(
    short, digits, logits, float32
):
    class Deaf(Callback):
        def on_train_epoch_start(self, trainer, learner):
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)  # the signal is handled here

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        learn(short, digits, logits, float32, [member(float32)], epochs=1, callbacks=[Deaf()])
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("samples", "made"), [(67, [32]), (68, [32, 2]), (64, [32]), (65, [32])])
def test_devices_skip_together_what_is_too_small_to_normalise(samples, made, monkeypatch):
    """Of 67 samples the last mini-batch gives one device two and the other one: neither steps."""
    for rank in (0, 1):
        learner = Learner.__new__(Learner)
        torch.nn.Module.__init__(learner)
        learner.batch_size, learner.needs_two = 64, [True]
        monkeypatch.setattr(Learner, "trainer", SimpleNamespace(global_rank=rank, world_size=2))
        monkeypatch.setattr(Learner, "_set_rate", lambda *_: None)
        seen = []
        monkeypatch.setattr(
            Learner, "_step", lambda _, k, x, y, ids, s=seen: s.append(len(y)) or {}
        )
        x = torch.zeros(samples)
        learner._steps(0, x, x, x, torch.zeros(2))
        assert seen == made
