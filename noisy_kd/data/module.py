"""LightningDataModules over images that stay in memory as uint8 and are sliced by index.

There is no per-sample Python and no worker process: a batch is one index operation on a tensor,
which lives on the accelerator when there is one.

Shapes: B samples in a batch, N images, V views (1, or 2 with the mirror), C channels, H x W pixels.
A *sample* is a view of an image: sample i is view i // n of the i % n-th of a table's n images.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from noisy_kd.data import images, preprocess
from noisy_kd.data.images import Images, Source
from noisy_kd.errors import InputError

Batch = tuple[Tensor, Tensor, Tensor]
"""Preprocessed images float32 [B, C, H, W], labels int64 [B], and sample ids int64 [B]."""


class ImageTable(Dataset[Batch]):
    """Some rows of the images in memory, in one or two views.

    Args:
        pixels: uint8 images, [N, C, H, W].
        labels: int64, [N].
        rows: which images belong to the table, int64 [n].
        preprocessing: from uint8 images to the nets' input.
        views: 2 adds the horizontal mirror of every image.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        rows: Tensor,
        preprocessing: nn.Module,
        views: int = 1,
    ) -> None:
        self.pixels, self.labels, self.rows = pixels, labels, rows
        self.preprocessing, self.views = preprocessing, views

    def __len__(self) -> int:
        """Number of samples: images times views."""
        return len(self.rows) * self.views

    def __getitem__(self, samples: Tensor) -> Batch:
        """The batch of these sample ids, int64 [B]."""
        samples = samples.to(self.rows.device, non_blocking=True)  # a GPU goes on with its queue
        row = self.rows[samples % len(self.rows)]
        x = self.pixels.index_select(0, row)  # much faster than self.pixels[row]
        if self.views == 2:
            mirrored = (samples >= len(self.rows)).view(-1, 1, 1, 1)
            x = torch.where(mirrored, preprocess.mirror(x), x)
        return self.preprocessing(x), self.labels[row], samples

    def place(self, samples: Tensor) -> Tensor:
        """Where the samples stand among all V x N views of all images: view * N + row."""
        samples = samples.to(self.rows.device)
        row = self.rows[samples % len(self.rows)]
        return samples.div(len(self.rows), rounding_mode="floor") * len(self.pixels) + row


class EpochOrder(Sampler[Tensor]):
    """Sample ids of one epoch in chunks; shuffled by a generator keyed by seed and epoch.

    Args:
        length: number of samples.
        chunk: samples in a chunk.
        seed: decides the order of every epoch; None keeps the natural order.
    """

    def __init__(self, length: int, chunk: int, seed: int | None = None) -> None:
        self.length, self.chunk, self.seed = length, chunk, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.chunk)

    def __iter__(self) -> Iterator[Tensor]:
        if self.seed is None:
            order = torch.arange(self.length)
        else:
            order = torch.randperm(
                self.length, generator=keyed_generator(self.seed, "order", self.epoch)
            )
        yield from order.split(self.chunk)


