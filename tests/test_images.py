"""Sources in the published formats, made small here."""

import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from noisy_kd.data import images
from noisy_kd.errors import InputError

RNG = np.random.default_rng(0)


def write_mnist(root, counts=(200, 50)):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in zip(("train", "t10k"), counts, strict=True):
        pixels = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        head = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        head = struct.pack(">II", 0x801, count)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return raw


def write_svhn(root, counts=None):
    for part, count in (counts or {"train": 300, "extra": 500, "test": 60}).items():
        pixels = RNG.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)  # the digit 0 is labelled 10
        savemat(
            root / f"{part}_32x32.mat", {"X": pixels, "y": labels[:, None]}, do_compression=True
        )


def write_cifar10(root, monkeypatch, count=20):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch():
        pixels = RNG.integers(0, 256, (count, 3072), dtype=np.uint8)
        return {"data": pixels, "labels": [i % 10 for i in range(count)]}

    names = [f"c{i}" for i in range(10)]
    meta = write("batches.meta", {"label_names": names})
    kind = datasets.CIFAR10
    train = [write(f"data_batch_{i}", batch()) for i in range(1, 6)]
    monkeypatch.setattr(kind, "train_list", train)
    monkeypatch.setattr(kind, "test_list", [write("test_batch", batch())])
    monkeypatch.setattr(
        kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta[1]}
    )
    return folder


def write_folder(root, size=(20, 18), mode="RGB", classes=("cat", "dog", "owl"), per_class=6):
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(per_class):
                shape = (size[1], size[0]) + ((3,) if mode == "RGB" else ())
                pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def test_digits_are_real_and_their_test_set_is_fixed():
    source = images.digits()
    assert len(source.train) == 1437
    assert len(source.test) == 360
    assert source.train.pixels.shape[1:] == (1, 8, 8)
    assert source.train.pixels.dtype == torch.uint8
    assert source.train.pixels.max() == 255
    assert torch.equal(source.test.pixels, images.digits().test.pixels)
    assert torch.bincount(source.test.labels).min() >= 34


def test_mnist(tmp_path):
    write_mnist(tmp_path)
    source = images.mnist(tmp_path, download=False)
    assert source.train.pixels.shape == (200, 1, 28, 28)
    assert source.test.labels.tolist() == [i % 10 for i in range(50)]


def test_missing_files_are_told_with_their_place(tmp_path):
    for read in (images.mnist, images.cifar10, images.svhn):
        with pytest.raises(InputError, match=f"must lie at {tmp_path}"):
            read(tmp_path, download=False)


@pytest.mark.parametrize("keep", [0, 4, 10, 5000])
def test_truncated_mnist_is_refused(tmp_path, keep):
    file = write_mnist(tmp_path) / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match="MNIST is missing or damaged"):
        images.mnist(tmp_path, download=False)


def test_mnist_with_impossible_labels_is_refused(tmp_path):
    file = write_mnist(tmp_path) / "train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\x63")
    with pytest.raises(InputError, match="damaged"):
        images.mnist(tmp_path, download=False)


def test_cifar10_and_that_a_changed_batch_is_never_unpickled(tmp_path, monkeypatch):
    folder = write_cifar10(tmp_path, monkeypatch)
    source = images.cifar10(tmp_path, download=False)
    assert source.train.pixels.shape == (100, 3, 32, 32)
    assert source.classes[3] == "c3"
    first = pickle.loads((folder / "data_batch_1").read_bytes())["data"][0]
    assert np.array_equal(source.train.pixels[0].numpy().ravel(), first)

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a damaged batch was unpickled",))

    (folder / "data_batch_2").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="CIFAR-10 is missing or damaged"):
        images.cifar10(tmp_path, download=False)


def test_svhn(tmp_path):
    from scipy.io import loadmat

    write_svhn(tmp_path)
    source = images.svhn(tmp_path, download=False)
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
        images.svhn(tmp_path, download=False)


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
        images.svhn(tmp_path, download=False)


def test_svhn_downloads_what_is_missing(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(
        "torchvision.datasets.utils.download_url",
        lambda url, root, filename, md5: fetched.append(filename),
    )
    write_svhn(tmp_path, {"train": 40, "test": 40})
    with pytest.raises(InputError):
        images.svhn(tmp_path, download=True)
    assert fetched == ["extra_32x32.mat"]


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_folder(tmp_path, mode, channels):
    source = images.folder(write_folder(tmp_path, mode=mode))
    assert source.train.pixels.shape == (18, channels, 18, 20)
    assert source.classes == ("cat", "dog", "owl")
    with Image.open(tmp_path / "train" / "dog" / "0.png") as image:
        array = np.array(image).reshape(18, 20, channels).transpose(2, 0, 1)
    assert np.array_equal(source.train.pixels[6].numpy(), array)


def spoil_size(root):
    Image.new("RGB", (5, 5)).save(root / "train" / "dog" / "3.png")


def spoil_file(root):
    (root / "train" / "dog" / "3.png").write_bytes(b"not a png")


def spoil_half(root):
    file = root / "train" / "dog" / "3.png"
    file.write_bytes(file.read_bytes()[:200])


def spoil_depth(root):
    pixels = RNG.integers(0, 65536, (18, 20), dtype=np.uint16)
    Image.fromarray(pixels).save(root / "train" / "dog" / "3.png")


def spoil_class(root):
    (root / "test" / "dog").rename(root / "test" / "fox")


def spoil_empty(root):
    for file in (root / "train" / "dog").iterdir():
        file.unlink()


def spoil_test(root):
    for file in root.glob("test/*/*.png"):
        Image.new("RGB", (9, 9)).save(file)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (spoil_size, "dog/3.png is 5x5 pixels"),
        (spoil_file, "3.png cannot be read"),
        (spoil_half, "3.png cannot be read"),
        (spoil_depth, "3.png has pixels of mode I;16"),
        (spoil_class, "same class folders"),
        (spoil_empty, r"has no \*.png"),
        (spoil_test, "share one size"),
    ],
)
def test_unusable_folders_are_refused(tmp_path, spoil, what):
    spoil(write_folder(tmp_path))
    with pytest.raises(InputError, match=what):
        images.folder(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        images.folder(tmp_path)


def generator():
    return torch.Generator().manual_seed(0)


def test_a_stratified_choice_keeps_the_proportions():
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 101)
    chosen, rest = images.stratified(labels, 100, generator())
    assert torch.bincount(labels[chosen]).tolist() == [60, 30, 10]
    assert sorted(chosen.tolist() + rest.tolist()) == list(range(1001))


def test_a_balanced_choice_takes_the_same_of_each():
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 101)
    chosen, _ = images.stratified(labels, 90, generator(), balanced=True)
    assert torch.bincount(labels[chosen]).tolist() == [30, 30, 30]
    with pytest.raises(InputError, match="more than there are"):
        images.stratified(labels, 900, generator(), balanced=True)
    with pytest.raises(InputError, match="but there are 1001"):
        images.stratified(labels, 2000, generator())
