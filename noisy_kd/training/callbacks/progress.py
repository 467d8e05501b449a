"""How far trainings are: one bar, or without a terminal a line for each tenth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from lightning import Callback, Trainer
from rich import progress
from rich.console import Console

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

Epochs = dict[str, tuple[float, dict[str, float]]]
"""Directory of a run -> epochs done, and the metrics of the last one."""

Watch = Callable[[Epochs], None]
"""Is called after every epoch."""


class RunsBar:
    """Shows how far runs are: epochs of a single one, finished ones of several.

    Args:
        epochs: of each run's training, by its directory.
        finished: directories of the runs that are finished already.
        shown: whether to show anything.
    """

    def __init__(
        self, epochs: dict[str, int], finished: Container[str] = (), shown: bool = True
    ) -> None:
        self.epochs, self.metrics = epochs, dict[str, dict[str, float]]()
        self.done = {name: float(n if name in finished else 0) for name, n in epochs.items()}
        console = Console(stderr=True)
        self.logs = shown and not console.is_terminal
        hidden = not (shown and console.is_terminal)
        self.bar = progress.Progress(*COLUMNS, console=console, disable=hidden)
        self.task = self.bar.add_task("", total=sum(epochs.values()), **self._fields())
        self.tenth = 0

    def __enter__(self) -> RunsBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, epochs: Epochs, ended: bool = True) -> None:
        """Show how far the runs are; ``ended``: at the end of an epoch, which may be a line."""
        for name, (done, metrics) in epochs.items():
            self.done[name] = done
            self.metrics[name] = metrics or self.metrics.get(name, {})
        total, fields = sum(self.done.values()), self._fields()
        self.bar.update(self.task, completed=total, **fields)
        tenth = int(10 * total / max(1, sum(self.epochs.values())))
        if self.logs and ended and tenth > self.tenth:
            self.tenth = tenth
            percent = f"{10 * tenth} %" if len(self.epochs) > 1 else ""
            log.info(", ".join(filter(None, [percent, fields["done"], fields["error"]])))

    def _fields(self) -> dict[str, Any]:
        finished = sum(self.done[name] >= epochs for name, epochs in self.epochs.items())
        text = f"{finished} of {len(self.epochs)} runs done"
        if len(self.epochs) == 1:
            ((name, epochs),) = self.epochs.items()
            text = f"epoch {self.done[name]:.0f} of {epochs}"
        for key, form in (("val_error", "val. error {:.2%}"), ("loss", "loss {:.3g}")):
            values = [metrics[key] for metrics in self.metrics.values() if key in metrics]
            if values:
                return {"done": text, "error": form.format(sum(values) / len(values))}
        return {"done": text, "error": ""}


class Progress(Callback):
    """Calls ``watch`` after every epoch.

    Args:
        names: directories of the runs.
        watch: what is called.
    """

    def __init__(self, names: list[str], watch: Watch) -> None:
        self.names, self.watch = names, watch

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        done = trainer.current_epoch + 1
        self.watch({n: (done, m) for n, m in zip(self.names, stack.metrics(), strict=True)})


class EpochBar(Callback):
    """Shows a single training, or several side by side as one."""

    def on_train_start(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Begin where the training begins, or goes on."""
        self.bar = RunsBar({"": trainer.max_epochs or 1}, shown=trainer.is_global_zero)
        self.bar.tenth = 10 * trainer.current_epoch // (trainer.max_epochs or 1)
        self.bar.update({"": (trainer.current_epoch, {})}, ended=False)
        self.bar.bar.start()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, stack: StudentStack, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        share = (batch_idx + 1) / max(1, trainer.num_training_batches)
        self.bar.bar.update(self.bar.task, completed=trainer.current_epoch + share)

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        metrics = stack.metrics()
        mean = {key: sum(m.get(key, 0.0) for m in metrics) / len(metrics) for key in metrics[0]}
        self.bar.update({"": (trainer.current_epoch + 1, mean)})

    def on_train_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        self.bar.bar.stop()

    def on_exception(self, trainer: Trainer, stack: StudentStack, exception: BaseException) -> None:  # type: ignore[override]
        """Give the terminal back."""
        if hasattr(self, "bar"):
            self.bar.bar.stop()
