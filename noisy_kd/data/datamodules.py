"""LightningDataModules over images that stay in memory as uint8.

``prepare_data`` downloads, ``setup`` reads and splits, the dataloaders yield mini-batches
``(x, y)`` that any LightningModule takes.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from noisy_kd.data import preprocessing, sources
from noisy_kd.data.dataset import ImageDataset, at_once, keyed_generator, loader
from noisy_kd.data.sources import Images, Source
from noisy_kd.data.views import Views
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
        views: of the training images; None for the data set's own (CIFAR-10: the mirror images).

    Raises:
        InputError: from ``prepare_data`` and ``setup``, if files are missing or damaged, or too few
            for the split.

    Examples:
        >>> from noisy_kd import DigitsDataModule
        >>> data = DigitsDataModule(val_size=180)
        >>> data.prepare_data()
        >>> data.setup()
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, y.shape
        (torch.Size([64, 1, 8, 8]), torch.Size([64]))
    """

    name: str
    own_views = Views()

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
        views: Views | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_noise <= 1:
            raise InputError(f"label_noise={label_noise}: it must lie between 0 and 1.")
        self.views = views or self.own_views
        self.root, self.download = Path(root).expanduser(), download
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
        sources.check(source)
        self.classes, self.first_part, self.bits = source.classes, source.first_part, source.bits
        self.images, self.test_images = source.train, source.test
        labelled = len(self.images) - source.unlabelled
        self.unlabelled_rows = torch.arange(labelled, len(self.images))
        if source.val:
            if self.val_size is not None:
                raise InputError(
                    f"data.val_size={self.val_size}: {self.root} has a validation set of its own; "
                    "leave it out."
                )
            self.train_rows = torch.arange(labelled - source.val)
            self.val_rows = torch.arange(labelled - source.val, labelled)
        else:
            size = labelled // 10 if self.val_size is None else self.val_size
            if size >= labelled:
                text = f"data.val_size={size} leaves nothing of {labelled} images to train on."
                raise InputError(text)
            self.val_rows, self.train_rows = self.split(self.images.labels[:labelled], size)
        self.preprocessing = self.fitted_preprocessing()
        kind = preprocessing.kind_of(self.preprocessing)
        # Refuse what could not be read back from a finished run.
        preprocessing.restored(kind, self.preprocessing.state_dict())
        self.digest = source.digest or _digest(self.images, with_labels=True)
        self.test_digest = source.digest or _digest(self.test_images, with_labels=False)
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
        self.unlabelled_rows = self.unlabelled_rows.to(device)
        self.preprocessing.to(device)

    def training_set(
        self,
        subset: int | None = None,
        key: str = "data.subset",
        unlabelled: bool = False,
        views: Views | None = None,
    ) -> ImageDataset:
        """Return the training samples, or a stratified subset of so many images.

        Images without a label, y = -1, join them with ``unlabelled``; ``views`` take the place of
        the data module's.

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
        if unlabelled:
            rows = torch.cat([rows, self.unlabelled_rows])
        return self._dataset(self.images, rows, views or self.views)

    def validation_set(self) -> ImageDataset:
        """Return the validation set."""
        return self._dataset(self.images, self.val_rows)

    def test_set(self) -> ImageDataset:
        """Return the test images."""
        return self._dataset(self.test_images)

    def all_views(self) -> ImageDataset:
        """Return the views of every image that may be trained on, validation set included."""
        return self._dataset(self.images, None, self.views)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return mini-batches of the training samples, shuffled anew each epoch."""
        return loader(self.training_set(self.subset), self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the validation set in large batches; no loader without a validation set."""
        size = at_once(self.images.pixels, 1000)
        return loader(self.validation_set(), size) if len(self.val_rows) else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test images in large batches."""
        return loader(self.test_set(), at_once(self.test_images.pixels, 1000))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the test images in large batches."""
        return self.test_dataloader()

    def _dataset(
        self, part: Images, rows: Tensor | None = None, views: Views | None = None
    ) -> ImageDataset:
        if rows is None:
            rows = torch.arange(len(part), device=part.labels.device)
        return ImageDataset(part.pixels, part.labels, rows, self.preprocessing, views or Views())


class DigitsDataModule(ImageDataModule):
    """scikit-learn's 1,797 real digits, 8x8: no download."""

    name = "digits"

    def read(self) -> Source:
        return sources.digits()


class MNISTDataModule(ImageDataModule):
    """MNIST: 60,000 and 10,000, no preprocessing but the scale to [0, 1] ([NT] 4.1).

    The paper's validation set: ``val_size=10_000``.
    """

    name = "mnist"

    def prepare_data(self) -> None:
        if self.download:
            sources.download_mnist(self.root)

    def read(self) -> Source:
        return sources.mnist(self.root)


class SVHNDataModule(ImageDataModule):
    """SVHN: train and extra, 604,388, and 26,032; contrast normalisation ([NT] 4.2).

    The paper's validation set, 400 + 200 images per class: ``val_size=6000``.
    """

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
    own_views = Views(count=2, mirror=True)

    def prepare_data(self) -> None:
        if self.download:
            sources.download_cifar10(self.root)

    def read(self) -> Source:
        return sources.cifar10(self.root)

    def fitted_preprocessing(self) -> nn.Module:
        mean = preprocessing.per_pixel_mean(self.images.pixels, self.train_rows)
        return preprocessing.SubtractMean(mean)


class ImageFolderDataModule(ImageDataModule):
    """Images of your own, of any format that Pillow reads, decoded once into a store.

    ``ROOT/{train,val,test}/<class>/...``, where val and test may be missing, or
    ``ROOT/<class>/...`` alone; what is missing is split off. Images in ``ROOT/unlabelled/...`` have
    the label -1.

    Args:
        root: ROOT.
        size: of all images: N for N x N, or [H, W]; the shorter side is scaled to it and the centre
            cut out. None if all files have one size.
        on_error: ``fail`` names the files that cannot be read, ``skip`` leaves them out.
        store: folder of the decoded images.
        common: arguments of :class:`ImageDataModule`.

    Raises:
        InputError: for a wrong argument; from ``setup`` if files, classes or sizes do not fit.

    Examples:
        >>> from noisy_kd import ImageFolderDataModule
        >>> data = ImageFolderDataModule("pictures", size=64, batch_size=32)
    """

    name = "folder"

    def __init__(
        self,
        root: str | Path = "data",
        size: int | Sequence[int] | None = None,
        on_error: str = "fail",
        store: str | Path = ".cache/store",
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        sides = list(size) if isinstance(size, Sequence) else [] if size is None else [size]
        whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
        count = 2 if isinstance(size, Sequence) else len(sides)
        if not whole or any(side < 1 for side in sides) or len(sides) != count:
            raise InputError(f"data.size={size} must be a number of pixels, or [HEIGHT, WIDTH].")
        if on_error not in ("fail", "skip"):
            raise InputError(f"data.on_error={on_error} must be fail or skip.")
        self.size, self.on_error = size, on_error
        self.store = Path(store).expanduser()

    def read(self) -> Source:
        from noisy_kd.data import folder

        return folder.read(self.root, self.size, self.on_error, self.store, self.seed)


def _digest(part: Images, with_labels: bool) -> str:
    """Return a fingerprint of the pixels; test labels decide nothing that is trained or cached."""
    fingerprint = hashlib.blake2b(str(tuple(part.pixels.shape)).encode(), digest_size=16)
    fingerprint.update(part.pixels.numpy().data)
    if with_labels:
        fingerprint.update(part.labels.numpy().data)
    return fingerprint.hexdigest()
