"""Index batches, the order of an epoch, keyed random generators."""

import torch

from noisy_kd.data.dataset import EpochOrder, WithColumns, keyed_generator, loader


def test_an_epoch_visits_every_sample_once_in_keyed_order():
    order = EpochOrder(1000, 64, seed=5)
    epochs = []
    for epoch in (0, 1, 0):
        order.set_epoch(epoch)
        epochs.append(torch.cat(list(order)).tolist())
    assert sorted(epochs[0]) == list(range(1000))
    assert epochs[0] == epochs[2] != epochs[1]
    assert len(order) == len(list(order)) == 16
    other = EpochOrder(1000, 64, seed=6)
    assert torch.cat(list(other)).tolist() != epochs[0]


def test_the_order_does_not_depend_on_the_chunk():
    big, small = (torch.cat(list(EpochOrder(1000, chunk, seed=5))) for chunk in (640, 64))
    assert torch.equal(big, small)


def test_generators_are_keyed_by_seed_purpose_and_epoch():
    keys = [(0, "order", 0), (1, "order", 0), (0, "noise", 0), (0, "order", 1)]
    draws = {torch.rand(1, generator=keyed_generator(*key)).item() for key in keys}
    assert len(draws) == 4
    again = torch.rand(1, generator=keyed_generator(0, "order", 0)).item()
    assert again in draws


def test_each_pass_begins_the_next_epoch():
    order = EpochOrder(1000, 64, seed=5)
    first, second = (torch.cat(list(order)) for _ in range(2))
    order.set_epoch(1)
    assert torch.equal(torch.cat(list(order)), second)
    assert not torch.equal(first, second)


def test_without_a_seed_the_order_is_the_natural_one():
    assert torch.equal(torch.cat(list(EpochOrder(100, 32))), torch.arange(100))


def test_a_loader_slices_whole_chunks(digits):
    batches = list(loader(digits.test_set(), 100))
    assert [len(y) for _, y in batches] == [100, 100, 100, 60]
    assert torch.equal(torch.cat([y for _, y in batches]), digits.test_images.labels)


def test_columns_follow_their_samples(digits):
    dataset = digits.training_set()
    ids = torch.arange(len(dataset))
    data = WithColumns(dataset, ids, -ids)
    assert len(data) == len(dataset)
    for x, y, one, other in loader(data, 64, seed=1):
        expected_x, expected_y = dataset[one]
        assert torch.equal(x, expected_x) and torch.equal(y, expected_y)
        assert torch.equal(other, -one)
