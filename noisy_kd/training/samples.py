"""The training samples of a stack in memory, with the teachers' logits.

Shapes: B samples in a mini-batch, N training samples, T teachers, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from noisy_kd.data import WithColumns, loader


@dataclass(frozen=True)
class TrainingSamples:
    """The training samples in memory: batches are then chunks of several mini-batches.

    Args:
        dataset: sliced by sample ids; gives images and labels.
        batch_size: B.
        z_NTC: the teachers' logits of every sample, [N, T, C]; None without a teacher.
    """

    dataset: Dataset[Any]
    batch_size: int
    z_NTC: Tensor | None = None  # noqa: N815

    @property
    def steps(self) -> int:
        """Mini-batches in an epoch."""
        return -(-len(self.dataset) // self.batch_size)  # type: ignore[arg-type]

    def loaders(self, seeds: set[int], chunk: int) -> dict[int, DataLoader[Any]]:
        """Return for each seed a loader of chunks of ``(x, y, sample ids)``, in its own order."""
        ids = torch.arange(len(self.dataset))  # type: ignore[arg-type]
        data = WithColumns(self.dataset, ids)
        return {seed: loader(data, chunk * self.batch_size, seed) for seed in sorted(seeds)}
