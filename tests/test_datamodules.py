"""Data modules: splits, views, preprocessing, loaders."""

import numpy as np
import pytest
import torch
from image_files import write_cifar10, write_folder, write_mnist, write_svhn

from noisy_kd.data.datamodules import (
    CIFAR10DataModule,
    DigitsDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    SVHNDataModule,
)
from noisy_kd.data.sources import Images, Source
from noisy_kd.errors import InputError


def test_splits_are_disjoint_and_stratified(digits):
    train, val = set(digits.train_rows.tolist()), set(digits.val_rows.tolist())
    assert not train & val
    assert train | val == set(range(1437))
    assert len(val) == 180
    assert torch.bincount(digits.images.labels[digits.val_rows]).tolist() == [18] * 10


def test_the_seed_decides_the_validation_set_and_never_the_test_set(digits):
    other = DigitsDataModule(val_size=180, seed=1)
    other.setup()
    assert not torch.equal(other.val_rows, digits.val_rows)
    assert torch.equal(other.test_images.pixels, digits.test_images.pixels)


def test_the_papers_sizes():
    """On labels alone, in the numbers of the published sets."""
    labels = torch.arange(60_000) % 10
    val, train = MNISTDataModule(val_size=10_000).split(labels, 10_000)
    assert (len(val), len(train)) == (10_000, 50_000)

    svhn = SVHNDataModule(val_size=6000)
    svhn.first_part = 73_257
    labels = torch.arange(73_257 + 531_131) % 10
    val, train = svhn.split(labels, 6000)
    assert (len(val), len(train)) == (6000, 598_388)
    assert torch.bincount(labels[val[val < 73_257]]).tolist() == [400] * 10
    assert torch.bincount(labels[val[val >= 73_257]]).tolist() == [200] * 10

    val, train = CIFAR10DataModule(val_size=5000).split(torch.arange(50_000) % 10, 5000)
    assert (len(val), 2 * len(train)) == (5000, 90_000)
    val, train = CIFAR10DataModule(val_size=0).split(torch.arange(50_000) % 10, 0)
    assert (len(val), 2 * len(train)) == (0, 100_000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixels": torch.rand(8, 1, 4, 4)}, "the train images are float32 [8, 1, 4, 4]"),
        ({"pixels": torch.zeros(8, 4, 4, dtype=torch.uint8)}, "uint8 [8, 4, 4]"),
        ({"labels": torch.arange(8) % 2 + 1}, "labels are 1 to 2: 2 classes are 0 to 1"),
        ({"labels": torch.arange(7) % 2}, "the train labels are int64 [7]: give int64 [8]"),
    ],
)
def test_what_a_custom_data_module_gives_is_checked(change, said):
    class Custom(DigitsDataModule):
        def read(self):
            good = {"pixels": torch.zeros(8, 1, 4, 4, dtype=torch.uint8)}
            good |= {"labels": torch.arange(8) % 2}
            return Source(Images(**good | change), Images(**good), ("a", "b"))

    with pytest.raises(InputError) as error:
        Custom().setup()
    assert said in str(error.value)


def test_a_share_of_wrong_labels_is_a_share():
    with pytest.raises(InputError, match="label_noise=2"):
        DigitsDataModule(label_noise=2)


def test_cifar10_has_every_image_and_its_mirror(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    data = CIFAR10DataModule(tmp_path, download=False, val_size=20)
    data.setup()
    dataset = data.training_set()
    n = len(data.train_rows)
    assert (n, len(dataset)) == (80, 160)
    x, y = dataset[torch.tensor([3, 3 + n])]
    pixels = data.images.pixels[data.train_rows[3]].float() / 255
    mean = data.images.pixels[data.train_rows].double().mean(dim=0) / 255
    assert torch.allclose(x[0], (pixels - mean).float(), atol=1e-6)
    assert torch.allclose(x[1], (pixels.flip(-1) - mean).float(), atol=1e-6)
    assert y[0] == y[1] == data.images.labels[data.train_rows[3]]
    assert dataset.logit_index(torch.tensor([3, 3 + n])).tolist() == [
        int(data.train_rows[3]),
        100 + int(data.train_rows[3]),
    ]
    assert len(data.validation_set()) == 20
    assert len(data.test_set()) == 20


def test_svhn_is_normalised(tmp_path):
    write_svhn(tmp_path)
    data = SVHNDataModule(tmp_path, download=False, val_size=60)
    data.setup()
    assert (data.val_rows < 300).sum() == 40
    x, _ = data.test_set()[torch.arange(60)]
    assert x.mean().abs() < 0.1


def test_mnist_and_folder(tmp_path):
    write_mnist(tmp_path)
    data = MNISTDataModule(tmp_path, download=False, val_size=50)
    data.setup()
    x, _ = data.test_set()[torch.arange(5)]
    expected = data.test_images.pixels[:5].numpy() / np.float32(255)
    assert np.allclose(x.numpy(), expected)

    own = ImageFolderDataModule(write_folder(tmp_path / "own"))
    own.setup()
    assert len(own.val_rows) == 18 // 10
    assert own.input_shape == (3, 18, 20)


def test_a_root_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_mnist(tmp_path / "d")
    write_folder(tmp_path / "pics")
    for data in (
        MNISTDataModule("~/d", val_size=40),
        ImageFolderDataModule("~/pics", store="~/store"),
    ):
        data.prepare_data()
        data.setup()
    assert (tmp_path / "store").exists()


def test_dataloaders_serve_ordinary_batches(digits):
    batches = list(digits.train_dataloader())
    assert sum(len(y) for _, y in batches) == 1257
    assert batches[0][0].shape == (64, 1, 8, 8)
    assert batches[0][0].dtype == torch.float32
    assert sum(len(y) for _, y in digits.val_dataloader()) == 180
    assert sum(len(y) for _, y in digits.test_dataloader()) == 360
    assert sum(len(y) for _, y in digits.predict_dataloader()) == 360


def test_each_pass_of_the_train_dataloader_has_an_order_that_the_seed_decides(digits):
    def labels(loader):
        return torch.cat([y for _, y in loader])

    one, same = digits.train_dataloader(), digits.train_dataloader()
    first, second = labels(one), labels(one)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)
    assert torch.equal(labels(same), first)


