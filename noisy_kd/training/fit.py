"""Train a stack, and hear Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning import Trainer
from torch.utils.data import DataLoader

from noisy_kd.training.stack import CHUNK, StudentStack


def fit(stack: StudentStack, trainer: Trainer, validation: DataLoader[Any] | None) -> None:
    """Train the students of a stack: a batch order per distinct seed.

    Args:
        stack: with its training samples.
        trainer: Lightning's.
        validation: batches (x, y) or (x, y, z); None without a validation set.

    Raises:
        KeyboardInterrupt: if the training was interrupted.
    """
    assert stack.samples is not None
    chunk = CHUNK if stack.numerics.fast and trainer.world_size == 1 else 1
    loaders = stack.samples.loaders({one.seed for one in stack.distillers}, chunk)
    try:
        with stack.numerics.matmul_precision(), _heed_interrupts(stack):
            trainer.fit(stack, loaders, validation)
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from error
    if trainer.interrupted:
        raise KeyboardInterrupt


@contextmanager
def _heed_interrupts(stack: StudentStack) -> Iterator[None]:
    """Remember a Ctrl-C that falls into code which swallows exceptions, such as a finaliser."""
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
