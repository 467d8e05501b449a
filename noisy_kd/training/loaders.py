"""DataLoaders of other projects: read in order, and with the logits as a further column."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from noisy_kd.data.dataset import WithColumns, unpack

WORKERS = ("worker_init_fn", "multiprocessing_context", "timeout", "prefetch_factor")
"""How a DataLoader starts its worker processes."""


def images_digest(batches: DataLoader[Any]) -> str:
    """Return a fingerprint of the images, whatever the size of the batches."""
    digest = hashlib.sha256()
    for k, batch in enumerate(batches):
        x, *_ = unpack(batch)
        if k == 0:
            digest.update(f"{x.dtype}{tuple(x.shape[1:])}".encode())
        digest.update(x.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def in_order(given: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader of the same samples in the order of the dataset."""
    indexed = hasattr(given.dataset, "__len__") and not isinstance(given.dataset, IterableDataset)
    if not indexed or given.batch_sampler is None:
        raise TypeError("CachedLogits needs a DataLoader with mini-batches of an indexed dataset.")
    return DataLoader(
        given.dataset,
        batch_size=given.batch_size or 64,
        num_workers=given.num_workers,
        collate_fn=given.collate_fn,
        **{key: getattr(given, key) for key in WORKERS},
    )


def with_column(given: DataLoader[Any], z: Tensor) -> DataLoader[Any]:
    """Return the loader with a further column, one row for each sample of its dataset."""
    dataset: Dataset[Any] = WithColumns(given.dataset, z)
    keys = ["num_workers", "pin_memory", "persistent_workers", "generator", *WORKERS]
    is_usual = type(given.batch_sampler) is BatchSampler
    keys += ["batch_size", "sampler", "drop_last"] if is_usual else ["batch_sampler"]
    collate = partial(_collate, given.collate_fn)
    return DataLoader(dataset, collate_fn=collate, **{key: getattr(given, key) for key in keys})


def _collate(collate: Callable[[list[Any]], Any], items: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    x, y, _ = unpack(collate([item[:-1] for item in items]))
    return x, y, torch.stack([item[-1] for item in items])