def keyed_generator(
    seed: int, purpose: str, epoch: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator whose draws depend on the seed, the purpose and the epoch, and on nothing else.

    So an epoch can be repeated, or started in another process, with the same draws.
    """
    return torch.Generator(device).manual_seed(generator_key(seed, purpose, epoch))


def generator_key(seed: int, purpose: str, epoch: int = 0) -> int:
    """What :func:`keyed_generator` is seeded with."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def loader(table: ImageTable, chunk: int, seed: int | None = None) -> DataLoader[Batch]:
    """A DataLoader over a table: whole chunks by one index operation, in keyed random order."""
    order = EpochOrder(len(table), chunk, seed)
    return DataLoader(table, sampler=order, batch_size=None)


class ImageDataModule(LightningDataModule, ABC):
    """Images in memory, their split, their preprocessing.

    Args:
        root: folder of the data's files.
        download: fetch missing files through torchvision.
        batch_size: samples in a mini-batch.
        val_size: images held out of training, stratified; 0 for none, None for a tenth.
        subset: train on so many images, stratified; None for all.
        seed: decides the hold-out, the subset and the wrong labels.
        read: the images, if they are read already.
        label_noise: share of the training images that get a wrong label, for good; the hold-out
            and the test set keep theirs.
    """

    name: str
    views = 1

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = True,
        batch_size: int = 64,
        val_size: int | None = None,
        subset: int | None = None,
        seed: int = 0,
        read: Source | None = None,
        label_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.read, self.label_noise = read, label_noise
        self.root, self.download = Path(root), download
        self.batch_size, self.val_size = batch_size, val_size
        self.subset, self.seed = subset, seed
        self._ready = False

    @abstractmethod
    def source(self) -> Source:
        """Read the data set into memory."""

    def split(self, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Rows held out for validation, and rows to train on."""
        return images.stratified(labels, size, keyed_generator(self.seed, "split"))

    def fitted_preprocessing(self) -> nn.Module:
        """From uint8 images to the nets' input, fitted on the training images."""
        return preprocess.Scale()

    def setup(self, stage: str | None = None) -> None:
        """Read, split and fit, once.

        Raises:
            InputError: if the files are missing or damaged, or too few for the split.
        """
        if self._ready:
            return
        source = self.read or self.source()
        self.classes, self.first_part = source.classes, source.first_part
        self.images, self.test_images = source.train, source.test
        count = len(self.images)
        size = count // 10 if self.val_size is None else self.val_size
        if size >= count:
            raise InputError(f"data.val_size={size} leaves nothing of {count} images to train on.")
        self.val_rows, self.train_rows = self.split(self.images.labels, size)
        self.preprocessing = self.fitted_preprocessing()
        kind = preprocess.kind_of(self.preprocessing)
        preprocess.restored(kind, self.preprocessing.state_dict())  # as a finished run will be read
        self.published = source
        self.source_digest, self.test_digest = source.digests or (
            _digest(self.images, with_labels=True),
            _digest(self.test_images, with_labels=False),
        )
        self.digest = self.source_digest
        if self.label_noise:
            labels = self._wrong_labels()
            self.images = Images(self.images.pixels, labels)
            self.digest += f" wrong {hashlib.sha256(labels.numpy().data).hexdigest()[:16]}"
        self._ready = True

    def _wrong_labels(self) -> Tensor:
        """The labels with a share of the training images' replaced by another class."""
        generator = keyed_generator(self.seed, "label noise")
        rows = self.train_rows[torch.randperm(len(self.train_rows), generator=generator)]
        rows = rows[: round(self.label_noise * len(rows))]
        labels = self.images.labels.clone()
        shift = torch.randint(1, len(self.classes), (len(rows),), generator=generator)
        labels[rows] = (labels[rows] + shift) % len(self.classes)
        return labels

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.images.pixels.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> None:
        """Move images, labels and preprocessing to the device."""
        self.images, self.test_images = (
            Images(part.pixels.to(device), part.labels.to(device))
            for part in (self.images, self.test_images)
        )
        self.train_rows, self.val_rows = self.train_rows.to(device), self.val_rows.to(device)
        self.preprocessing.to(device)

    def training_table(self, subset: int | None = None, key: str = "data.subset") -> ImageTable:
        """The training samples, or those of a stratified subset of so many images.

        Args:
            subset: how many; None for all.
            key: of the configuration, for the message.

        Raises:
            InputError: if there are not that many images.
        """
        rows = self.train_rows
        if subset is not None:
            if not len(self.classes) <= subset <= len(rows):
                raise InputError(
                    f"{key}={subset}: choose between {len(self.classes)} (the classes) and "
                    f"{len(rows)} (the training images)."
                )
            labels = self.images.labels[rows].cpu()
            chosen, _ = images.stratified(labels, subset, keyed_generator(self.seed, "subset"))
            rows = rows[chosen.to(rows.device)]
        return self._table(self.images, rows, self.views)

    def validation_table(self) -> ImageTable:
        """The held-out images."""
        return self._table(self.images, self.val_rows)

    def test_table(self) -> ImageTable:
        """The test images."""
        return self._table(self.test_images)

    def all_views(self) -> ImageTable:
        """Every view of every image that may be trained on, held-out ones included."""
        return self._table(self.images, None, self.views)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Mini-batches of the training samples, shuffled anew each epoch."""
        return loader(self.training_table(self.subset), self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The held-out images in large batches."""
        return loader(self.validation_table(), 1000)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test images in large batches."""
        return loader(self.test_table(), 1000)

    def _table(self, part: Images, rows: Tensor | None = None, views: int = 1) -> ImageTable:
        if rows is None:
            rows = torch.arange(len(part), device=part.labels.device)
        return ImageTable(part.pixels, part.labels, rows, self.preprocessing, views)


class Digits(ImageDataModule):
    """scikit-learn's 1,797 real digits, 8x8: no download."""

    name = "digits"

    def source(self) -> Source:
        return images.digits()


class Mnist(ImageDataModule):
    """MNIST: 50,000 / 10,000 / 10,000, no preprocessing but the scale to [0, 1] ([NT] 4.1)."""

    name = "mnist"

    def source(self) -> Source:
        return images.mnist(self.root, self.download)


class Svhn(ImageDataModule):
    """SVHN: train + extra less 400 + 200 images per class; contrast normalisation ([NT] 4.2)."""

    name = "svhn"

    def source(self) -> Source:
        return images.svhn(self.root, self.download)

    def split(self, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Two thirds of the hold-out from ``train``, one from ``extra``, all classes alike."""
        first, generator = self.first_part, keyed_generator(self.seed, "split")
        of_train, of_extra = size - size // 3, size // 3
        val_1, train_1 = images.stratified(labels[:first], of_train, generator, balanced=True)
        val_2, train_2 = images.stratified(labels[first:], of_extra, generator, balanced=True)
        return torch.cat([val_1, val_2 + first]), torch.cat([train_1, train_2 + first])

    def fitted_preprocessing(self) -> nn.Module:
        return preprocess.LocalContrastNormalisation()


class Cifar10(ImageDataModule):
    """CIFAR-10: the training set's per-pixel mean subtracted, every mirror added ([NT] 4.3)."""

    name = "cifar10"
    views = 2

    def source(self) -> Source:
        return images.cifar10(self.root, self.download)

    def fitted_preprocessing(self) -> nn.Module:
        mean = preprocess.per_pixel_mean(self.images.pixels, self.train_rows)
        return preprocess.SubtractMean(mean)


class Folder(ImageDataModule):
    """One's own images: ROOT/train/<class>/*.png and ROOT/test/<class>/*.png."""

    name = "folder"

    def source(self) -> Source:
        return images.folder(self.root)


def _digest(part: Images, with_labels: bool) -> str:
    """Fingerprint of the pixels; test labels decide nothing that is trained or cached."""
    fingerprint = hashlib.blake2b(str(tuple(part.pixels.shape)).encode(), digest_size=16)
    fingerprint.update(part.pixels.numpy().data)
    if with_labels:
        fingerprint.update(part.labels.numpy().data)
    return fingerprint.hexdigest()
