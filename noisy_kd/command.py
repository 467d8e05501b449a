"""What ``python train.py`` does with a composed configuration: skip, run, show."""

from __future__ import annotations

import os
import shlex
import shutil
from contextlib import nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from noisy_kd import config as configuration
from noisy_kd import runs, summary
from noisy_kd.config import Config
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.identity import config_hash
from noisy_kd.runs import Result

UNTOUCHED = {".hydra", "train.log", "run.lock"}  # what Hydra leaves before a run has begun


def train(cfg: DictConfig) -> float | None:
    """Run one configuration, unless its result is there, and print the closing table.

    Returns:
        The validation error, None without held-out images.

    Raises:
        InputError: for bad input.
        TrainingError: if a loss became infinite or NaN; a student's ``result.json`` says so too.
    """
    config = configuration.read(cfg)
    directory = Path(HydraConfig.get().runtime.output_dir)
    chief = _is_chief()
    try:
        with FileLock(directory / "run.lock") if chief else nullcontext():
            result = _run_once(config, directory)
    except InputError:
        remove_if_untouched(directory)
        raise
    if chief:
        baseline = runs.baseline_of(result, directory.parent)
        summary.print_closing(result, baseline, directory, _baselines_command())
    return outcome(directory) if chief else None


def _baselines_command() -> str:
    """The command of logit regression with the settings of this run."""
    own = [one for one in HydraConfig.get().overrides.task if not one.startswith("method")]
    return shlex.join(["python", "train.py", *own, "method=logit_regression"])


def remove_if_untouched(directory: Path) -> None:
    """Remove a run's directory in which nothing has been done yet, and nobody is at work."""
    if not directory.is_dir():
        return
    with suppress(Timeout), FileLock(directory / "run.lock", timeout=0):
        if {file.name for file in directory.iterdir()} <= UNTOUCHED:
            shutil.rmtree(directory)


def outcome(directory: Path) -> float | None:
    """The validation error of the run in this directory, for a sweeper.

    Raises:
        TrainingError: if the run diverged or has no result.
    """
    result = runs.read_result(directory)
    if result is None:
        raise TrainingError(f"{directory} holds no result.")
    if result["status"] == "diverged":
        advice = "try a smaller optimizer.lr"
        raise TrainingError(f"{directory}: the loss is no longer finite; {advice}.")
    error: float | None = result["val_error"]
    return error


def _run_once(config: Config, directory: Path) -> Result:
    result = runs.finished(directory, config_hash(config))
    if result is not None and not config.force:
        print(f"{directory} holds this run's result: skipped (force=true runs it again).")
        return result
    from noisy_kd.training.run import ready, run, teaching

    data = None
    if config.force and _is_chief():  # what goes wrong must not cost the result that is there
        data, numerics = ready([config])
        data.to(numerics.device)
        teaching(config, data, numerics, directory / "teacher")
        runs.forget(directory)
    return run([config], [directory], data)[0]


def _is_chief() -> bool:
    """Under trainer=ddp one process speaks."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
