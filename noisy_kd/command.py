"""What ``python train.py`` does with a composed configuration: skip, run, show."""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from noisy_kd import config as configuration
from noisy_kd import runs, summary


class DivergedError(RuntimeError):
    """The student's loss is no longer a finite number."""


def train(cfg: DictConfig) -> float | None:
    """Run one configuration, unless its result is there, and print the closing table.

    Returns:
        The validation error, None without held-out images.

    Raises:
        InputError: for bad input.
        DivergedError: if the student's loss became infinite or NaN; ``result.json`` says so too.
    """
    config = configuration.read(cfg)
    directory = Path(HydraConfig.get().runtime.output_dir)
    result = None if config.force else runs.finished(directory, configuration.config_hash(config))
    if result is not None:
        print(f"{directory} holds this run's result: skipped (force=true runs it again).")
    else:
        from noisy_kd.training.run import run

        result = run([config], [directory])[0]
    if os.environ.get("LOCAL_RANK", "0") == "0":  # under trainer=ddp one process speaks
        summary.print_closing(result, runs.baseline_of(result, directory.parent), directory)
    if result["status"] == "diverged":
        raise DivergedError(
            f"{directory}: the loss is no longer finite; try a smaller optimizer.lr."
        )
    error: float | None = result["val_error"]
    return error
