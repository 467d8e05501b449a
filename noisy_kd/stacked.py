"""The stacking launcher at work: validate the grid, group its jobs, train each group at once.

Jobs that differ only in :data:`STACKABLE` keys form a group, which is trained in one stack
(``max_stack`` bounds it). Every job then goes through Hydra as if it had run alone: directory,
``.hydra/``, ``result.json``, return value, status.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from noisy_kd import command, runs
from noisy_kd import config as configuration
from noisy_kd.config import Config
from noisy_kd.errors import InputError

if TYPE_CHECKING:
    from noisy_kd.plugins.hydra_plugins.noisy_kd_stacked import StackedLauncher

log = logging.getLogger(__name__)

STACKABLE = (
    ("method", "alpha"),
    ("method", "sigma"),
    ("seed",),
    ("student", "dropout"),
    ("optimizer", "lr"),
    ("optimizer", "weight_decay"),
)


@dataclass
class Job:
    """One cell of the grid."""

    cfg: DictConfig
    config: Config | None  # None for an application that is not this project's
    directory: Path
    error: Exception | None = None


def launch(
    launcher: StackedLauncher, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Run the jobs of a sweep.

    Raises:
        InputError: if any job's settings are wrong; then nothing has been trained.
    """
    setup_globals()
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    Path(str(hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    jobs = [_compose(launcher, overrides, first + i) for i, overrides in enumerate(job_overrides)]
    for group in stacks([job for job in jobs if job.config is not None]):
        _train(group)
    returns = []
    for job in jobs:
        returns.append(_replay(launcher, job))
        configure_log(hydra.hydra_logging, hydra.verbose)
    return returns


def stacks(jobs: list[Job]) -> list[list[Job]]:
    """The jobs that have no result yet, in groups that can be trained side by side."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        assert job.config is not None
        done = runs.finished(job.directory, configuration.config_hash(job.config))
        if done is None or job.config.force:
            groups.setdefault(_unstackable(job.config), []).append(job)
    found = []
    for group in groups.values():
        size = group[0].config.max_stack or len(group)  # type: ignore[union-attr]
        found += [group[i : i + size] for i in range(0, len(group), size)]
    return found


def _unstackable(config: Config) -> str:
    """What all members of a stack share: everything but the stackable keys."""
    shared = asdict(config)
    for *parents, key in STACKABLE:
        node: Any = shared
        for parent in parents:
            node = node[parent]
        if key in node:
            node[key] = None
    return json.dumps(shared, sort_keys=True)


def _compose(launcher: StackedLauncher, overrides: Sequence[str], number: int) -> Job:
    log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
    cfg = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    if not {"data", "teacher", "student", "method"} <= set(cfg):
        return Job(cfg, None, Path())
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    config = configuration.read(own)
    state = Singleton.get_state()
    HydraConfig.instance().set_config(cfg)
    directory = Path(str(cfg.hydra.sweep.dir)) / str(cfg.hydra.sweep.subdir)
    Singleton.set_state(state)
    return Job(cfg, config, directory.absolute())


def _train(group: list[Job]) -> None:
    """Train a stack; what fails is written down for each of its jobs.

    Raises:
        InputError: if its data or networks cannot work.
    """
    from noisy_kd.callbacks.resume import saved_epoch
    from noisy_kd.training.run import run

    by_epoch: dict[int, list[Job]] = {}
    for job in group:
        assert job.config is not None
        job.directory.mkdir(parents=True, exist_ok=True)
        epoch = saved_epoch(job.directory / "last.ckpt", configuration.config_hash(job.config))
        by_epoch.setdefault(epoch, []).append(job)
    for jobs in by_epoch.values():
        locks = [FileLock(job.directory / "run.lock") for job in jobs]
        try:
            for lock in locks:
                lock.acquire()
            configs = [job.config for job in jobs if job.config is not None]
            for job, config in zip(jobs, configs, strict=True):
                command.forget(config, job.directory)
            run(configs, [job.directory for job in jobs])
        except InputError:
            for job in group:
                command.remove_if_untouched(job.directory)
            raise
        except Exception as error:
            log.exception("These runs failed: %s", ", ".join(job.directory.name for job in jobs))
            for job in jobs:
                job.error = error
        finally:
            for lock in locks:
                lock.release()


def _replay(launcher: StackedLauncher, job: Job) -> JobReturn:
    """Let Hydra run the job: what is trained already only gives its result."""
    task: Callable[[DictConfig], Any] = launcher.task_function
    if job.config is not None:

        def task(_: DictConfig) -> float | None:
            if job.error is not None:
                raise job.error
            return command.outcome(job.directory)

    return run_job(
        hydra_context=launcher.hydra_context,
        task_function=task,
        config=job.cfg,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
