"""The progress of trainings: one bar, or without a terminal a log line for each tenth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Callback, Trainer
from rich import progress
from rich.console import Console

from noisy_kd import runs
from noisy_kd.config import Config
from noisy_kd.runs.identity import config_hash
from noisy_kd.training.callbacks.logs import read_metrics

if TYPE_CHECKING:
    from noisy_kd.training.stack import StudentStack

log = logging.getLogger(__name__)

COLUMNS = (
    progress.TextColumn("{task.fields[done]}"),
    progress.BarColumn(bar_width=16),
    progress.TextColumn("{task.percentage:.0f}%  {task.fields[error]}"),
    progress.TimeElapsedColumn(),
    progress.TextColumn("left"),
    progress.TimeRemainingColumn(),
)


class Bar:
    """A progress bar with a validation error, or without a terminal a log line for each tenth."""

    def __init__(self, total: float, shown: bool) -> None:
        console = Console(stderr=True)
        self.total = total
        self.logs = shown and not console.is_terminal
        hidden = not (shown and console.is_terminal)
        self.bar = progress.Progress(*COLUMNS, console=console, disable=hidden)
        self.task = self.bar.add_task("", total=total, done="", error="")
        self.tenth = 0

    def update(
        self, completed: float, done: str, metrics: Mapping[str, float], of: str = ""
    ) -> None:
        """Show how far the training is; ``of`` says of what the metrics are."""
        error = f"{of}loss {metrics['loss']:.3g}" if "loss" in metrics else ""
        error = f"{of}val. error {metrics['val_error']:.2%}" if "val_error" in metrics else error
        self.bar.update(self.task, completed=completed, done=done, error=error)
        tenth = int(10 * completed / max(1, self.total))
        if self.logs and tenth > self.tenth:
            self.tenth = tenth
            log.info(", ".join(filter(None, [done, error])))


class RunsBar:
    """Shows how many of the runs in these directories are done, as their files say."""

    def __init__(self, configs: Mapping[str, Config], shown: bool = True) -> None:
        self.hashes = {name: config_hash(config) for name, config in configs.items()}
        self.epochs = {name: config.trainer.max_epochs for name, config in configs.items()}
        self.bar = Bar(sum(self.epochs.values()), shown)
        self.bar.tenth = int(10 * self._completed()[0] / max(1, self.bar.total))

    def __enter__(self) -> RunsBar:
        self.bar.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh()
        self.bar.bar.stop()

    def refresh(self) -> None:
        """Read the runs' files and show how far they are."""
        completed, finished, metrics = self._completed()
        mean = {key: sum(values) / len(values) for key, values in metrics.items() if values}
        percent = f"{100 * completed / max(1, self.bar.total):.0f} %, " if self.bar.logs else ""
        done = f"{percent}{finished} of {len(self.epochs)} runs done"
        self.bar.update(completed, done, mean, "mean " if len(self.epochs) > 1 else "")

    def _completed(self) -> tuple[float, int, dict[str, list[float]]]:
        """Return epochs done, runs finished, and the last metrics of all runs."""
        completed, finished = 0.0, 0
        metrics: dict[str, list[float]] = {"val_error": [], "loss": []}
        for name, epochs in self.epochs.items():
            rows = read_metrics(Path(name) / "metrics.csv")
            is_finished = runs.finished(Path(name), self.hashes[name]) is not None
            finished += is_finished
            completed += epochs if is_finished else min(len(rows), epochs - 0.5)
            for key, values in metrics.items():
                values += [float(row[key]) for row in rows[-1:] if row.get(key)]
        return completed, finished, metrics


class Refresh(Callback):
    """Calls a function after every epoch."""

    def __init__(self, refresh: Callable[[], None]) -> None:
        self.refresh = refresh

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        self.refresh()


class EpochBar(Callback):
    """Shows a single training, or several side by side as one."""

    def on_train_start(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Start at the epoch at which the training starts or continues."""
        self.epochs = trainer.max_epochs or 1
        self.bar = Bar(self.epochs, shown=trainer.is_global_zero)
        self.bar.tenth = 10 * trainer.current_epoch // self.epochs
        self._update(trainer.current_epoch, {})
        self.bar.bar.start()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, stack: StudentStack, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        share = (batch_idx + 1) / max(1, trainer.num_training_batches)
        self.bar.bar.update(self.bar.task, completed=trainer.current_epoch + share)

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        metrics = stack.metrics()
        values = {key: [m[key] for m in metrics if key in m] for m in metrics for key in m}
        mean = {key: sum(each) / len(each) for key, each in values.items()}
        self._update(trainer.current_epoch + 1, mean)

    def on_train_end(self, *_: object) -> None:
        """Give the terminal back, after an error too."""
        if hasattr(self, "bar"):
            self.bar.bar.stop()

    on_exception = on_train_end  # type: ignore[assignment]

    def _update(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.bar.update(epoch, f"epoch {epoch} of {self.epochs}", metrics)
