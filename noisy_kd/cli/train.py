"""noisy-kd train [GROUP=NAME] [KEY=VALUE] ...: compose a configuration, run it, show the result."""

import logging
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path

import hydra
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from noisy_kd import config as configuration
from noisy_kd import runs
from noisy_kd.cli import summary
from noisy_kd.cli.arguments import as_typed, for_hydra
from noisy_kd.config import CONF, Config
from noisy_kd.errors import InputError
from noisy_kd.runs import Result
from noisy_kd.runs.identity import config_hash, register_resolvers
from noisy_kd.sweep.plugins import add_to_path

_started = False


def main() -> None:
    """Hand the command line to Hydra, which calls :func:`task` for each run."""
    add_to_path()
    register_resolvers()
    logging.raiseExceptions = False  # a reader such as `| head` may stop early
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # for nets side by side
    sys.argv[1:] = for_hydra(sys.argv[1:])
    task()


def has_started() -> bool:
    """Return whether a run has begun: its output folder can be written."""
    return _started


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def task(cfg: DictConfig) -> float | None:
    """Run one configuration, unless its result is there, and print the closing table.

    Returns:
        The validation error, None without a validation set.

    Raises:
        InputError: for bad input.
        TrainingError: if a loss became infinite or NaN; a student's ``result.json`` says so too.
    """
    global _started
    _started = True
    config = configuration.read(cfg)
    directory = Path(HydraConfig.get().runtime.output_dir)
    is_rank_zero = _is_rank_zero(config)
    try:
        with FileLock(directory / "run.lock") if is_rank_zero else nullcontext():
            result = _run_once(config, directory)
    except InputError:
        runs.remove_if_untouched(directory)
        raise
    if not is_rank_zero:
        return None
    baseline = runs.baseline_of(result, directory.parent)
    summary.print_closing(result, baseline, directory, _baselines_command())
    return runs.outcome(directory)


def _baselines_command() -> str:
    """The command of logit regression with the settings of this run."""
    given = map(as_typed, HydraConfig.get().overrides.task)
    own = [override for override in given if not override.startswith("method")]
    return shlex.join(["noisy-kd", "train", *own, "method=logit_regression"])


def _run_once(config: Config, directory: Path) -> Result:
    result = runs.finished(directory, config_hash(config))
    if result is not None and not config.force:
        print(f"{directory} holds this run's result: skipped (force=true runs it again).")
        return result
    from noisy_kd.training import stages

    if config.force and _is_rank_zero(
        config
    ):  # what goes wrong must not cost the result that is there
        prepared = stages.prepare([config])
        stages.teacher_outputs(prepared, directory / "teacher")
        runs.forget(directory)
    return stages.run([config], [directory])[0]


def _is_rank_zero(config: Config) -> bool:
    """Whether this process prints and writes: with trainer=ddp the first one does."""
    ranks = [os.environ[key] for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in os.environ]
    return config.trainer.strategy != "ddp" or ranks[:1] in ([], ["0"])
