"""Steps as a graph: the same students as without, and steps as they are where it is no use.

A CUDA graph needs a GPU (test_gpu.py); here a stand-in for it replays by calling.
"""

import itertools
import logging

import pytest
import torch
from stacks import distiller, random_logits, train, weights
from torch.optim import Adam

from noisy_kd.method import methods
from noisy_kd.training import compiled, graphs, stack
from noisy_kd.training.callbacks import resume
from noisy_kd.training.distiller import Distiller
from noisy_kd.training.graphs import Graphed
from noisy_kd.training.numerics import Numerics

DROPOUT = "FC20-D0.3-FC10"
CONVOLUTIONS = "[C3(S1P1)@8-MP2(S2)]-[C3(S1P1)@8]-[C1(S1P0)@16-AP2(S2)]-D0.2-FC20-FC10"


@pytest.fixture
def logits(digits):
    return random_logits(digits)


@pytest.fixture
def switch_on(monkeypatch):
    """Graphs on the CPU, made by this stand-in, whose launches take so long."""

    def switch(stand_in, seconds=1.0):
        monkeypatch.setattr(Numerics, "graphs", True)
        monkeypatch.setattr(graphs, "capture", stand_in)
        ticks = itertools.accumulate(itertools.cycle([0, 10.0, 0, seconds, 0, seconds]))
        monkeypatch.setattr(Graphed, "_clock", lambda self: next(ticks))

    return switch


def replays(calls):
    def capture(steps, generators, stream):
        def replay():
            calls.append(1)
            return steps()

        return replay

    return capture


def train_two(short, digits, logits, numerics, epochs=4):
    noisy = [methods.noisy_teacher(0.5, sigma) for sigma in (0.3, 0.9)]
    distillers = [distiller(numerics, method, seed=3, layers=DROPOUT) for method in noisy]
    stack, record, _ = train(short, digits, logits, numerics, distillers, epochs=epochs)
    return [weights(one.student) for one in distillers], record.losses, stack


def test_replayed_steps_are_the_steps(short, digits, logits, float32, switch_on):
    plain, losses, _ = train_two(short, digits, logits, float32)
    calls = []
    switch_on(replays(calls))
    replayed, same, stack = train_two(short, digits, logits, float32)
    assert all(isinstance(steps, Graphed) for steps in stack.steps)
    # Both nets, chunks of both lengths: two launches to compare, then epochs 3 and 4.
    assert len(calls) == 2 * 2 * (2 + 2)
    for a, b in zip(plain, replayed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)  # the rate is a float32 tensor
    torch.testing.assert_close(torch.tensor(same), torch.tensor(losses))


def fails(steps, generators, stream):
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def wrong(steps, generators, stream):
    def replay():
        generators[0].manual_seed(0)
        steps()
        return steps()

    return replay


@pytest.mark.parametrize(
    ("stand_in", "seconds", "reason"),
    [
        (fails, 1.0, "cannot be made (operation not permitted when stream is capturing)"),
        (wrong, 1.0, "gives other numbers"),
        (replays([]), 20.0, "is not faster"),
    ],
    ids=["no capture", "other numbers", "slower"],
)
def test_a_graph_that_is_no_use_changes_nothing(
    short, digits, logits, float32, switch_on, caplog, stand_in, seconds, reason
):
    plain, _, _ = train_two(short, digits, logits, float32)
    switch_on(stand_in, seconds)
    with caplog.at_level(logging.INFO, "noisy_kd"):
        replayed, _, stack = train_two(short, digits, logits, float32)
    assert not any(replay for steps in stack.steps for replay in steps.replays.values())
    assert reason in caplog.text
    for a, b in zip(plain, replayed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)  # the rate is a float32 tensor


@pytest.mark.parametrize("averaging", ["none", "swa", "ema"])
def test_averaged_weights_are_the_same(short, digits, logits, float32, switch_on, averaging):
    def average():
        one = distiller(float32, layers=DROPOUT, averaging=averaging)
        stack, _, best = train(short, digits, logits, float32, [one], epochs=4)
        return best.best[0].weights, stack.steps[0]

    plain, _ = average()
    switch_on(replays([]))
    replayed, steps = average()
    assert isinstance(steps, Graphed) == (averaging != "ema")
    for name, one in plain.items():
        torch.testing.assert_close(one, replayed[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("layers", [CONVOLUTIONS, DROPOUT])
def test_compiled_steps_learn_the_same(short, digits, logits, switch_on, monkeypatch, layers):
    """Without the compiler here: what is compiled is the arithmetic of the plain steps."""
    bf16 = Numerics(torch.device("cpu"), "bf16", fast=True)

    def learn():
        noisy = [methods.noisy_teacher(0.5, sigma) for sigma in (0.3, 0.9)]
        students = [distiller(bf16, method, layers=layers) for method in noisy]
        trained, record, _ = train(short, digits, logits, bf16, students, epochs=4)
        return torch.stack([weights(one.student) for one in trained.distillers]), record.losses

    plain, losses = learn()
    switch_on(replays([]))
    monkeypatch.setattr(stack, "WORTH_COMPILING", 0)
    used = []
    step = compiled.CompiledStudent.step
    monkeypatch.setattr(compiled.CompiledStudent, "step", lambda s: used.append(s) or step(s))
    with torch.compiler.set_stance("force_eager"):
        fast, same = learn()
    assert len(set(used)) == 2
    torch.testing.assert_close(torch.tensor(same), torch.tensor(losses), rtol=0.03, atol=0)
    start = torch.stack([weights(distiller(bf16, layers=layers).student)] * 2)
    assert (fast - plain).norm() < 0.1 * (plain - start).norm()


@pytest.mark.parametrize(
    ("layer", "settings"),
    [
        (torch.nn.Linear(64, 10), {}),
        (torch.nn.Linear(64, 10, bias=False), {}),
        (torch.nn.Linear(64, 10).requires_grad_(False), {}),
        (torch.nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), {}),
        (torch.nn.Conv2d(1, 4, 3, padding="same"), {}),
        (torch.nn.LeakyReLU(), {}),
        (torch.nn.Linear(64, 10), {"decoupled_weight_decay": True}),
        (torch.nn.Linear(64, 10), {"amsgrad": True}),
    ],
)
def test_only_the_papers_networks_with_plain_adam_are_compiled(layer, settings):
    net = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(10, 10))
    numerics = Numerics(torch.device("cpu"), "bf16", fast=True)
    student = Distiller(net, method=methods.noisy_teacher(0.5, 0.9))
    made = compiled.steps(lambda *_: {}, student, Adam(net.parameters(), **settings), numerics, {})
    is_usual = isinstance(layer, torch.nn.Linear) and layer.bias is not None and not settings
    assert (made is not None) == (is_usual and layer.weight.requires_grad)


def test_a_checkpoint_of_another_device_does_not_say_how_this_one_computes():
    weight = torch.nn.Parameter(torch.ones(2))
    there = torch.optim.Adam([weight], fused=True, capturable=True)
    there.param_groups[0]["lr"] = torch.tensor(1e-3)
    here = torch.optim.Adam([weight], fused=True)
    resume._load_optimizer(here, there.state_dict())
    (group,) = here.param_groups
    assert (group["lr"], group["capturable"], group["fused"]) == (1e-3, False, True)