def test_the_train_dataloader_serves_the_subset_alone():
    data = DigitsDataModule(val_size=180, subset=100)
    data.setup()
    assert sum(len(y) for _, y in data.train_dataloader()) == 100


def test_without_a_validation_set_there_is_no_loader_of_it():
    data = DigitsDataModule(val_size=0)
    data.setup()
    assert data.val_dataloader() == []


@pytest.mark.parametrize("kind", [MNISTDataModule, CIFAR10DataModule, SVHNDataModule])
def test_prepare_data_downloads_and_setup_does_not(kind, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(f"noisy_kd.data.sources.download_{kind.name}", asked.append)
    kind(tmp_path, download=False).prepare_data()
    assert asked == []
    data = kind(tmp_path)
    with pytest.raises(InputError, match="missing"):
        data.setup()
    assert asked == []
    data.prepare_data()
    assert asked == [tmp_path]


def test_images_that_are_there_are_not_read_again(digits, monkeypatch):
    source = digits.read()
    monkeypatch.setattr(DigitsDataModule, "read", lambda _: pytest.fail("read"))
    data = DigitsDataModule(val_size=180, source=source)
    data.setup()
    data.setup()
    assert torch.equal(data.train_rows, digits.train_rows)
    assert data.digest == digits.digest


def test_a_subset_is_stratified_and_keyed_by_the_data_seed(digits):
    dataset = digits.training_set(100)
    assert len(dataset) == 100
    assert torch.bincount(digits.images.labels[dataset.rows]).min() >= 9
    assert set(dataset.rows.tolist()) <= set(digits.train_rows.tolist())
    assert torch.equal(dataset.rows, digits.training_set(100).rows)
    for size in (5, 2000):
        with pytest.raises(InputError, match=f"data.subset={size}"):
            digits.training_set(size)


def test_a_validation_set_of_all_images_is_refused():
    with pytest.raises(InputError, match="leaves nothing"):
        DigitsDataModule(val_size=1437).setup()


def test_the_digest_is_of_pixels_and_training_labels(digits):
    labels = digits.images.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    changed = Source(Images(digits.images.pixels, labels), digits.test_images, digits.classes)
    same, other = DigitsDataModule(val_size=10), DigitsDataModule(source=changed)
    for data in (same, other):
        data.setup()
    assert same.digest == digits.digest
    assert other.digest != digits.digest


def test_moving_to_a_device_keeps_the_batches(digits):
    before, _ = digits.training_set()[torch.arange(3)]
    digits.to(torch.device("cpu"))
    after, _ = digits.training_set()[torch.arange(3)]
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("kind", "val_size", "sizes", "samples"),
    [
        (MNISTDataModule, 10_000, (50_000, 10_000, 10_000), 50_000),
        (CIFAR10DataModule, 5000, (45_000, 5000, 10_000), 90_000),
    ],
)
def test_real_data_have_the_papers_sizes(real_data, kind, val_size, sizes, samples):
    data = kind(real_data, download=False, val_size=val_size)
    data.setup()
    assert (len(data.train_rows), len(data.val_rows), len(data.test_images)) == sizes
    assert len(data.training_set()) == samples
    assert torch.bincount(data.test_images.labels).sum() == 10_000
    if kind is CIFAR10DataModule:
        assert torch.bincount(data.images.labels[data.val_rows]).tolist() == [500] * 10
        x, _ = data.training_set()[torch.arange(2000)]
        assert x.mean().abs() < 0.02


def test_label_noise_is_for_good_and_spares_validation_and_test_set():
    clean, noisy, again = (
        DigitsDataModule(val_size=180, label_noise=share) for share in (0.0, 0.4, 0.4)
    )
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
    assert torch.bincount(noisy.images.labels[rows][wrong], minlength=10).min() > 25
