"""Small runs on the embedded digits, and the real data where NOISY_KD_DATA names its folder."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small nets: threads would wait for each other

import pytest
import torch

from noisy_kd.config import Config, compose
from noisy_kd.data import Digits
from noisy_kd.training.hardware import Numerics

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores Ctrl-C
ROOT = Path(__file__).resolve().parent.parent
SHORT = ["teacher.max_epochs=2", "trainer.max_epochs=3", "callbacks=quiet", "trainer=cpu"]


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """One store for the session: the short teacher is trained once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def short(store):
    """A short run's configuration on the digits, with these overrides."""

    def make(*overrides: str) -> Config:
        return compose([*SHORT, f"store={store}", *overrides])

    return make


@pytest.fixture
def digits():
    data = Digits(val_size=180)
    data.setup()
    return data


@pytest.fixture
def float32():
    return Numerics(torch.device("cpu"), "32", fast=True)


@pytest.fixture(scope="session")
def real_data():
    root = os.environ.get("NOISY_KD_DATA")
    if not root:
        pytest.skip("NOISY_KD_DATA names no folder with the real data")
    return Path(root)
