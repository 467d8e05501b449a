"""Batch normalisation as an aid in training: where it stands, and that it folds away."""

import pytest
import torch
from torch import nn

from noisy_kd.cli.arguments import compose
from noisy_kd.errors import InputError
from noisy_kd.model.layers import folded, with_batch_norm
from noisy_kd.model.network import network, notation_of
from noisy_kd.runs import load_student
from noisy_kd.runs.identity import identity
from noisy_kd.training.stages import run

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


@pytest.mark.parametrize("method", ["logit_regression", "supervised", "fitnets", "fickle_teacher"])
def test_a_student_is_trained_with_it_and_kept_without(method, short, tmp_path):
    settings = (f"method={method}", "teacher.layers=FC32-D0.5-FC10", "trainer.max_epochs=6")
    configs = [short(*settings, "student.batch_norm=true", f"seed={seed}") for seed in (1, 2)]
    first, _ = run(configs, [tmp_path / "1", tmp_path / "2"])
    (plain,) = run([short(*settings)], [tmp_path / "plain"])
    (alone,) = run(configs[:1], [tmp_path / "alone"])
    assert first["student_layers"] == plain["student_layers"]
    assert first["multiplications"] == plain["multiplications"]
    assert first["test_errors"] == alone["test_errors"] != plain["test_errors"]
    kept, alone_kept, plain_kept = (
        load_student(tmp_path / name).state_dict() for name in ("1", "alone", "plain")
    )
    assert [*kept] == [*plain_kept]
    assert all(torch.equal(kept[key], alone_kept[key]) for key in kept)


def test_a_students_batch_normalisation_is_part_of_the_identity(short):
    assert identity(short("student.batch_norm=false")) == identity(short())
    assert identity(short("student.batch_norm=true"))["student"]["batch_norm"] is True


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model@student=module", "student._target_=own_nets.Small"], "in the paper's notation"),
        (["optimizer.averaging=swa"], "statistics of their own"),
        (["data.batch_size=1"], "data.batch_size=1"),
    ],
)
def test_where_a_students_batch_normalisation_does_not_fit(settings, words, short, tmp_path):
    with pytest.raises(InputError, match=words):
        run([short("student.batch_norm=true", *settings)], [tmp_path])
