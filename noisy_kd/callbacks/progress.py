"""How far the nets are, told after every epoch to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lightning import Callback, Trainer

if TYPE_CHECKING:
    from noisy_kd.training.learner import Learner

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

    def on_train_epoch_end(self, trainer: Trainer, learner: Learner) -> None:  # type: ignore[override]
        """The epochs done, and each net's validation error."""
        done = trainer.current_epoch + 1
        errors = [metrics.get("val_error") for metrics in learner.metrics()]
        self.watch({name: (done, e) for name, e in zip(self.names, errors, strict=True)})
