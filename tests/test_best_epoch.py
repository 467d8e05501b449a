"""Which epoch's weights are kept, and when patience ends a training."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from noisy_kd.training.callbacks import BestEpoch


class Script:
    """A stack whose single net has these validation errors, and the epoch as its weight."""

    def __init__(self, errors):
        self.errors, self.net, self.active = errors, nn.Linear(1, 1), [True]
        self.distillers = [SimpleNamespace(eval_model=self.net)]

    def may_be_kept(self, k):
        return True

    def stop(self, k):
        self.active[k] = False
        self.trainer.should_stop = True

    def metrics(self):
        errors = self.errors[self.epoch]
        return [{} if errors is None else {"val_errors": errors, "val_error": errors / 100}]


def play(errors, patience=None, killed_after=None):
    """Let the epochs pass; returns the best one, and how many there were."""
    stack, best = Script(errors), BestEpoch(patience)
    trainer = stack.trainer = SimpleNamespace(current_epoch=0, should_stop=False)
    best.on_fit_start(trainer, stack)
    for epoch in range(len(errors)):
        if epoch == killed_after:
            saved, best = best.best, BestEpoch(patience)
            best.on_fit_start(trainer, stack)
            best.best = saved
        stack.epoch = trainer.current_epoch = epoch
        nn.init.constant_(stack.net.weight, epoch + 1)
        best.on_train_epoch_end(trainer, stack)
        if trainer.should_stop:
            break
    return best.best[0], epoch + 1


@pytest.mark.parametrize(
    ("errors", "epoch"),
    [([5, 3, 4], 2), ([5, 3, 3, 4], 3), ([1, 2, 3], 1), ([None, None, None], 3)],
)
def test_fewest_errors_then_the_later_epoch_then_the_last(errors, epoch):
    best, _ = play(errors)
    assert best.epoch == epoch
    assert best.weights["weight"].item() == epoch
    assert best.val_error == (None if errors[0] is None else min(errors) / 100)


@pytest.mark.parametrize(("patience", "epochs"), [(None, 7), (2, 4), (3, 5)])
@pytest.mark.parametrize("killed_after", [None, 1, 2, 3])
def test_patience_counts_epochs_without_fewer_errors(patience, epochs, killed_after):
    assert play([5, 3, 3, 4, 3, 4, 4], patience, killed_after)[1] == epochs


def test_kept_weights_are_a_copy():
    best, _ = play([5])
    assert best.weights["weight"].item() == 1
    assert isinstance(best.weights["weight"], torch.Tensor)
