"""Short runs on the embedded digits, commands in this process and in others, and the real data."""

import copy
import io
import logging
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small nets: threads would wait for each other

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from noisy_kd.cli import main as cli
from noisy_kd.cli import train as cli_train
from noisy_kd.cli.arguments import compose
from noisy_kd.config import Config
from noisy_kd.data.datamodules import DigitsDataModule
from noisy_kd.sweep.plugins import add_to_path
from noisy_kd.training import stages
from noisy_kd.training.numerics import Numerics

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores Ctrl-C
add_to_path()  # Hydra looks for plugins once in a process

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["teacher.max_epochs=2", "trainer.max_epochs=3", "callbacks=quiet", "trainer=cpu"]


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """One store for the session: the short teacher is trained once."""
    return tmp_path_factory.mktemp("store")


_compose_once = cache(compose)


def composed(*overrides: str) -> Config:
    """What :func:`compose` returns, composed once in a session."""
    return copy.deepcopy(_compose_once(overrides))


@pytest.fixture
def short(store):
    """A short run's configuration on the digits, with these overrides."""

    def make(*overrides: str) -> Config:
        return composed(*SHORT, f"store={store}", *overrides)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory, store):
    """A finished short run, which no test changes."""
    directory = tmp_path_factory.mktemp("finished")
    stages.run([composed(*SHORT, f"store={store}")], [directory])
    return directory


@pytest.fixture
def digits():
    data = DigitsDataModule(val_size=180)
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


@pytest.fixture(autouse=True)
def without_drawings_and_measurements(request, monkeypatch):
    """Each TensorBoard figure is one pixel, and latencies of one pass.

    Tests marked ``figures`` draw the figures.
    """
    if request.node.get_closest_marker("figures") is None:
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_figure", _add_pixel)
    monkeypatch.setattr("noisy_kd.deploy.export.PASSES", 1)


@pytest.fixture(autouse=True)
def images_are_read_again():
    """No test sees the images that another one has read and changed."""
    stages._READ.clear()


def _add_pixel(writer, tag, figure):
    writer.add_image(tag, torch.zeros(1, 1, 1))


def run_here(main, argv, folder, env=None):
    """Run a command in this process, in this folder.

    Args:
        main: returns its exit code.
        argv: its name and arguments.
        folder: the current one for it.
        env: further environment variables.

    Returns:
        What :func:`subprocess.run` would: ``returncode``, ``stdout``, ``stderr``. An unexpected
        error is raised.
    """
    out, err = io.StringIO(), io.StringIO()
    argv = [str(argument) for argument in argv]
    with _own_globals(argv, folder, env or {}), redirect_stdout(out), redirect_stderr(err):
        try:
            code = main()
        except SystemExit as error:  # argparse's
            code = error.code
    return subprocess.CompletedProcess(argv, code or 0, out.getvalue(), err.getvalue())


@pytest.fixture
def command(tmp_path):
    """Run ``noisy-kd VERB ARGUMENTS`` by :func:`run_here`, in ``tmp_path``."""

    def run(*arguments, env=None):
        return run_here(cli.main, ["noisy-kd", *arguments], tmp_path, env)

    return run


@contextmanager
def _own_globals(argv, folder, env):
    """What a command changes in its process: set for it, and set back behind it."""
    environ, path, argv_before, cwd = dict(os.environ), [*sys.path], sys.argv, os.getcwd()
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    try:
        os.environ.update({"NOISY_KD_DATA": "", **env})
        os.chdir(folder)
        sys.argv = argv.copy()
        cli_train._started = False
        GlobalHydra.instance().clear()
        yield
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        root.handlers[:] = handlers
        root.setLevel(level)
        sys.argv, sys.path[:] = argv_before, path
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environ)


@pytest.fixture
def process(tmp_path):
    """Run Python with these arguments in a process of its own, with ``tmp_path`` as its folder."""

    def run(*arguments, wait=True, env=None, timeout=180, **settings):
        settings = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
        settings["cwd"] = tmp_path
        own = {"PYTHONPATH": str(ROOT), "NOISY_KD_DATA": ""}
        settings["env"] = {**os.environ, **own, **(env or {})}
        argv = [sys.executable, *map(str, arguments)]
        if not wait:
            return subprocess.Popen(argv, **settings)
        return subprocess.run(argv, timeout=timeout, **settings)

    return run
