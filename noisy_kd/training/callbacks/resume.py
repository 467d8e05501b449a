"""An interrupted training goes on from the end of a whole epoch: its last, but for large stacks.

Every net has a checkpoint of its own: what is left of several nets can go on beside others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from noisy_kd.data import files
from noisy_kd.errors import InputError
from noisy_kd.training.callbacks.best import Best, BestEpoch

if TYPE_CHECKING:
    from noisy_kd.training.stack import StudentStack

log = logging.getLogger(__name__)

LONG = 1.0  # seconds: checkpoints that take longer to write
PAUSE, LONGEST = 60.0, 600.0  # are written only when the last ones are so many seconds old:
SHARE = 0.05  # as many as let them take this share of the time
SPEED = 2e8  # bytes in a second, before any were written


def saved_epoch(file: Path, config_hash: str) -> int:
    """Whole epochs that a checkpoint of this configuration has behind it; 0 if there is none."""
    try:
        content = files.read_tensors(file)
        return int(content["epoch"]) if content["identity"].startswith(config_hash) else 0
    except FileNotFoundError:
        return 0
    except Exception:  # of many kinds; all mean an unusable file
        log.warning("%s cannot be read: starting from the beginning.", file)
        return 0


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up its state, but not how it computed on the device that wrote it."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        for key in ("fused", "capturable", "lr"):  # the rate is set at each step
            if key in optimizer.defaults:
                group[key] = optimizer.defaults[key]


def _bytes(content: Any) -> int:
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, Mapping):
        content = list(content.values())
    return sum(map(_bytes, content)) if isinstance(content, list) else 0


class Resume(Callback):
    """Writes a checkpoint per net after every epoch, and starts from them.

    Where writing them takes more than a second (many nets on a GPU, whose epochs are short), they
    are written once a minute and at the end; where that takes more than a twentieth of the time,
    more seldom, but every ten minutes.

    Args:
        files: one checkpoint per net.
        best: the choice of the epoch, saved with the net.
        identity: what the checkpoint belongs to; one that belongs to something else is ignored.
    """

    def __init__(self, files: list[Path], best: BestEpoch, identity: list[str]) -> None:
        self.files, self.best, self.identity = files, best, identity
        self.written, self.seconds = 0.0, 0.0  # when the last ones were, and how long it took

    def on_fit_start(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Restore nets, optimisers and best epochs, and tell Lightning which epoch is next."""
        self.written = time.monotonic()
        saved = [self._load(k) for k in range(len(self.files))]
        usable = [content for content in saved if content]
        epochs = {content["epoch"] for content in usable}
        if len(usable) < len(saved) or len(epochs) > 1:
            return
        for k, content in enumerate(usable):
            try:
                stack.distillers[k].load_state_dict(content["state"])
            except RuntimeError as error:
                what = f"{self.files[k]} does not fit the network, whose code has changed"
                raise InputError(f"{what}: force=true begins again.") from error
            _load_optimizer(trainer.optimizers[k], content["optimizer"])
            stack.diverged[k] = content["diverged"]
            stack.stopped[k] = content["stopped"]
        self.best.best = [Best(**content["best"]) for content in usable]
        stack.seconds_before, done = usable[0]["seconds"], epochs.pop()
        stack.stop_if_done()
        log.info("Resuming after epoch %d.", done)
        progress = trainer.fit_loop.epoch_progress
        for counts in (progress.current, progress.total):
            for name in vars(counts):  # ready, started, processed, completed
                setattr(counts, name, done)

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Write the checkpoints, each under a temporary name first."""
        now = time.monotonic()
        contents = [self._content(k, trainer, stack) for k in range(len(self.files))]
        self.seconds = self.seconds or _bytes(contents) / SPEED
        ends = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        wait = min(max(0.0 if ends else PAUSE, self.seconds / SHARE), LONGEST)
        seldom = self.seconds > LONG and now - self.written < wait
        if seldom or not trainer.is_global_zero:
            return
        for file, content in zip(self.files, contents, strict=True):
            files.write_tensors(file, content)
        self.written = time.monotonic()
        self.seconds = self.written - now

    def _content(self, k: int, trainer: Trainer, stack: StudentStack) -> dict[str, Any]:
        return {
            "identity": self.identity[k],
            "epoch": trainer.current_epoch + 1,
            "state": stack.distillers[k].state_dict(),
            "optimizer": trainer.optimizers[k].state_dict(),
            "best": vars(self.best.best[k]),
            "diverged": stack.diverged[k],
            "stopped": stack.stopped[k],
            "seconds": stack.seconds,
        }

    def _load(self, k: int) -> dict[str, Any] | None:
        try:
            content = files.read_tensors(self.files[k])
            return content if content["identity"] == self.identity[k] else None
        except FileNotFoundError:
            return None
        except Exception:  # torch raises many types; all mean an unusable file
            log.warning("%s cannot be read: starting from the beginning.", self.files[k])
            return None
