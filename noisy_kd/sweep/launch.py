"""The stacking launcher at work: check the grid, prepare, train its groups, hand over to Hydra.

Every job goes through Hydra as if it had run alone: directory, ``.hydra/``, ``result.json``, return
value, status.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from noisy_kd import config as configuration
from noisy_kd import runs
from noisy_kd.config import Config
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.runs.identity import config_hash
from noisy_kd.sweep import grid
from noisy_kd.sweep.grid import Part

if TYPE_CHECKING:
    from noisy_kd.sweep.plugins.hydra_plugins.noisy_kd_stacked import StackedLauncher
    from noisy_kd.training.callbacks.progress import RunsBar

log = logging.getLogger(__name__)

Trainer = Callable[[list[Part], "RunsBar"], dict[str, str]]
"""Trains groups of runs; returns directory -> error, of those that failed."""


@dataclass
class Job:
    """One cell of the grid."""

    cfg: DictConfig
    config: Config | None  # None for an application that is not this project's
    directory: Path

    @property
    def is_finished(self) -> bool:
        """Whether its directory holds its result."""
        assert self.config is not None
        return runs.finished(self.directory, config_hash(self.config)) is not None


def launch(
    launcher: StackedLauncher,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    train: Trainer,
) -> list[JobReturn]:
    """Run the jobs of a sweep.

    Args:
        launcher: what Hydra has set up.
        job_overrides: of each job.
        first: number of the first job.
        train: trains groups of runs.

    Raises:
        InputError: if any job's settings or data are wrong; then nothing has been trained.
        TrainingError: if runs failed or diverged, when all others are done; it lists them.
    """
    setup_globals()
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    Path(str(hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    jobs = [_compose(launcher, overrides, first + i) for i, overrides in enumerate(job_overrides)]
    ours = [job for job in jobs if job.config is not None]
    if _is_search(hydra) and any(job.config and job.config.data.val_size == 0 for job in ours):
        raise InputError("data.val_size=0: a search needs validation images to judge by.")
    name = _record(hydra, ours) if ours else ""
    failed = _train(ours, train) if ours else {}
    returns = []
    for job in jobs:
        returns.append(_replay(launcher, job, failed))
        configure_log(hydra.hydra_logging, hydra.verbose)
    if ours:
        _show_table(hydra, ours, name)
    try:
        _raise_if_failed(ours, failed)
    except TrainingError as error:
        if not _is_search(hydra):
            raise
        log.warning("%s", error)  # a search goes on, and judges by what it is told of each run
    return returns


def _is_search(hydra: DictConfig) -> bool:
    """Whether a sweeper chooses the runs by the results of those before."""
    return "BasicSweeper" not in str(hydra.sweeper._target_)


def _compose(launcher: StackedLauncher, overrides: Sequence[str], number: int) -> Job:
    log.debug("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
    cfg = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    if not {"data", "teacher", "student", "method"} <= set(cfg):
        return Job(cfg, None, Path())
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    config = configuration.read(own)
    if config.trainer.strategy == "ddp":
        raise InputError("trainer=ddp shares one run between devices: leave it out of a sweep.")
    state = Singleton.get_state()
    HydraConfig.instance().set_config(cfg)
    directory = Path(str(cfg.hydra.sweep.dir)) / str(cfg.hydra.sweep.subdir)
    Singleton.set_state(state)
    return Job(cfg, config, directory.absolute())


def _train(jobs: list[Job], train: Trainer) -> dict[str, str]:
    """Train what has no result yet; returns directory -> error, of the runs that failed."""
    by_place = _each_in_its_own_directory(jobs)
    todo = {
        place: job
        for place, job in by_place.items()
        if (job.config and job.config.force) or not job.is_finished
    }
    for job in todo.values():
        assert job.config is not None
        job.directory.mkdir(parents=True, exist_ok=True)
    configs = {place: job.config for place, job in by_place.items() if job.config is not None}
    groups = grid.groups([configs[place] for place in todo], [Path(place) for place in todo])
    begun = sum((job.directory / "last.ckpt").exists() for job in todo.values())
    log.info(
        "%d runs: %d finished, %d to train in %d group%s of runs that can be stacked%s.",
        *(len(by_place), len(by_place) - len(todo), len(todo)),
        *(len(groups), "" if len(groups) == 1 else "s"),
        f"; {begun} go on where they stopped" if begun else "",
    )
    if not todo:
        return {}
    epochs = {place: config.trainer.max_epochs for place, config in configs.items()}
    shown = any("progress" in config.callbacks for config in configs.values())
    from noisy_kd.training.callbacks.progress import RunsBar

    bar = RunsBar(epochs, by_place.keys() - todo.keys(), shown)
    try:
        return train(groups, bar)
    except InputError:
        for job in todo.values():
            runs.remove_if_untouched(job.directory)
        raise


def _each_in_its_own_directory(jobs: list[Job]) -> dict[str, Job]:
    """Directory -> job; a cell that stands twice in the grid runs once.

    Raises:
        InputError: if runs of different settings would share a directory.
    """
    found: dict[str, Job] = {}
    for job in jobs:
        assert job.config is not None
        other = found.setdefault(str(job.directory), job)
        assert other.config is not None
        if config_hash(other.config) != config_hash(job.config):
            raise InputError(
                f"hydra.sweep.subdir: different runs would share {job.directory}; leave it out, or "
                "let it name all that differs."
            )
    return found


def _replay(launcher: StackedLauncher, job: Job, failed: dict[str, str]) -> JobReturn:
    """Let Hydra run the job: what is trained already only gives its result."""
    task: Callable[[DictConfig], Any] = launcher.task_function
    if job.config is not None:

        def task(_: DictConfig) -> float | None:
            if str(job.directory) in failed:
                raise TrainingError(f"{job.directory}: {failed[str(job.directory)]}")
            return runs.outcome(job.directory)

    return run_job(
        hydra_context=launcher.hydra_context,
        task_function=task,
        config=job.cfg,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _record(hydra: DictConfig, jobs: list[Job]) -> str:
    """Append the jobs to the record that reports read, and return the sweep's name."""
    from noisy_kd.report import sweeps

    name = str(hydra.job.config_name)
    name = name if name in sweeps.names() else sweeps.CUSTOM
    folder = Path(str(hydra.sweep.dir))
    places = [os.path.relpath(job.directory, folder) for job in jobs]
    own = [list(job.cfg.hydra.overrides.task) for job in jobs]
    sweeps.record(folder, name, zip(places, own, strict=True))
    return name


