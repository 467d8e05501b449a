"""How far the nets are: told after every epoch to whoever shows it, or shown here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning import Callback, Trainer
from rich import progress
from rich.console import Console

if TYPE_CHECKING:
    from noisy_kd.training.stack import StudentStack

log = logging.getLogger(__name__)

COLUMNS = (
    progress.TextColumn("epoch {task.fields[epoch]}"),
    progress.BarColumn(bar_width=16),
    progress.TextColumn("{task.percentage:.0f}%  {task.fields[error]}"),
    progress.TimeElapsedColumn(),
    progress.TextColumn("left"),
    progress.TimeRemainingColumn(),
)

Watch = Callable[[dict[str, tuple[int, float | None]]], None]
"""Hears of every epoch: directory -> (epochs done, validation error)."""


class Progress(Callback):
    """Tells ``watch`` how far every net is.

    Args:
        names: of the nets' runs.
        watch: who hears of it.
    """

    def __init__(self, names: list[str], watch: Watch) -> None:
        self.names, self.watch = names, watch

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """The epochs done, and each net's validation error."""
        done = trainer.current_epoch + 1
        errors = [metrics.get("val_error") for metrics in stack.metrics()]
        self.watch({name: (done, e) for name, e in zip(self.names, errors, strict=True)})


class EpochBar(Callback):
    """One bar for the whole training, with the time left; without a terminal a line each tenth."""

    def on_train_start(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Begin where the training begins, or goes on."""
        console = Console(stderr=True)
        self.epochs = trainer.max_epochs or 1
        self.told, self.tells = 10 * trainer.current_epoch // self.epochs, False
        shown = trainer.is_global_zero and console.is_terminal
        self.tells = trainer.is_global_zero and not shown
        self.bar = progress.Progress(*COLUMNS, console=console, disable=not shown)
        batches = int(trainer.num_training_batches)
        done = trainer.current_epoch * batches
        self.task = self.bar.add_task(
            "", total=self.epochs * batches, completed=done, **self._fields(trainer, stack)
        )
        self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, stack: StudentStack, *_: Any) -> None:  # type: ignore[override]
        """One chunk of mini-batches further."""
        self.bar.advance(self.task)

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """The epoch's validation error."""
        fields = self._fields(trainer, stack, 1)
        self.bar.update(self.task, **fields)
        tenth = 10 * (trainer.current_epoch + 1) // self.epochs
        if self.tells and tenth > self.told:
            self.told = tenth
            log.info("epoch %(epoch)s, %(error)s", fields)

    def on_train_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Leave the bar as it is."""
        self.bar.stop()

    def on_exception(self, trainer: Trainer, stack: StudentStack, exception: BaseException) -> None:  # type: ignore[override]
        """Give the terminal back."""
        if hasattr(self, "bar"):
            self.bar.stop()

    def _fields(self, trainer: Trainer, stack: StudentStack, ended: int = 0) -> dict[str, Any]:
        metrics = stack.metrics() if ended else [{}]
        name = "val_error" if "val_error" in metrics[0] else "loss"
        values = [one[name] for one in metrics if name in one]
        mean = sum(values) / len(values) if values else None
        told = f"val. error {mean:.2%}" if name == "val_error" and mean is not None else ""
        if name == "loss" and mean is not None:
            told = f"loss {mean:.3g}"
        return {"epoch": f"{trainer.current_epoch + ended} of {self.epochs}", "error": told}
