"""Every net's curves go to its own loggers: one event file per run."""

from __future__ import annotations

import csv
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from noisy_kd.data.files import writing

if TYPE_CHECKING:
    from noisy_kd.training.stack import StudentStack


FIELDS = ("epoch", "loss", "perturbation", "val_error", "agreement", "learning_rate")
"""Columns of ``metrics.csv``."""


class RunLogs(Callback):
    """Writes each net's metrics of every epoch to its ``metrics.csv`` and its loggers."""

    def __init__(self, files: list[Path], loggers: list[list[Logger]]) -> None:
        self.files, self.loggers = files, loggers

    def on_train_start(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Keep the epochs before the one with which the training goes on, and no others."""
        if not trainer.is_global_zero:
            return
        for file in self.files:
            kept = [r for r in read_metrics(file) if int(r["epoch"] or 0) <= trainer.current_epoch]
            with writing(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("w", newline="") as out:
                    writer = csv.DictWriter(out, FIELDS, extrasaction="ignore")
                    writer.writeheader()
                    writer.writerows(kept)
        for logger in chain(*self.loggers):
            if isinstance(logger, TensorBoardLogger) and trainer.current_epoch:
                start = SessionLog(status=SessionLog.START)
                repeated = Event(step=trainer.current_epoch + 1, session_log=start)
                logger.experiment.file_writer.add_event(repeated)

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Log loss, learning rate, validation error, agreement, size of the perturbation."""
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch + 1
        for k, metrics in enumerate(stack.metrics()):
            if "loss" not in metrics:  # its training has ended, that of others goes on
                continue
            shown = {name: value for name, value in metrics.items() if name != "val_errors"}
            shown["learning_rate"] = float(trainer.optimizers[k].param_groups[0]["lr"])
            with writing(self.files[k]):
                with self.files[k].open("a", newline="") as out:
                    csv.DictWriter(out, FIELDS).writerow({"epoch": epoch, **shown})
                for logger in self.loggers[k]:
                    logger.log_metrics(shown, step=epoch)

    def on_fit_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Write out what is buffered; the run adds its result before :func:`close`."""
        for file, loggers in zip(self.files, self.loggers, strict=True):
            with writing(file.parent):
                for logger in loggers:
                    logger.save()


def read_metrics(file: Path) -> list[dict[str, str]]:
    """Return the rows of a ``metrics.csv``; none without one."""
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def close(loggers: list[Logger]) -> None:
    """Write a run's logs to the end."""
    for logger in loggers:
        logger.save()
        logger.finalize("success")


class WeightHistograms(Callback):
    """The weights' distribution in TensorBoard, per layer, after every epoch."""

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Log all weights and biases of every net."""
        (logs,) = (one for one in trainer.callbacks if isinstance(one, RunLogs))  # type: ignore[attr-defined]
        for student, loggers in zip(stack.distillers, logs.loggers, strict=True):
            for logger in loggers:
                if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                    for name, values in student.eval_model.named_parameters():
                        with suppress(ValueError):  # of a net that has diverged
                            logger.experiment.add_histogram(
                                f"weights/{name}", values.detach(), trainer.current_epoch + 1
                            )
