"""The sources read files in the published formats, and refuse damaged ones."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from image_files import write_cifar10, write_mnist, write_svhn
from scipy.io import savemat

from noisy_kd.data import sources
from noisy_kd.errors import InputError


def test_digits_are_real_and_their_test_set_is_fixed():
    source = sources.digits()
    assert len(source.train) == 1437
    assert len(source.test) == 360
    assert source.train.pixels.shape[1:] == (1, 8, 8)
    assert source.train.pixels.dtype == torch.uint8
    assert source.train.pixels.max() == 255
    assert torch.equal(source.test.pixels, sources.digits().test.pixels)
    assert torch.bincount(source.test.labels).min() >= 34


def test_mnist(tmp_path):
    write_mnist(tmp_path)
    source = sources.mnist(tmp_path)
    assert source.train.pixels.shape == (200, 1, 28, 28)
    assert source.test.labels.tolist() == [i % 10 for i in range(50)]


def test_the_message_about_missing_files_says_where_they_must_lie(tmp_path):
    for read in (sources.mnist, sources.cifar10, sources.svhn):
        with pytest.raises(InputError, match=f"must lie at {tmp_path}"):
            read(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 10, 5000])
def test_truncated_mnist_is_refused(tmp_path, keep):
    file = write_mnist(tmp_path) / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match="MNIST is missing or damaged"):
        sources.mnist(tmp_path)


def test_mnist_with_impossible_labels_is_refused(tmp_path):
    file = write_mnist(tmp_path) / "train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\x63")
    with pytest.raises(InputError, match="damaged"):
        sources.mnist(tmp_path)


def test_cifar10_and_that_a_changed_batch_is_never_unpickled(tmp_path, monkeypatch):
    folder = write_cifar10(tmp_path, monkeypatch)
    source = sources.cifar10(tmp_path)
    assert source.train.pixels.shape == (100, 3, 32, 32)
    assert source.classes[3] == "c3"
    first = pickle.loads((folder / "data_batch_1").read_bytes())["data"][0]
    assert np.array_equal(source.train.pixels[0].numpy().ravel(), first)

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a damaged batch was unpickled",))

    (folder / "data_batch_2").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="CIFAR-10 is missing or damaged"):
        sources.cifar10(tmp_path)


def test_svhn(tmp_path):
    from scipy.io import loadmat

    write_svhn(tmp_path)
    source = sources.svhn(tmp_path)
    assert source.first_part == 300
    assert len(source.train) == 800
    assert source.train.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    extra = loadmat(tmp_path / "extra_32x32.mat")["X"]
    expected = extra[..., 7].transpose(2, 0, 1)
    assert np.array_equal(source.train.pixels[307].numpy(), expected)


def test_damaged_svhn_is_refused(tmp_path):
    write_svhn(tmp_path)
    file = tmp_path / "extra_32x32.mat"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(InputError, match="SVHN is missing or damaged"):
        sources.svhn(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"X": np.zeros((32, 32, 3, 15), np.uint8), "y": np.ones((20, 1), np.uint8)},
        {"X": np.zeros((32, 32, 3, 20), np.uint8), "y": np.ones((15, 1), np.uint8)},
        {"X": np.zeros((32, 32, 20), np.uint8), "y": np.ones((20, 1), np.uint8)},
        {"X": np.zeros((32, 32, 3, 20), np.uint8), "y": np.full((20, 1), 37, np.uint8)},
        {"X": np.zeros((32, 32, 3, 20)), "y": np.ones((20, 1), np.uint8)},
        {"y": np.ones((20, 1), np.uint8)},
        None,
    ],
)
def test_svhn_of_another_form_is_refused(tmp_path, content):
    write_svhn(tmp_path)
    file = tmp_path / "train_32x32.mat"
    file.write_bytes(b"") if content is None else savemat(file, content)
    with pytest.raises(InputError, match="SVHN is missing or damaged"):
        sources.svhn(tmp_path)


def test_svhn_downloads_what_is_missing(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(
        "torchvision.datasets.utils.download_url",
        lambda url, root, filename, md5: fetched.append(filename),
    )
    write_svhn(tmp_path, {"train": 40, "test": 40})
    sources.download_svhn(tmp_path)
    assert fetched == ["extra_32x32.mat"]


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_a_download_that_fails_says_where_the_files_must_lie(tmp_path, monkeypatch, name):
    def no_network(*_, **__):
        raise OSError("no route to host")

    for module in ("mnist", "cifar"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.download_and_extract_archive", no_network
        )
    monkeypatch.setattr("torchvision.datasets.utils.download_url", no_network)
    with pytest.raises(InputError, match=rf"no route to host.*must lie at {tmp_path}"):
        getattr(sources, f"download_{name}")(tmp_path)


def test_one_process_downloads_while_others_wait(tmp_path, monkeypatch):
    at_once, events = [0], []

    def download(root, **_):
        at_once[0] += 1
        events.append(at_once[0])
        time.sleep(0.05)
        at_once[0] -= 1

    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sources.download_mnist, [tmp_path / "data"] * 4))
    assert events == [1, 1, 1, 1]


def generator():
    return torch.Generator().manual_seed(0)


def test_a_stratified_choice_keeps_the_proportions():
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 101)
    chosen, rest = sources.stratified(labels, 100, generator())
    assert torch.bincount(labels[chosen]).tolist() == [60, 30, 10]
    assert sorted(chosen.tolist() + rest.tolist()) == list(range(1001))


def test_a_balanced_choice_takes_the_same_of_each():
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 101)
    chosen, _ = sources.stratified(labels, 90, generator(), balanced=True)
    assert torch.bincount(labels[chosen]).tolist() == [30, 30, 30]
    with pytest.raises(InputError, match="more than there are"):
        sources.stratified(labels, 900, generator(), balanced=True)
    with pytest.raises(InputError, match="but there are 1001"):
        sources.stratified(labels, 2000, generator())
