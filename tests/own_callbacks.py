"""Callbacks by import path, for processes that a test starts."""

import os
import time
from pathlib import Path

import torch
from lightning import Callback

from noisy_kd import BestEpoch


class Meeting(Callback):
    """Lets training begin when so many processes have come to it.

    Args:
        folder: where each leaves a file named by its process id.
        count: how many processes.
    """

    def __init__(self, folder, count):
        self.folder, self.count = Path(folder), count

    def on_train_start(self, trainer, stack):
        (self.folder / str(os.getpid())).touch()
        deadline = time.time() + 60
        while len(list(self.folder.iterdir())) < self.count:
            if time.time() > deadline:
                raise TimeoutError(f"fewer than {self.count} processes within a minute")
            time.sleep(0.02)


class Wreck(Callback):
    """Sets all weights to zero."""

    @torch.no_grad()
    def on_train_epoch_end(self, trainer, stack):
        for parameter in stack.parameters():
            parameter.zero_()


class Last(BestEpoch):
    """Another choice of the epoch."""


class Other(BestEpoch):
    """Yet another one."""
