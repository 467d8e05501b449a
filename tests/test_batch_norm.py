"""Batch normalisation in a teacher's training: where it stands, and that it folds away."""

import pytest
import torch
from torch import nn

from noisy_kd.cli.arguments import compose
from noisy_kd.model.layers import folded, with_batch_norm
from noisy_kd.model.network import network, notation_of

LENET = "[C5(S1P0)@20-MP2(S2)]-[C5(S1P0)@50-MP2(S2)]-FC500-D0.5-FC10"


def moved(net: nn.Sequential) -> nn.Sequential:
    """Normalisations as after some training: no statistic, no factor is what it was."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2, generator=generator)
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(generator=generator)
    return net


def test_every_layer_with_a_relu_is_normalised_before_it():
    nin = compose(["data=cifar10"]).teacher.layers
    normed = with_batch_norm(network(nin, (3, 32, 32)))
    kinds = [type(module) for module in normed]
    norms = [i for i, kind in enumerate(kinds) if kind is nn.BatchNorm2d]
    assert len(norms) == 9  # of ten convolutions, the last gives the logits
    assert {(kinds[i - 1], kinds[i + 1]) for i in norms} == {(nn.Conv2d, nn.ReLU)}
    assert [normed[i].num_features for i in norms] == [192, 160, 96, *[192] * 6]


@pytest.mark.parametrize(
    ("layers", "shape"), [(LENET, (1, 28, 28)), ("FC20-FC10", (1, 8, 8)), ("FC10", (1, 8, 8))]
)
def test_the_folded_net_is_the_papers_and_computes_the_same(layers, shape):
    original = network(layers, shape, seed=3)
    normed = moved(with_batch_norm(original))
    net = folded(normed)
    assert notation_of(net) == layers
    assert [*net.state_dict()] == [*original.state_dict()]
    x = torch.randn(16, *shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(net(x), normed.eval()(x), rtol=1e-5, atol=1e-4)
    network(layers, shape).load_state_dict(net.state_dict())


def test_a_net_in_training_is_normalised_by_its_mini_batch():
    normed = with_batch_norm(network("FC20-FC10", (1, 8, 8)))
    x = torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(2)) * 7 + 3
    hidden = normed[:3](x)
    assert isinstance(normed[2], nn.BatchNorm1d)
    torch.testing.assert_close(hidden.mean(0), torch.zeros(20), rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden.std(0), torch.ones(20), rtol=0, atol=1e-2)
