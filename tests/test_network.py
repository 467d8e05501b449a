"""Networks in the paper's notation."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import composed
from torch import nn

from noisy_kd.config import named_networks
from noisy_kd.errors import InputError
from noisy_kd.model import complexity
from noisy_kd.model.layers import Dropout, set_dropout_generator
from noisy_kd.model.network import label, network, notation_of, upto, with_active_dropout
from noisy_kd.training import build

COLOUR = (3, 32, 32)


def shape_for(name):
    return {"lenet": (1, 28, 28), "fc800": (1, 28, 28)}.get(
        name, (1, 8, 8) if name.startswith("digits") else COLOUR
    )


@pytest.mark.parametrize("text", sorted(named_networks()))
def test_every_network_builds_runs_and_prints_itself_back(text):
    shape = shape_for(named_networks()[text])
    net = network(text, shape, classes=10)
    assert notation_of(net) == text
    assert net(torch.zeros(2, *shape)).shape == (2, 10)


def test_a_relu_follows_every_layer_but_the_last():
    kinds = [type(m).__name__ for m in network("[C3(S1P1)@4-MP2(S2)]-FC8-FC10", (1, 8, 8))]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]


def test_pools_round_up_so_that_nin_ends_at_8x8():
    nin = next(text for text, name in named_networks().items() if name == "nin")
    costs = complexity.layer_costs(network(nin, COLOUR), COLOUR)
    sizes = {c.label: c.output_shape for c in costs}
    assert sizes["MP3(S2)"] == (96, 16, 16)
    assert sizes["AP3(S2)"] == (192, 8, 8)
    assert sizes["AP8(S1)"] == (10, 1, 1)


def test_the_seed_decides_the_weights():
    one, same, other = (network("FC50-FC10", (1, 8, 8), seed=s)[1].weight for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_initial_weights_are_he_normal_and_do_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    net = network("FC1000-FC10", (1, 20, 20))
    assert torch.equal(torch.rand(1), expected)
    assert net[1].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.01)
    assert (net[1].bias == 0).all()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("FC8-FC9", "9 logits .* 10 classes"),
        ("[C3(S1P1)@10]", "640 logits"),
        ("FC8-[C3(S1P1)@4]-FC10", "after a fully connected layer"),
        ("[C9(S1P0)@4]-FC10", r"layer 1 \(C9\(S1P0\)@4\) .* only 8x8"),
        ("[C3(S1P1)@4]-AP9(S1)-FC10", r"layer 2 \(AP9\(S1\)\)"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(text, what):
    with pytest.raises(InputError, match=what):
        network(text, (1, 8, 8), classes=10)


def test_modules_without_a_word_are_named_or_refused():
    assert label(nn.Tanh()) == "Tanh"
    assert label(nn.ReLU()) == "ReLU"
    assert label(nn.Conv2d(1, 1, 3, padding="same")) == "Conv2d"
    with pytest.raises(ValueError, match="no word"):
        notation_of(nn.Sequential(nn.Tanh()))


def test_sizes():
    net = network("FC8-FC10", (1, 8, 8))
    assert complexity.parameters(net) == 64 * 8 + 8 + 80 + 10
    assert complexity.size_in_bytes(net) == 4 * complexity.parameters(net)
    assert complexity.multiplications(net, (1, 8, 8)) == 64 * 8 + 80


def test_dropout_drops_with_probability_p_and_keeps_the_mean():
    layer = Dropout(0.3)
    layer.generator = torch.Generator().manual_seed(0)
    out = layer(torch.ones(100_000))
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.006)
    assert out.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(layer.eval()(torch.ones(3)), torch.ones(3))


def test_dropout_draws_from_its_own_generator():
    net = network("FC50-D0.5-FC10", (1, 8, 8))
    x = torch.ones(4, 1, 8, 8)
    outputs = []
    for _ in range(2):
        set_dropout_generator(net, torch.Generator().manual_seed(7))
        outputs.append(net(x))
        torch.rand(3)
    assert torch.equal(*outputs)


def test_a_part_of_a_net_ends_after_a_named_layer():
    net = network("[C3(S1P1)@4-MP2(S2)]-[C3(S1P1)@6]-FC9-FC10", (1, 8, 8))
    x = torch.rand(2, 1, 8, 8)
    assert upto(net, "C1")(x).shape == (2, 4, 8, 8)
    assert upto(net, "C2")(x).shape == (2, 6, 4, 4)
    assert upto(net, "FC1")(x).shape == (2, 9)
    assert torch.equal(upto(net, None)(x), upto(net, "C2")(x))
    assert (upto(net, "C2")(x) >= 0).all()
    assert next(upto(net, "C1").parameters()) is next(net.parameters())
    for wrong in ("FC2", "C3", "FC", "fc1"):
        with pytest.raises(InputError, match="C1, C2, FC1"):
            upto(net, wrong)


def test_active_dropout_is_the_only_difference_of_a_fickle_teacher():
    net = network("FC50-FC50-FC10", (1, 8, 8)).eval()
    fickle, x = with_active_dropout(net, 0.5), torch.rand(4, 1, 8, 8)
    assert [module.training for module in fickle if isinstance(module, Dropout)] == [True]
    assert not torch.equal(fickle(x), fickle(x))
    assert torch.equal(net(x), net(x))
    draws = torch.stack([fickle(x) for _ in range(4000)])
    assert torch.allclose(
        draws.mean(dim=0), net(x), atol=5 * float(draws.detach().std()) / 4000**0.5
    )
    assert torch.equal(with_active_dropout(net, 0.0)(x), net(x))
    own = network("FC50-D0.3-FC50-D0.3-FC10", (1, 8, 8)).eval()
    assert [m.p for m in with_active_dropout(own, 0.1) if isinstance(m, Dropout)] == [0.1, 0.1]


@pytest.mark.parametrize(
    ("how", "variance", "edge", "has_biases"),
    [
        ("he", 2 / 800, math.inf, False),
        ("xavier", 2 / (800 + 400), (6 / 1200) ** 0.5, False),
        ("torch", 1 / (3 * 800), 800**-0.5, True),
    ],
)
def test_initial_weights_have_the_variance_of_their_paper(how, variance, edge, has_biases):
    config = composed("data=mnist", "student.layers=FC800-FC400-FC10", f"student.init={how}")
    data = SimpleNamespace(classes=range(10), input_shape=(1, 28, 28))
    layer = [m for m in build.student(config, data) if isinstance(m, torch.nn.Linear)][1]
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.02)
    assert layer.weight.abs().max().item() <= edge
    assert bool(layer.bias.any()) == has_biases
    assert not has_biases or layer.bias.abs().max().item() <= edge
