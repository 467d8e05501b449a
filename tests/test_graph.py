"""Steps as a graph: the same students as without, and steps as they are where it is no use.

A CUDA graph needs a GPU (test_gpu.py); here a stand-in for it replays by calling.
"""

import itertools
import logging

import pytest
import torch
from test_learner import learn, logits, member, weights  # noqa: F401 (a fixture)

from noisy_kd.callbacks import resume
from noisy_kd.method import family
from noisy_kd.training import graph
from noisy_kd.training.graph import Graphed
from noisy_kd.training.hardware import Numerics

DROPOUT = "FC20-D0.3-FC10"


@pytest.fixture
def graphs(monkeypatch):
    """Graphs on the CPU, made by this stand-in, whose launches take so long."""

    def switch_on(stand_in, seconds=1.0):
        monkeypatch.setattr(Numerics, "graphs", True)
        monkeypatch.setattr(graph, "capture", stand_in)
        ticks = itertools.accumulate(itertools.cycle([0, 10.0, 0, seconds, 0, seconds]))
        monkeypatch.setattr(Graphed, "_clock", lambda self: next(ticks))

    return switch_on


def replays(calls):
    def capture(steps, generators, stream):
        def replay():
            calls.append(1)
            return steps()

        return replay

    return capture


def train(short, digits, logits, numerics, epochs=4):  # noqa: F811
    methods = [family.noisy_teacher(0.5, sigma) for sigma in (0.3, 0.9)]
    members = [member(numerics, method, seed=3, layers=DROPOUT) for method in methods]
    learner, watch, _ = learn(short, digits, logits, numerics, members, epochs=epochs)
    return [weights(net) for net in learner.nets], watch.losses, learner


def test_replayed_steps_are_the_steps(short, digits, logits, float32, graphs):  # noqa: F811
    plain, losses, _ = train(short, digits, logits, float32)
    calls = []
    graphs(replays(calls))
    replayed, same, learner = train(short, digits, logits, float32)
    assert all(isinstance(steps, Graphed) for steps in learner.steps)
    assert len(calls) == 2 * (2 + 2)  # both nets: two launches to compare, then epochs 3 and 4
    for a, b in zip(plain, replayed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)  # the rate is a float32 tensor
    torch.testing.assert_close(torch.tensor(same), torch.tensor(losses))


def test_a_graph_that_is_no_use_changes_nothing(
    short,
    digits,
    logits,  # noqa: F811
    float32,
    graphs,
    caplog,
):
    plain, _, _ = train(short, digits, logits, float32)

    def fails(steps, generators, stream):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    def wrong(steps, generators, stream):
        def replay():
            generators[0].manual_seed(0)
            steps()
            return steps()

        return replay

    for stand_in, seconds, told in [
        (fails, 1.0, "cannot be made (operation not permitted when stream is capturing)"),
        (wrong, 1.0, "gives other numbers"),
        (replays([]), 20.0, "is not faster"),
    ]:
        graphs(stand_in, seconds)
        caplog.clear()
        with caplog.at_level(logging.INFO, "noisy_kd"):
            replayed, _, learner = train(short, digits, logits, float32)
        assert all(steps.replay is None for steps in learner.steps)
        assert told in caplog.text
        for a, b in zip(plain, replayed, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-6)  # the rate is a float32 tensor


@pytest.mark.parametrize("averaging", ["none", "swa", "ema"])
def test_averaged_weights_are_the_same(short, digits, logits, float32, graphs, averaging):  # noqa: F811
    def average():
        members = [member(float32, layers=DROPOUT, averaging=averaging)]
        learner, _, best = learn(short, digits, logits, float32, members, epochs=4)
        return best.best[0].weights, learner.steps[0]

    plain, _ = average()
    graphs(replays([]))
    replayed, steps = average()
    assert isinstance(steps, Graphed) == (averaging != "ema")
    for name, one in plain.items():
        torch.testing.assert_close(one, replayed[name], rtol=0, atol=2e-6)


def test_a_checkpoint_of_another_device_does_not_say_how_this_one_computes():
    weight = torch.nn.Parameter(torch.ones(2))
    there = torch.optim.Adam([weight], fused=True, capturable=True)
    there.param_groups[0]["lr"] = torch.tensor(1e-3)
    here = torch.optim.Adam([weight], fused=True)
    resume._load_optimizer(here, there.state_dict())
    (group,) = here.param_groups
    assert (group["lr"], group["capturable"], group["fused"]) == (1e-3, False, True)
