"""The teacher's logits in the store: of every view, computed once."""

import pytest
import torch
from image_files import write_cifar10

from noisy_kd.data.datamodules import CIFAR10DataModule
from noisy_kd.model.network import network
from noisy_kd.training.logits import cached_logits, predict_logits, weights_digest
from noisy_kd.training.stages import count_errors
from noisy_kd.training.teacher import frozen


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    data = CIFAR10DataModule(tmp_path, download=False, val_size=20)
    data.setup()
    return data


@pytest.fixture
def teacher():
    return frozen(network("[C5(S2P2)@4-MP2(S2)]-D0.5-FC10", (3, 32, 32)))


def test_every_view_has_the_logits_that_the_teacher_gives_it(cifar, teacher, tmp_path):
    """Rows belong to images, whatever order training asks for them in."""
    logits = cached_logits(teacher, cifar, tmp_path / "store")
    assert logits["train"].dtype == torch.float32
    assert logits["train"].shape == (200, 10)
    dataset = cifar.training_set()
    samples = torch.randperm(len(dataset))
    x, _ = dataset[samples]
    assert torch.allclose(logits["train"][dataset.logit_index(samples)], teacher(x), atol=1e-5)
    x, _ = cifar.test_set()[torch.arange(20)]
    assert torch.allclose(logits["test"], teacher(x), atol=1e-5)


def test_cached_logits_are_the_same_bit_for_bit_and_computed_once(cifar, teacher, tmp_path):
    first = cached_logits(teacher, cifar, tmp_path / "one")
    again = cached_logits(teacher, cifar, tmp_path / "other")
    assert torch.equal(first["train"], again["train"])
    asked = []
    teacher.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    cached = cached_logits(teacher, cifar, tmp_path / "one")
    assert torch.equal(first["train"], cached["train"])
    assert asked == [2, 2, 2]  # to see that the two views and the test images are this teacher's


def test_another_teacher_or_split_has_other_logits(cifar, teacher, tmp_path):
    entries = tmp_path / "store"
    cached_logits(teacher, cifar, entries)
    other = frozen(network("[C5(S2P2)@4-MP2(S2)]-D0.5-FC10", (3, 32, 32), seed=1))
    cached_logits(other, cifar, entries)
    assert len(list(entries.glob("logits-*/"))) == 6  # two views and the test images
    # Another split has another mean image, and so another input to the teacher.
    split = CIFAR10DataModule(cifar.root, download=False, val_size=30)
    split.setup()
    cached_logits(teacher, split, entries)
    assert len(list(entries.glob("logits-*/"))) == 9
    # Test labels decide nothing.
    cifar.test_images.labels.zero_()
    cached_logits(teacher, cifar, entries)
    assert len(list(entries.glob("logits-*/"))) == 9


def test_the_digest_is_of_names_shapes_and_values(teacher):
    before = weights_digest(teacher)
    with torch.no_grad():
        teacher[0].bias[0] += 1e-3
    assert weights_digest(teacher) != before


def test_errors_are_counted_by_the_largest_logit():
    assert count_errors(torch.eye(3), torch.tensor([0, 1, 1])) == 1


def test_prediction_leaves_the_mode_alone(cifar, teacher):
    net = network("[C5(S2P2)@4]-D0.5-FC10", (3, 32, 32)).train()
    one, other = (predict_logits(net, cifar.test_set()) for _ in range(2))
    assert net.training
    assert torch.equal(one, other)
