"""Callbacks by import path, for processes that a test starts."""

import os
import time
from pathlib import Path

from lightning import Callback


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
