"""Which epoch's weights are kept: the one with the fewest validation errors."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lightning import Callback, Trainer
from torch import Tensor

if TYPE_CHECKING:
    from noisy_kd.training.stack import StudentStack


@dataclass
class Best:
    """The best epoch of one net so far; epochs count from 1."""

    epoch: int = 0
    errors: float = math.inf
    improved: int = 0  # the last epoch that had fewer errors, not only as few
    val_error: float | None = None
    weights: dict[str, Tensor] = field(default_factory=dict, repr=False)


class BestEpoch(Callback):
    """Keeps every net's weights of the epoch with the fewest validation errors.

    A tie goes to the later epoch. Without held-out images the last epoch is kept. The test set is
    never looked at.

    Args:
        patience: stop a net that has not had fewer errors for so many epochs; None for never.
    """

    def __init__(self, patience: int | None = None) -> None:
        self.patience = patience
        self.best: list[Best] = []

    def on_fit_start(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Begin with nothing; :class:`noisy_kd.training.callbacks.Resume` may set it."""
        self.best = [Best() for _ in stack.distillers]

    def on_train_epoch_end(self, trainer: Trainer, stack: StudentStack) -> None:  # type: ignore[override]
        """Compare the epoch with the best before it."""
        epoch = trainer.current_epoch + 1
        for k, metrics in enumerate(stack.metrics()):
            if not stack.active[k] or not stack.may_be_kept(k):
                continue
            errors, best = metrics.get("val_errors"), self.best[k]
            if errors is None or errors <= best.errors:
                if errors is None or errors < best.errors:
                    best.improved = epoch
                best.epoch, best.val_error = epoch, metrics.get("val_error")
                best.errors = math.inf if errors is None else errors
                best.weights = deepcopy(stack.distillers[k].eval_model.state_dict())
        for k, best in enumerate(self.best):
            waited = epoch - best.improved
            if self.patience is not None and waited >= self.patience and stack.may_be_kept(k):
                stack.stop(k)
