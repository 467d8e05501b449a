"""Data sets as uint8 tensors in memory: where they come from, and how they are split.

Shapes: N images, C channels, H x W pixels; labels are int64 in [0, classes).
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from noisy_kd.errors import InputError


@dataclass(frozen=True)
class Images:
    """Labelled images: pixels uint8 [N, C, H, W], labels int64 [N]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """A data set as it is published: what may be trained on, the test set, the class names.

    ``first_part`` is how many of the first training images are SVHN's ``train``; the rest are
    ``extra``. Of a folder the last training images are those of its validation set (``val``), then
    those without a label, -1 (``unlabelled``); ``digest`` is its fingerprint, and ``bits`` are
    those that 16-bit files use.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    first_part: int = 0
    val: int = 0
    unlabelled: int = 0
    digest: str | None = None
    bits: int | None = None


def check(source: Source) -> None:
    """Refuse images that are none, which a custom data module might give.

    Raises:
        InputError: naming what is wrong.
    """
    for name, part in (("train", source.train), ("test", source.test)):
        pixels, labels = part.pixels, part.labels
        shape = list(pixels.shape)
        if pixels.dtype != torch.uint8 or len(shape) != 4:
            kind = str(pixels.dtype).removeprefix("torch.")
            raise InputError(f"the {name} images are {kind} {shape}: give uint8 [N, C, H, W].")
        if labels.dtype != torch.int64 or list(labels.shape) != shape[:1]:
            kind = str(labels.dtype).removeprefix("torch.")
            text = f"the {name} labels are {kind} {list(labels.shape)}: give int64 {shape[:1]}."
            raise InputError(text)
        known = labels[: len(labels) - source.unlabelled] if name == "train" else labels
        low, high = (int(known.min()), int(known.max())) if len(known) else (0, 0)
        if low < 0 or high >= len(source.classes):
            count = len(source.classes)
            text = f"the {name} labels are {low} to {high}: {count} classes are 0 to {count - 1}."
            raise InputError(text)


DIGITS = tuple(str(i) for i in range(10))
MNIST_FILES = "{}/MNIST/raw/{{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte"
CIFAR10_FILES = "{}/cifar-10-batches-py/{{data_batch_1..5,test_batch,batches.meta}}"
SVHN_FILES = "{}/{{train,extra,test}}_32x32.mat"
MD5 = partial(hashlib.md5, usedforsecurity=False)  # which is not allowed everywhere for more
PUBLISHED = {  # md5 of the files; torchvision holds those of CIFAR-10, and reads no others
    "mnist": {
        "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "svhn": {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    },
}


def digits() -> Source:
    """scikit-learn's 1,797 real handwritten digits, 8x8; a fixed stratified fifth is the test set.

    The pixels 0..16 become 0..255.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).unsqueeze(1) * (255 / 16)
    labels = torch.from_numpy(bunch.target).long()
    test, train = stratified(labels, 360, torch.Generator().manual_seed(0))
    everything = Images(pixels.round().to(torch.uint8), labels)
    return Source(_rows(everything, train), _rows(everything, test), DIGITS)


def download_mnist(root: Path) -> None:
    """Fetch the files of MNIST that are missing.

    Raises:
        InputError: if that fails.
    """
    from torchvision.datasets import MNIST

    with _download("MNIST", root, MNIST_FILES):
        MNIST(str(root), download=True)


def download_cifar10(root: Path) -> None:
    """Fetch CIFAR-10's archive, unless its files are there.

    Raises:
        InputError: if that fails.
    """
    from torchvision.datasets import CIFAR10

    with _download("CIFAR-10", root, CIFAR10_FILES):
        CIFAR10(str(root), download=True)


def download_svhn(root: Path) -> None:
    """Fetch the files of SVHN that are missing.

    Raises:
        InputError: if that fails.
    """
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import download_url

    with _download("SVHN", root, SVHN_FILES):
        for url, filename, md5 in SVHN.split_list.values():
            if not (root / filename).exists():
                download_url(url, str(root), filename, md5)


def mnist(root: Path) -> Source:
    """MNIST: 60,000 and 10,000 grey images of 28x28, from ROOT/MNIST/raw.

    Raises:
        InputError: if files are missing or damaged.
    """
    from torchvision.datasets import MNIST

    with _reading("MNIST", where := MNIST_FILES.format(root)):
        sets = [MNIST(str(root), train=train) for train in (True, False)]
    train, test = (Images(s.data.unsqueeze(1), s.targets.long()) for s in sets)
    return _checked("MNIST", Source(train, test, DIGITS), (1, 28, 28), where)