def _show_table(hydra: DictConfig, jobs: list[Job], name: str) -> None:
    """Print the table of the jobs, and write it for TensorBoard."""
    from noisy_kd.report import sweeps, tables

    own = {job.directory.name: runs.read_result(job.directory) for job in jobs}
    if name == sweeps.CUSTOM:
        if not _is_search(hydra):
            tables.show(tables.plain_table(list(own.items())))
        return
    made = tables.report(sweeps.read(name), [result for result in own.values() if result])
    for table in made:
        tables.show(table)
    if any(job.config.logger.get("tensorboard") for job in jobs if job.config):
        tables.add_to_tensorboard(made, Path(str(hydra.sweep.dir)) / name)


def _raise_if_failed(jobs: list[Job], failed: dict[str, str]) -> None:
    """Name the runs that failed.

    Raises:
        TrainingError: if anything did.
    """
    wrong = {}
    for job in jobs:
        name = job.directory.name
        result = runs.read_result(job.directory) or {}
        if str(job.directory) in failed:
            wrong[name] = f"failed, {failed[str(job.directory)]}"
        elif not job.is_finished:
            wrong[name] = "no result"
        elif result.get("status") == "diverged":
            wrong[name] = "diverged, try a smaller optimizer.lr"
    if wrong:
        listed = "; ".join(f"{name} ({why})" for name, why in wrong.items())
        raise TrainingError(f"{len(wrong)} of {len(jobs)} runs failed: {listed}.")
