import numpy as np
import pytest
import torch
from test_images import write_cifar10, write_folder, write_mnist, write_svhn

from noisy_kd.data import Cifar10, Digits, Folder, Mnist, Svhn, keyed_generator
from noisy_kd.data.module import EpochOrder, loader
from noisy_kd.errors import InputError


def test_splits_are_disjoint_and_stratified(digits):
    train, val = set(digits.train_rows.tolist()), set(digits.val_rows.tolist())
    assert not train & val
    assert train | val == set(range(1437))
    assert len(val) == 180
    assert torch.bincount(digits.images.labels[digits.val_rows]).tolist() == [18] * 10


def test_the_seed_decides_the_hold_out_and_never_the_test_set(digits):
    other = Digits(val_size=180, seed=1)
    other.setup()
    assert not torch.equal(other.val_rows, digits.val_rows)
    assert torch.equal(other.test_images.pixels, digits.test_images.pixels)


def test_the_papers_sizes():
    """On labels alone, in the numbers of the published sets."""
    labels = torch.arange(60_000) % 10
    val, train = Mnist(val_size=10_000).split(labels, 10_000)
    assert (len(val), len(train)) == (10_000, 50_000)

    svhn = Svhn(val_size=6000)
    svhn.first_part = 73_257
    labels = torch.arange(73_257 + 531_131) % 10
    val, train = svhn.split(labels, 6000)
    assert (len(val), len(train)) == (6000, 598_388)
    assert torch.bincount(labels[val[val < 73_257]]).tolist() == [400] * 10
    assert torch.bincount(labels[val[val >= 73_257]]).tolist() == [200] * 10

    val, train = Cifar10(val_size=5000).split(torch.arange(50_000) % 10, 5000)
    assert (len(val), 2 * len(train)) == (5000, 90_000)
    val, train = Cifar10(val_size=0).split(torch.arange(50_000) % 10, 0)
    assert (len(val), 2 * len(train)) == (0, 100_000)


def test_cifar10_has_every_image_and_its_mirror(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    data = Cifar10(tmp_path, download=False, val_size=20)
    data.setup()
    table = data.training_table()
    n = len(data.train_rows)
    assert (n, len(table)) == (80, 160)
    x, y, _ = table[torch.tensor([3, 3 + n])]
    pixels = data.images.pixels[data.train_rows[3]].float() / 255
    mean = data.images.pixels[data.train_rows].double().mean(dim=0) / 255
    assert torch.allclose(x[0], (pixels - mean).float(), atol=1e-6)
    assert torch.allclose(x[1], (pixels.flip(-1) - mean).float(), atol=1e-6)
    assert y[0] == y[1] == data.images.labels[data.train_rows[3]]
    assert table.place(torch.tensor([3, 3 + n])).tolist() == [
        int(data.train_rows[3]),
        100 + int(data.train_rows[3]),
    ]
    assert len(data.validation_table()) == 20
    assert len(data.test_table()) == 20


def test_svhn_is_normalised(tmp_path):
    write_svhn(tmp_path)
    data = Svhn(tmp_path, download=False, val_size=60)
    data.setup()
    assert (data.val_rows < 300).sum() == 40
    x, _, _ = data.test_table()[torch.arange(60)]
    assert x.mean().abs() < 0.1


def test_mnist_and_folder(tmp_path):
    write_mnist(tmp_path)
    data = Mnist(tmp_path, download=False, val_size=50)
    data.setup()
    x, _, _ = data.test_table()[torch.arange(5)]
    expected = data.test_images.pixels[:5].numpy() / np.float32(255)
    assert np.allclose(x.numpy(), expected)

    own = Folder(write_folder(tmp_path / "own"))
    own.setup()
    assert len(own.val_rows) == 18 // 10
    assert own.input_shape == (3, 18, 20)


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


def test_dataloaders_serve_ordinary_batches(digits):
    batches = list(digits.train_dataloader())
    assert sum(len(y) for _, y, _ in batches) == 1257
    assert batches[0][0].shape == (64, 1, 8, 8)
    assert batches[0][0].dtype == torch.float32
    assert sum(len(y) for _, y, _ in digits.val_dataloader()) == 180
    assert sum(len(y) for _, y, _ in digits.test_dataloader()) == 360
    assert len(loader(digits.test_table(), 100)) == 4


def test_a_subset_is_stratified_and_keyed_by_the_data_seed(digits):
    table = digits.training_table(100)
    assert len(table) == 100
    assert torch.bincount(digits.images.labels[table.rows]).min() >= 9
    assert set(table.rows.tolist()) <= set(digits.train_rows.tolist())
    assert torch.equal(table.rows, digits.training_table(100).rows)
    for size in (5, 2000):
        with pytest.raises(InputError, match=f"data.subset={size}"):
            digits.training_table(size)


def test_a_hold_out_of_everything_is_refused():
    with pytest.raises(InputError, match="leaves nothing"):
        Digits(val_size=1437).setup()


def test_the_digest_is_of_pixels_and_training_labels(digits):
    same, moved = Digits(val_size=10), Digits()
    same.setup()
    assert same.digest == digits.digest
    moved.source = lambda: _changed(digits)
    moved.setup()
    assert moved.digest != digits.digest


def _changed(digits):
    from noisy_kd.data.images import Images, Source

    labels = digits.images.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    return Source(Images(digits.images.pixels, labels), digits.test_images, digits.classes)


def test_moving_to_a_device_keeps_the_batches(digits):
    before, _, _ = digits.training_table()[torch.arange(3)]
    digits.to(torch.device("cpu"))
    after, _, _ = digits.training_table()[torch.arange(3)]
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("kind", "val_size", "sizes", "samples"),
    [
        (Mnist, 10_000, (50_000, 10_000, 10_000), 50_000),
        (Cifar10, 5000, (45_000, 5000, 10_000), 90_000),
    ],
)
def test_real_data(real_data, kind, val_size, sizes, samples):
    data = kind(real_data, download=False, val_size=val_size)
    data.setup()
    assert (len(data.train_rows), len(data.val_rows), len(data.test_images)) == sizes
    assert len(data.training_table()) == samples
    assert torch.bincount(data.test_images.labels).sum() == 10_000
    if kind is Cifar10:
        assert torch.bincount(data.images.labels[data.val_rows]).tolist() == [500] * 10
        x, _, _ = data.training_table()[torch.arange(2000)]
        assert x.mean().abs() < 0.02


def test_wrong_labels_stay_and_spare_the_hold_out():
    clean, noisy, again = (Digits(val_size=180, label_noise=share) for share in (0.0, 0.4, 0.4))
    for data in (clean, noisy, again):
        data.setup()
    rows = clean.train_rows
    wrong = noisy.images.labels[rows] != clean.images.labels[rows]
    assert int(wrong.sum()) == round(0.4 * len(rows))  # each of them another class
    held_out = clean.val_rows
    assert torch.equal(noisy.images.labels[held_out], clean.images.labels[held_out])
    assert torch.equal(noisy.images.labels, again.images.labels)
    assert torch.equal(noisy.test_images.labels, clean.test_images.labels)
    assert noisy.digest == again.digest != clean.digest
    assert noisy.source_digest == clean.digest
    assert torch.bincount(noisy.images.labels[rows][wrong], minlength=10).min() > 25
