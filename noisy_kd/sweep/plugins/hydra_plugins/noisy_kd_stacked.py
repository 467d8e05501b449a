"""Hydra plugins: ``sweeps/`` on the search path, and the launcher ``hydra/launcher=stacked``.

Hydra imports this file at every start, so what is heavy lies in :mod:`noisy_kd.sweep`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from noisy_kd.config import SWEEPS
from noisy_kd.runs.identity import register_resolvers

register_resolvers()  # here, because every process that Hydra runs in imports this file


class SweepsSearchPath(SearchPathPlugin):
    """Makes ``python train.py -cn table1`` find ``sweeps/table1.yaml``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder."""
        search_path.append("noisy-kd", f"file://{SWEEPS}")


@dataclass
class StackedLauncherConf:
    """Configuration of the launcher."""

    _target_: str = "hydra_plugins.noisy_kd_stacked.StackedLauncher"


ConfigStore.instance().store(
    group="hydra/launcher", name="stacked", node=StackedLauncherConf, provider="noisy-kd"
)


@dataclass
class StackedSlurmConf:
    """Configuration of the launcher for Slurm.

    ``jobs`` parts are trained at once, each with ``gpus_per_node`` GPUs (1 is enough) and
    ``cpus_per_task`` cores for ``timeout_min`` minutes at most; ``additional`` are further
    parameters of sbatch. ``cluster=local`` runs the jobs as processes on this machine.
    """

    _target_: str = "hydra_plugins.noisy_kd_stacked.StackedSlurmLauncher"
    cluster: str = "slurm"
    folder: str = "${hydra.sweep.dir}/slurm"
    jobs: int = 4
    timeout_min: int = 240
    cpus_per_task: int = 4
    gpus_per_node: int | None = None
    mem_gb: int | None = None
    partition: str | None = None
    additional: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(
    group="hydra/launcher", name="stacked_slurm", node=StackedSlurmConf, provider="noisy-kd"
)


class StackedLauncher(Launcher):
    """Trains the jobs of a sweep that differ only in stackable keys side by side."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Remember what Hydra hands over, and compose jobs from each other."""
        from noisy_kd.sweep import compose

        self.compose = compose.share(hydra_context.config_loader)
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs; each keeps its own directory, ``.hydra/``, result and status."""
        from noisy_kd.sweep import launch, queue

        return launch.launch(self, job_overrides, initial_job_idx, queue.train_groups)


class StackedSlurmLauncher(StackedLauncher):
    """The same stacks as jobs of a Slurm cluster, through submitit."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs; each keeps its own directory, ``.hydra/``, result and status."""
        from noisy_kd.sweep import launch, slurm

        train = partial(slurm.train_groups, settings=self.settings)
        return launch.launch(self, job_overrides, initial_job_idx, train)
