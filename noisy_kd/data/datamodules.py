"""LightningDataModules over images that stay in memory as uint8.

``prepare_data`` downloads, ``setup`` reads and splits, the dataloaders yield mini-batches
``(x, y)`` that any LightningModule takes.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from noisy_kd.data import preprocessing, sources
from noisy_kd.data.dataset import ImageDataset, keyed_generator, loader
from noisy_kd.data.sources import Images, Source
from noisy_kd.errors import InputError


class ImageDataModule(LightningDataModule, ABC):
    """Images in memory, their split, their preprocessing.

    Args:
        root: folder of the data's files.
        download: fetch missing files through torchvision.
        batch_size: samples in a mini-batch.
        val_size: images in the validation set, stratified; 0 for none, None for a tenth.
        subset: train on so many images, stratified; None for all.
        seed: decides the split, the subset, the label noise and the batch order of
            ``train_dataloader``.
        label_noise: share of the training images that get a wrong label, for good; validation and
            test set keep theirs.
        source: the images, if they are read already.

    Raises:
        InputError: from ``prepare_data`` and ``setup``, if files are missing or damaged, or too few
            for the split.

    Example:
        >>> from noisy_kd import DigitsDataModule
        >>> data = DigitsDataModule(val_size=180)
        >>> data.prepare_data()
        >>> data.setup()
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, y.shape
        (torch.Size([64, 1, 8, 8]), torch.Size([64]))
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
        label_noise: float = 0.0,
        source: Source | None = None,
    ) -> None:
        super().__init__()
        self.root, self.download = Path(root), download
        self.batch_size, self.val_size = batch_size, val_size
        self.subset, self.seed = subset, seed
        self.label_noise, self.source = label_noise, source
        self._ready = False

    def prepare_data(self) -> None:
        """Download what is missing; nothing for data sets without a download."""

    @abstractmethod
    def read(self) -> Source:
        """Read the data set into memory."""

    def split(self, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return the rows of the validation set, and the rows to train on."""
        return sources.stratified(labels, size, keyed_generator(self.seed, "split"))

    def fitted_preprocessing(self) -> nn.Module:
        """Return what makes the networks' input of uint8 images, fitted on the training images."""
        return preprocessing.Scale()

    def setup(self, stage: str | None = None) -> None:
        """Read, split and fit, once."""
        if self._ready:
            return
        source = self.source or self.read()
        self.classes, self.first_part = source.classes, source.first_part
        self.images, self.test_images = source.train, source.test
        count = len(self.images)
        size = count // 10 if self.val_size is None else self.val_size
        if size >= count:
            raise InputError(f"data.val_size={size} leaves nothing of {count} images to train on.")
        self.val_rows, self.train_rows = self.split(self.images.labels, size)
        self.preprocessing = self.fitted_preprocessing()
        kind = preprocessing.kind_of(self.preprocessing)
        # Refuse what could not be read back from a finished run.
        preprocessing.restored(kind, self.preprocessing.state_dict())
        self.published = source
        self.source_digest, self.test_digest = source.digests or (
            _digest(self.images, with_labels=True),
            _digest(self.test_images, with_labels=False),
        )
        self.digest = self.source_digest
        if self.label_noise:
            labels = self._noisy_labels()
            self.images = Images(self.images.pixels, labels)
            self.digest += f" wrong {hashlib.sha256(labels.numpy().data).hexdigest()[:16]}"
        self._ready = True

    def _noisy_labels(self) -> Tensor:
        """Return the labels, a share of the training images' replaced by another class."""
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

    def training_set(self, subset: int | None = None, key: str = "data.subset") -> ImageDataset:
        """Return the training samples, or a stratified subset of so many images.

        Raises:
            InputError: if there are not that many images; it names ``key`` of the configuration.
        """
        rows = self.train_rows
        if subset is not None:
            if not len(self.classes) <= subset <= len(rows):
                raise InputError(
                    f"{key}={subset}: choose between {len(self.classes)} (the classes) and "
                    f"{len(rows)} (the training images)."
                )
            labels = self.images.labels[rows].cpu()
            chosen, _ = sources.stratified(labels, subset, keyed_generator(self.seed, "subset"))
            rows = rows[chosen.to(rows.device)]
        return self._dataset(self.images, rows, self.views)

    def validation_set(self) -> ImageDataset:
        """Return the validation set."""
        return self._dataset(self.images, self.val_rows)

    def test_set(self) -> ImageDataset:
        """Return the test images."""
        return self._dataset(self.test_images)

    def all_views(self) -> ImageDataset:
        """Return every view of every image that may be trained on, validation set included."""
        return self._dataset(self.images, None, self.views)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return mini-batches of the training samples, shuffled anew each epoch."""
        return loader(self.training_set(self.subset), self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the validation set in large batches; no loader without a validation set."""
        return loader(self.validation_set(), 1000) if len(self.val_rows) else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test images in large batches."""
        return loader(self.test_set(), 1000)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the test images in large batches."""
        return self.test_dataloader()

    def _dataset(self, part: Images, rows: Tensor | None = None, views: int = 1) -> ImageDataset:
        if rows is None:
            rows = torch.arange(len(part), device=part.labels.device)
        return ImageDataset(part.pixels, part.labels, rows, self.preprocessing, views)


class DigitsDataModule(ImageDataModule):
    """scikit-learn's 1,797 real digits, 8x8: no download."""

    name = "digits"

    def read(self) -> Source:
        return sources.digits()


class MNISTDataModule(ImageDataModule):
    """MNIST: 50,000 / 10,000 / 10,000, no preprocessing but the scale to [0, 1] ([NT] 4.1)."""

    name = "mnist"

    def prepare_data(self) -> None:
        if self.download:
            sources.download_mnist(self.root)

    def read(self) -> Source:
        return sources.mnist(self.root)


class SVHNDataModule(ImageDataModule):
    """SVHN: train + extra less 400 + 200 images per class; contrast normalisation ([NT] 4.2)."""

    name = "svhn"

    def prepare_data(self) -> None:
        if self.download:
            sources.download_svhn(self.root)

    def read(self) -> Source:
        return sources.svhn(self.root)

    def split(self, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return two thirds of the validation set from ``train``, one from ``extra``."""
        first, generator = self.first_part, keyed_generator(self.seed, "split")
        of_train, of_extra = size - size // 3, size // 3
        val_1, train_1 = sources.stratified(labels[:first], of_train, generator, balanced=True)
        val_2, train_2 = sources.stratified(labels[first:], of_extra, generator, balanced=True)
        return torch.cat([val_1, val_2 + first]), torch.cat([train_1, train_2 + first])

    def fitted_preprocessing(self) -> nn.Module:
        return preprocessing.LocalContrastNormalisation()


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10: the training set's per-pixel mean subtracted, every mirror added ([NT] 4.3)."""

    name = "cifar10"
    views = 2

    def prepare_data(self) -> None:
        if self.download:
            sources.download_cifar10(self.root)

    def read(self) -> Source:
        return sources.cifar10(self.root)

    def fitted_preprocessing(self) -> nn.Module:
        mean = preprocessing.per_pixel_mean(self.images.pixels, self.train_rows)
        return preprocessing.SubtractMean(mean)


class ImageFolderDataModule(ImageDataModule):
    """A user's own images: ROOT/train/<class>/*.png and ROOT/test/<class>/*.png."""

    name = "folder"

    def read(self) -> Source:
        return sources.folder(self.root)


def _digest(part: Images, with_labels: bool) -> str:
    """Return a fingerprint of the pixels; test labels decide nothing that is trained or cached."""
    fingerprint = hashlib.blake2b(str(tuple(part.pixels.shape)).encode(), digest_size=16)
    fingerprint.update(part.pixels.numpy().data)
    if with_labels:
        fingerprint.update(part.labels.numpy().data)
    return fingerprint.hexdigest()
