"""noisy-kd train [GROUP=NAME] [KEY=VALUE] ...: compose a configuration, run it, show the result."""

import logging
import os
import shlex
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from noisy_kd import config as configuration
from noisy_kd import runs
from noisy_kd.cli import summary
from noisy_kd.cli.arguments import as_typed, for_hydra
from noisy_kd.config import CONF, Config
from noisy_kd.data import files
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.runs.identity import config_hash, register_resolvers
from noisy_kd.sweep.plugins import add_to_path

_started = False


def main() -> None:
    """Hand the command line to Hydra, which calls :func:`task` for each run."""
    add_to_path()
    register_resolvers()
    logging.raiseExceptions = False  # a reader such as `| head` may stop early
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # for nets side by side
    if {"-h", "--help"} & set(sys.argv) and Path(sys.argv[0]).name == "train.py":
        sys.argv.append("hydra.help.app_name=python train.py")
    sys.argv[1:] = for_hydra(sys.argv[1:])
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, _interrupt)
    try:
        task()
    except (OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError) and _started:
            raise TrainingError("the output was closed before the end.") from error
        cause = error if isinstance(error, OSError) else error.__cause__  # of Hydra's log
        disk = files.disk_error(error)
        if disk is not None and not disk.filename:  # of Hydra's files
            place = "the output folder (hydra.run.dir)"
            raise InputError(files.unwritable(place, disk)) from error
        is_own = (
            isinstance(error, HydraException | BrokenPipeError | InputError) or disk is not None
        )
        if _started or is_own or not isinstance(cause, OSError):
            raise
        mend = "choose an output folder that can be written (hydra.run.dir=DIR)"
        raise InputError(f"{cause}: {mend}.") from error


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Take the signal that Slurm sends before it requeues a job for Ctrl-C."""
    as_ctrl_c = signal.getsignal(signal.SIGINT)
    if not callable(as_ctrl_c):  # in a script's background job
        raise KeyboardInterrupt
    as_ctrl_c(number, frame)


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
    _started = True  # the output folder can be written
    config = configuration.read(cfg)
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    ranks = [os.environ[key] for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in os.environ]
    is_rank_zero = config.trainer.strategy != "ddp" or ranks[:1] in ([], ["0"])
    try:
        with files.locked(directory / "run.lock") if is_rank_zero else nullcontext():
            result = _run_once(config, directory, is_rank_zero)
    except InputError:
        runs.remove_if_untouched(directory)
        raise
    if not is_rank_zero:
        return None
    baseline = runs.baseline_of(result, directory.parent)
    given = map(as_typed, hydra_config.overrides.task)
    own = [override for override in given if not override.startswith("method")]
    command = shlex.join(["noisy-kd", "train", *own, "method=logit_regression"])
    summary.print_closing(result, baseline, directory, command)
    return runs.outcome(directory)


def _run_once(config: Config, directory: Path, is_rank_zero: bool) -> runs.Result:
    result = runs.finished(directory, config_hash(config))
    if result is not None and not config.force:
        print(f"{directory} holds this run's result: skipped (force=true runs it again).")
        return result
    if not config.force:
        runs.check_free(directory, config_hash(config))
    from noisy_kd.training import stages

    if config.force and is_rank_zero:  # what goes wrong must not cost the result that is there
        prepared = stages.prepare([config])
        stages.teacher_outputs(prepared, directory / "teacher")
        runs.remove_outputs(directory)
    return stages.run([config], [directory])[0]
