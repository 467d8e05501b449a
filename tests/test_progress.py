"""What is shown while a training goes on."""

import io
import logging

import pytest
from rich.console import Console

from noisy_kd.training.callbacks import progress
from noisy_kd.training.distiller import Distiller
from noisy_kd.training.stages import run

SHOWN = "callbacks=default"


def test_without_a_terminal_each_tenth_of_the_epochs_is_a_line(short, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run([short(SHOWN, "trainer.max_epochs=20")], [tmp_path])
    lines = [line for line in caplog.messages if line.startswith("epoch ") and "of 20" in line]
    assert lines[0].startswith("epoch 2 of 20, val. error ")
    assert len(lines) == 10


def test_without_a_validation_set_the_loss_is_shown(short, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run([short(SHOWN, "data.val_size=0")], [tmp_path])
    assert any(line.startswith("epoch 3 of 3, loss ") for line in caplog.messages)


@pytest.fixture
def terminal(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    return screen


def test_on_a_terminal_there_is_one_bar_with_the_time_left(short, tmp_path, terminal, caplog):
    caplog.set_level(logging.INFO)
    run([short(SHOWN, "trainer.max_epochs=4")], [tmp_path])
    shown = terminal.getvalue()
    assert "epoch 4 of 4" in shown
    assert "100%" in shown
    assert "val. error" in shown
    assert "left" in shown
    assert not [line for line in caplog.messages if line.startswith("epoch ")]


def test_an_error_gives_the_terminal_back(short, tmp_path, terminal, monkeypatch):
    def broken(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(Distiller, "loss", broken)
    with pytest.raises(RuntimeError, match="no"):
        run([short(SHOWN, "method=logit_regression")], [tmp_path])
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_callbacks_quiet_show_nothing(short, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run([short()], [tmp_path])
    assert not [line for line in caplog.messages if line.startswith("epoch ")]