def cifar10(root: Path) -> Source:
    """CIFAR-10: 50,000 and 10,000 colour images of 32x32, from ROOT/cifar-10-batches-py.

    The batches are pickles; torchvision reads them only if their md5 is the official one.

    Raises:
        InputError: if files are missing or damaged.
    """
    from torchvision.datasets import CIFAR10

    with _reading("CIFAR-10", where := CIFAR10_FILES.format(root)):
        sets = [CIFAR10(str(root), train=train) for train in (True, False)]
    train, test = (
        Images(
            torch.from_numpy(s.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(s.targets, dtype=torch.int64),
        )
        for s in sets
    )
    return _checked("CIFAR-10", Source(train, test, tuple(sets[0].classes)), (3, 32, 32), where)


def svhn(root: Path) -> Source:
    """SVHN, cropped: train and extra in one (604,388), 26,032 test images, from ROOT/*_32x32.mat.

    Raises:
        InputError: if files are missing or damaged.
    """
    with _reading("SVHN", where := SVHN_FILES.format(root)):
        # The largest file first: its buffer is free again before the others are read.
        extra = _read_svhn(root / "extra_32x32.mat")
        train = _read_svhn(root / "train_32x32.mat")
        test = _read_svhn(root / "test_32x32.mat")
    source = Source(_joined([train, extra]), _joined([test]), DIGITS, len(train[1]))
    return _checked("SVHN", source, (3, 32, 32), where)


def other_content(name: str, root: Path) -> str | None:
    """Return a fingerprint of files that are not those published under this name.

    None for the published ones, and for files that are still to be fetched.
    """
    published = PUBLISHED.get(name, {})
    found = {}
    for file in filter(Path.is_file, map(root.joinpath, published)):
        with file.open("rb") as content:
            found[str(file.relative_to(root))] = hashlib.file_digest(content, MD5).hexdigest()
    if found.items() <= published.items():
        return None
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def stratified(
    labels_N: Tensor, size: int, generator: torch.Generator, balanced: bool = False
) -> tuple[Tensor, Tensor]:
    """Choose ``size`` rows at random with every class in its proportion.

    Args:
        labels_N: labels of all rows, [N].
        size: how many rows to choose, 0 to N.
        generator: decides which.
        balanced: the same number of every class, instead of its proportion.

    Returns:
        The chosen rows and the rest, both in ascending order.

    Raises:
        InputError: if there are not that many.
    """
    count = torch.bincount(labels_N).double()
    if not 0 <= size <= len(labels_N):
        raise InputError(f"{size} images were asked for, but there are {len(labels_N)}.")
    share = (count > 0) / (count > 0).sum() if balanced else count / count.sum()
    quota = _largest_remainder(share * size, size)
    if (quota > count).any():
        raise InputError(f"{size} images, the same number of each class, are more than there are.")
    order = torch.randperm(len(labels_N), generator=generator)
    by_class = order[torch.argsort(labels_N[order], stable=True)]
    starts = torch.cumsum(count, 0) - count
    chosen = [by_class[int(s) : int(s) + int(q)] for s, q in zip(starts, quota, strict=True)]
    mask = torch.zeros(len(labels_N), dtype=torch.bool)
    mask[torch.cat(chosen)] = True
    return mask.nonzero().flatten(), (~mask).nonzero().flatten()


def _largest_remainder(quota: Tensor, size: int) -> Tensor:
    whole = quota.floor().long()
    missing = size - int(whole.sum())
    whole[torch.argsort(quota - whole, descending=True, stable=True)[:missing]] += 1
    return whole


@contextmanager
def _reading(name: str, where: str) -> Iterator[None]:
    """Turn what goes wrong while files are read into one line that says where they must lie."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # torchvision and SciPy raise a dozen types for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name} is missing or damaged ({reason[:200]}). The files must lie at {where}: put "
            "them there, or delete what is there and let data.download=true fetch them."
        ) from error


@contextmanager
def _download(name: str, root: Path, files: str) -> Iterator[None]:
    """Let one process download while the others wait; a folder without write access needs none."""
    lock = FileLock(root / ".download.lock")
    with suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        with _reading(name, files.format(root)):
            yield
    finally:
        lock.release()


def _checked(name: str, source: Source, shape: tuple[int, ...], where: str) -> Source:
    for part in (source.train, source.test):
        sound = len(part.pixels) == len(part.labels) > 0 and part.pixels.shape[1:] == shape
        if not sound or int(part.labels.min()) < 0 or int(part.labels.max()) > 9:
            raise InputError(
                f"{name} is damaged: {tuple(part.pixels.shape)} pixels, {len(part.labels)} labels. "
                f"Replace the files at {where}."
            )
    return source


def _read_svhn(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [H, W, C, N] as the file has them, and labels, with the digit 0 as class 0."""
    from scipy.io import loadmat

    if not file.exists():
        raise FileNotFoundError(f"there is no {file.name}")  # SciPy's own words name no file
    content = loadmat(file)
    pixels, labels = content["X"], content["y"].reshape(-1).astype(np.int64)
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)):
        raise ValueError(f"{file.name}: pixels {pixels.shape}, {len(labels)} labels")
    if len(labels) == 0 or labels.min() < 1 or labels.max() > 10:
        raise ValueError(f"{file.name}: labels are not 1 to 10")
    return pixels, labels % 10


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]], chunk: int = 8192) -> Images:
    """Move the image axis to the front, a piece at a time: no second copy of all pixels."""
    count = sum(len(labels) for _, labels in parts)
    height, width, channels, _ = parts[0][0].shape
    pixels = torch.empty(count, channels, height, width, dtype=torch.uint8)
    at = 0
    for x, _ in parts:
        for start in range(0, x.shape[3], chunk):
            piece = torch.from_numpy(x[..., start : start + chunk]).permute(3, 2, 0, 1)
            pixels[at : at + len(piece)] = piece
            at += len(piece)
    return Images(pixels, torch.from_numpy(np.concatenate([labels for _, labels in parts])))


def _rows(images: Images, rows: Tensor) -> Images:
    return Images(images.pixels[rows], images.labels[rows])
