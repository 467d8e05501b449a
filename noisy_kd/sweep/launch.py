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
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, flag_override

from noisy_kd import config as configuration
from noisy_kd import runs
from noisy_kd.config import Config
from noisy_kd.data.files import writing
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.runs.identity import config_hash, run_name
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
    """One cell of the grid; ``config`` is None for an application that is not this project's."""

    cfg: DictConfig
    config: Config | None
    directory: Path

    @property
    def own(self) -> Config:
        """The configuration of a job of this project."""
        assert self.config is not None
        return self.config

    @property
    def is_finished(self) -> bool:
        """Whether its directory holds its result."""
        return runs.finished(self.directory, config_hash(self.own)) is not None


def launch(
    launcher: StackedLauncher,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    train: Trainer,
) -> list[JobReturn]:
    """Run the jobs of a sweep.

    Raises:
        InputError: if any job's settings or data are wrong; then nothing has been trained.
        TrainingError: if runs failed or diverged, when all others are done; it lists them.
    """
    setup_globals()
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    folder = Path(str(hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [_compose(launcher, overrides, first + i) for i, overrides in enumerate(job_overrides)]
    ours = [job for job in jobs if job.config is not None]
    is_search = "BasicSweeper" not in str(hydra.sweeper._target_)
    if is_search and any(job.own.data.val_size == 0 for job in ours):
        raise InputError("data.val_size=0: a search needs validation images to judge by.")
    name = _record(folder, str(hydra.job.config_name), ours) if ours else ""
    failed = _train(ours, train) if ours else {}
    returns = []
    for job in jobs:
        returns.append(_replay(launcher, job, failed))
        if job.config is not None:  # much memory, which no sweeper reads
            returns[-1].cfg = returns[-1].hydra_cfg = None
            job.cfg = DictConfig({})
        configure_log(hydra.hydra_logging, hydra.verbose)
    if ours:
        _show_table(folder, name, ours, is_search)
    problems = _problems(ours, failed)
    if problems and is_search:  # it continues with the other trials
        log.warning("%s", problems)
    elif problems:
        raise TrainingError(problems)
    return returns


def _compose(launcher: StackedLauncher, overrides: Sequence[str], number: int) -> Job:
    log.debug("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
    cfg = launcher.compose(launcher.config, list(overrides))
    with flag_override(cfg.hydra, ["readonly", "struct"], [False, False]):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    if not {"data", "teacher", "student", "method"} <= set(cfg):
        return Job(cfg, None, Path())
    config = configuration.read(cfg)
    if config.trainer.strategy == "ddp":
        raise InputError("trainer=ddp shares one run between devices: leave it out of a sweep.")
    places: Any = OmegaConf.to_container(cfg.hydra.sweep)
    if places["subdir"] == "${run_name:}":
        cfg.hydra.sweep.subdir = run_name(config)  # resolving it would read the settings anew
    HydraConfig.instance().set_config(cfg)  # for ${hydra:...} in the folder's name
    directory = Path(str(cfg.hydra.sweep.dir)) / str(cfg.hydra.sweep.subdir)
    return Job(cfg, config, directory.absolute())


def _train(jobs: list[Job], train: Trainer) -> dict[str, str]:
    """Train what has no result yet; returns directory -> error, of the runs that failed.

    Raises:
        InputError: if runs of different settings would share a directory.
    """
    unique: dict[str, Job] = {}  # a cell that occurs twice in the grid runs once
    for job in jobs:
        other = unique.setdefault(str(job.directory), job)
        if config_hash(other.own) != config_hash(job.own):
            raise InputError(
                f"hydra.sweep.subdir: different runs would share {job.directory}; leave it out, or "
                "let it name all that differs."
            )
    todo = [job for job in unique.values() if job.own.force or not job.is_finished]
    for job in todo:
        if not job.own.force:
            runs.check_free(job.directory, config_hash(job.own))
        job.directory.mkdir(parents=True, exist_ok=True)
    groups = grid.groups([job.own for job in todo], [job.directory for job in todo])
    begun = sum((job.directory / "last.ckpt").exists() for job in todo)
    log.info(
        "%d runs: %d finished, %d to train in %d group%s of runs that can be stacked%s.",
        *(len(unique), len(unique) - len(todo), len(todo)),
        *(len(groups), "" if len(groups) == 1 else "s"),
        f"; {begun} continue where they stopped" if begun else "",
    )
    if not todo:
        return {}
    from noisy_kd.training.callbacks.progress import RunsBar

    shown = any("progress" in job.own.callbacks for job in todo)
    bar = RunsBar({directory: job.own for directory, job in unique.items()}, shown)
    try:
        return train(groups, bar)
    except InputError:
        for job in todo:
            runs.remove_if_untouched(job.directory)
        raise


def _replay(launcher: StackedLauncher, job: Job, failed: dict[str, str]) -> JobReturn:
    """Let Hydra run the job, which only returns the result of what is trained already."""
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


def _record(folder: Path, name: str, jobs: list[Job]) -> str:
    """Append the jobs to the record that reports read, and return the sweep's name."""
    from noisy_kd.report import sweeps

    name = name if name in sweeps.names() else sweeps.CUSTOM
    places = [os.path.relpath(job.directory, folder) for job in jobs]
    overrides = [list(job.cfg.hydra.overrides.task) for job in jobs]
    sweeps.record(folder, name, zip(places, overrides, strict=True))
    return name


def _show_table(folder: Path, name: str, jobs: list[Job], is_search: bool) -> None:
    """Print the table of the jobs, and write it for TensorBoard."""
    from noisy_kd.report import sweeps, tables

    results = [runs.read_result(job.directory) for job in jobs]
    if is_search and name == sweeps.CUSTOM:
        return
    report = tables.report(sweeps.read(name), [result for result in results if result])
    for table in report:
        tables.print_table(table)
    if any(job.own.logger.get("tensorboard") for job in jobs):
        with writing(folder / name):
            tables.add_to_tensorboard(report, folder / name)


def _problems(jobs: list[Job], failed: dict[str, str]) -> str:
    """Return which runs failed or diverged, by their reasons; empty if all are done."""
    wrong: dict[str, list[str]] = {}
    for job in jobs:
        result = runs.read_result(job.directory) or {}
        if str(job.directory) in failed:
            reason = f"failed, {failed[str(job.directory)]}"
        elif not job.is_finished:
            reason = "no result"
        elif result.get("status") == "diverged":
            reason = "diverged, try a smaller optimizer.lr"
        else:
            continue
        wrong.setdefault(reason, []).append(job.directory.name)
    count = sum(map(len, wrong.values()))
    listed = "; ".join(
        f"{', '.join(names[:3])}{', ...' * (len(names) > 3)} ({reason})"
        for reason, names in wrong.items()
    )
    return f"{count} of {len(jobs)} runs failed: {listed}." if wrong else ""
