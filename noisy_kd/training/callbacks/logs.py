"""Every net's curves go to its own loggers: one event file per run."""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lightning import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch import nn

if TYPE_CHECKING:
    from noisy_kd.training.stack import StudentStack


class RunLogs(Callback):
    """Writes the epoch's metrics of each net, at the epoch's number.

    Args:
        loggers: the loggers of each net.
    """

    def __init__(self, loggers: list[list[Logger]]) -> None:
        self.loggers = loggers

    def on_train_start(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Let curves go on where the training does.

        A CSV logger, which starts an empty file, gets back the epochs before; TensorBoard is told
        that those it has beyond are made again.
        """
        if not trainer.is_global_zero:
            return
        for logger in (one for loggers in self.loggers for one in loggers):
            if isinstance(logger, TensorBoardLogger) and trainer.current_epoch:
                start = SessionLog(status=SessionLog.START)
                made_again = Event(step=trainer.current_epoch + 1, session_log=start)
                logger.experiment.file_writer.add_event(made_again)
            file = Path(logger.log_dir or "") / "metrics.csv"
            if isinstance(logger, CSVLogger) and file.exists():
                rows = list(csv.DictReader(file.read_text().splitlines()))
                for row in rows:
                    step = int(row.pop("step"))
                    if step <= trainer.current_epoch:
                        values = {str(k): float(v) for k, v in row.items() if v and k != "epoch"}
                        logger.log_metrics(dict(values), step=step)

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Log loss, learning rate, validation error, agreement, size of the perturbation."""
        if not trainer.is_global_zero:
            return
        for k, metrics in enumerate(stack.metrics()):
            rate = trainer.optimizers[k].param_groups[0]["lr"]
            shown = {name: value for name, value in metrics.items() if name != "val_errors"}
            for logger in self.loggers[k]:
                logger.log_metrics({**shown, "learning_rate": rate}, step=trainer.current_epoch + 1)
                if isinstance(logger, CSVLogger):
                    logger.save()

    def on_fit_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Write out what is buffered; the run adds its result before :func:`close`."""
        for loggers in self.loggers:
            for logger in loggers:
                logger.save()


def close(loggers: list[Logger]) -> None:
    """Write a run's logs to the end."""
    for logger in loggers:
        logger.save()
        logger.finalize("success")


class WeightHistograms(Callback):
    """The weights' distribution in TensorBoard, per layer, after every epoch."""

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Log all weights and biases of every net."""
        for logs in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(logs, RunLogs) and trainer.is_global_zero:
                for k, loggers in enumerate(logs.loggers):
                    self._add(stack.distillers[k].eval_model, loggers, trainer.current_epoch + 1)

    def _add(self, net: nn.Module, loggers: list[Logger], epoch: int) -> None:
        for logger in loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, values in net.named_parameters():
                    with suppress(ValueError):  # of a net that has diverged
                        logger.experiment.add_histogram(f"weights/{name}", values.detach(), epoch)
