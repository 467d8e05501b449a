"""Datasets that slice images in memory by index tensors, and seeded random generators.

There is no per-sample Python and no worker process: a batch is one index operation on a tensor,
which lives on the accelerator when there is one.

Shapes: B samples in a batch, N images, V views, C channels, H x W pixels.
A *sample* is a view of an image: sample i is view i // n of the i % n-th of a dataset's n images.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from noisy_kd.data.views import Views

Batch = tuple[Tensor, Tensor]
"""Preprocessed images float32 [B, C, H, W], and labels int64 [B]."""


VALUES = 2**23  # pixel values that are computed at once, so that large images fit into memory


def at_once(pixels: Tensor, most: int) -> int:
    """Return how many of these images [N, C, H, W] are computed at once: fewer of large ones."""
    return max(1, min(most, VALUES // pixels.shape[1:].numel()))


class ImageDataset(Dataset[Batch]):
    """Views of some of the images in memory.

    Its length is that of an epoch; the ids of its samples go on beyond it where an epoch takes one
    view of many.

    Args:
        pixels: uint8 images, [N, C, H, W].
        labels: int64, [N].
        rows: which images belong to the dataset, int64 [n].
        preprocess: from uint8 images to the input of the networks.
        views: of each image.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        rows: Tensor,
        preprocess: nn.Module,
        views: Views,
    ) -> None:
        self.pixels, self.labels, self.rows = pixels, labels, rows
        self.preprocess, self.views = preprocess, views

    def __len__(self) -> int:
        return len(self.rows) * self.views.per_epoch

    def __getitem__(self, samples: Tensor) -> Batch:
        samples = samples.to(self.rows.device, non_blocking=True)  # a GPU goes on with its queue
        row = self.rows[samples % len(self.rows)]
        x = self.pixels.index_select(0, row)  # much faster than self.pixels[row]
        x = self.views(x, samples // len(self.rows), row)
        return self.preprocess(x), self.labels[row]

    def first(self, epoch: int) -> int:
        """Return the first sample of an epoch, that of the first view which it takes."""
        return self.views.first(epoch) * len(self.rows)

    def logit_index(self, samples: Tensor | None = None) -> Tensor:
        """Return the rows of samples (None: all) among all views' logits: view * N + image."""
        if samples is None:
            samples = torch.arange(len(self.rows) * (self.views.count or 1))
        samples = samples.to(self.rows.device)
        row = self.rows[samples % len(self.rows)]
        return samples // len(self.rows) * len(self.pixels) + row


class WithColumns(Dataset[tuple[Any, ...]]):
    """A dataset with further columns, one row per sample, for example the teacher's logits."""

    def __init__(self, dataset: Dataset[Any], *columns: Tensor) -> None:
        self.dataset, self.columns = dataset, columns

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        def rows_of(column: Tensor) -> Tensor:
            if isinstance(index, Tensor):
                return column[index.to(column.device, non_blocking=True)]
            return column[index]

        return (*self.dataset[index], *map(rows_of, self.columns))


class WithIds(Dataset[tuple[Any, ...]]):
    """A dataset whose samples carry their ids as a further column."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def first(self, epoch: int) -> int:
        """Return the first sample of an epoch."""
        return self.dataset.first(epoch)

    def __getitem__(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y = self.dataset[samples]
        return x, y, samples.to(y.device, non_blocking=True)


class EpochOrder(Sampler[Tensor]):
    """Sample ids of one epoch in chunks, in an order of the seed and the epoch.

    Without a seed it is the natural order. Each pass begins the next epoch, unless ``set_epoch``
    says which one.

    Args:
        length: samples in an epoch.
        chunk: ids that are yielded at once.
        seed: of the order.
        first: the first id of an epoch; 0 for None.
    """

    def __init__(
        self,
        length: int,
        chunk: int,
        seed: int | None = None,
        first: Callable[[int], int] | None = None,
    ) -> None:
        self.length, self.chunk, self.seed, self.epoch = length, chunk, seed, 0
        self.first = first or (lambda _: 0)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.chunk)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.length)
        if self.seed is not None:
            generator = keyed_generator(self.seed, "order", self.epoch)
            order = torch.randperm(self.length, generator=generator)
        order += self.first(self.epoch)
        self.epoch += 1
        yield from order.split(self.chunk)


def keyed_generator(
    seed: int, purpose: str, epoch: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator whose draws depend on the seed, the purpose and the epoch alone.

    So an epoch can be repeated, or started in another process, with the same draws.
    """
    return torch.Generator(device).manual_seed(generator_key(seed, purpose, epoch))


def generator_key(seed: int, purpose: str, epoch: int = 0) -> int:
    """Return the number that :func:`keyed_generator` is seeded with."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def loader(dataset: Dataset[Any], chunk: int, seed: int | None = None) -> DataLoader[Any]:
    """Return a DataLoader that slices chunks by one index operation, in seeded random order."""
    first = getattr(dataset, "first", None)
    order = EpochOrder(len(dataset), chunk, seed, first)  # type: ignore[arg-type]
    return DataLoader(dataset, sampler=order, batch_size=None)


def unpack(batch: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return images, labels, and the teacher's logits (None without) of a mini-batch.

    Raises:
        TypeError: if it is neither ``(x, y)`` nor ``(x, y, z)``.
    """
    parts = batch if isinstance(batch, tuple | list) else ()
    if len(parts) in (2, 3) and all(isinstance(part, Tensor) for part in parts):
        x, y, *z = parts
        if y.ndim != 1:
            raise ValueError(f"labels must have the shape [B], not {list(y.shape)}.")
        return x, y, z[0] if z else None
    kinds = ", ".join(type(part).__name__ for part in parts)
    found = f"{type(batch).__name__}{f' of {kinds}' if kinds else ''}"
    raise TypeError(f"a batch must be tensors, (x, y) or (x, y, z), not a {found}.")
