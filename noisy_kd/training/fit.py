"""Fit a stack with Lightning: samples in memory, callbacks, checkpoints, Ctrl-C.

Shapes: B samples in a mini-batch, N training samples, T teachers, C classes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lightning import Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from noisy_kd.config import Config
from noisy_kd.data.dataset import ImageDataset, WithIds, at_once, loader
from noisy_kd.training import build
from noisy_kd.training.callbacks import BestEpoch, Refresh, Resume, RunLogs

if TYPE_CHECKING:
    from noisy_kd.training.stack import StudentStack

CHUNK = 16  # mini-batches in one Lightning step, which share its overhead


@dataclass(frozen=True)
class TrainingSamples:
    """The training samples in memory: batches are then chunks of several mini-batches.

    Args:
        dataset: sliced by sample ids; gives images and labels.
        batch_size: B.
        z_NTC: the teachers' logits of every sample, [N, T, C]; None without a teacher.
        teachers: are asked about each chunk instead, where views have no end.
    """

    dataset: ImageDataset
    batch_size: int
    z_NTC: Tensor | None = None  # noqa: N815
    teachers: Sequence[nn.Module] = ()

    @property
    def steps(self) -> int:
        """Mini-batches in an epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def loaders(self, seeds: set[int], chunk: int) -> dict[int, DataLoader[Any]]:
        """Return for each seed a loader of chunks of ``(x, y, sample ids)``, in its own order."""
        data = WithIds(self.dataset)
        return {seed: loader(data, chunk * self.batch_size, seed) for seed in sorted(seeds)}


@dataclass(frozen=True)
class Fitted:
    """What a training leaves behind, one entry per student."""

    best: BestEpoch
    loggers: list[list[Logger]]
    epochs: int


def fit_runs(
    stack: StudentStack,
    config: Config,
    max_epochs: int,
    validation: DataLoader[Any] | None,
    identities: Sequence[str],
    checkpoints: Sequence[Path],
    logs: Sequence[Path],
    refresh: Callable[[], None] | None = None,
    is_teacher: bool = False,
) -> Fitted:
    """Train a stack with its checkpoints, curves and the callbacks of the configuration.

    Args:
        stack: with its training samples.
        config: of the first run: trainer, callbacks, loggers.
        max_epochs: of the training.
        validation: batches (x, y) or (x, y, z); None without a validation set.
        identities: what each checkpoint belongs to; one of another identity is ignored.
        checkpoints: the file of each student.
        logs: the folder of each student's curves.
        refresh: is called after every epoch in place of a progress bar.
        is_teacher: one device, early stopping off, curves apart from the students', no callbacks of
            others.
    """
    best = BestEpoch() if is_teacher else build.best_epoch(config)
    loggers = [build.loggers(config, folder, "teacher" if is_teacher else "") for folder in logs]
    files = [folder / "metrics.csv" for folder in logs]
    resume = Resume(list(checkpoints), best, list(identities))
    more = build.callbacks(config, refresh is None, own=not is_teacher)
    callbacks = [best, RunLogs(files, loggers), resume, *more]
    callbacks += [] if refresh is None else [Refresh(refresh)]
    trainer = build.trainer(config, max_epochs, callbacks, one_device=is_teacher)
    fit(stack, trainer, validation)
    return Fitted(best, loggers, trainer.current_epoch)


def fit(stack: StudentStack, trainer: Trainer, validation: DataLoader[Any] | None) -> None:
    """Train the students of a stack: a batch order per distinct seed.

    Raises:
        KeyboardInterrupt: if the training was interrupted.
    """
    assert stack.samples is not None
    stack.chunk_steps = 1
    if stack.numerics.fast and trainer.world_size == 1:
        largest = at_once(stack.samples.dataset.pixels, CHUNK * stack.samples.batch_size)
        stack.chunk_steps = max(1, min(CHUNK, largest // stack.samples.batch_size))
    seeds = {student.seed for student in stack.distillers}
    loaders = stack.samples.loaders(seeds, stack.chunk_steps)
    try:
        with stack.numerics.matmul_precision(), _heed_interrupts(stack):
            trainer.fit(stack, loaders, validation)
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from error
    if trainer.interrupted:
        raise KeyboardInterrupt


@contextmanager
def _heed_interrupts(stack: StudentStack) -> Iterator[None]:
    """Remember a Ctrl-C that arrives in code which swallows exceptions, such as a finaliser."""
    own = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if own or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        stack.interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
