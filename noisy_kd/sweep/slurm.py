"""The parts of a sweep as jobs of a Slurm cluster, through submitit.

This is ``hydra/launcher=stacked_slurm``.
The command that started the sweep waits for the jobs and needs no device of its own. A job that
Slurm preempts or that runs out of time is queued again and goes on from its checkpoints.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from noisy_kd import runs
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.runs.identity import config_hash
from noisy_kd.sweep import grid
from noisy_kd.sweep import part as work
from noisy_kd.sweep.grid import Part
from noisy_kd.training.callbacks.progress import RunsBar

POLL = 2.0  # seconds between two looks at the jobs
MEMORY = ("OUT_OF_MEMORY", "OOM")


class Resumable:
    """A call that submitit queues again, from its checkpoints, when Slurm ends it early.

    Args:
        function: what the job does.
        arguments: of the function.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __call__(self) -> Any:
        import torch

        cores = os.environ.get("SLURM_CPUS_PER_TASK")
        if cores:  # where Slurm does not bind processes, torch would take all cores of the node
            torch.set_num_threads(int(cores))
        return self.function(*self.arguments)

    def checkpoint(self) -> Any:
        """What submitit submits in its place."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def train_groups(groups: list[Part], bar: RunsBar, settings: Mapping[str, Any]) -> dict[str, str]:
    """Prepare all groups in one job, then train their parts in others.

    Args:
        groups: runs that differ only in stackable keys.
        bar: shows how many runs are finished.
        settings: of the launcher, see ``StackedSlurmConf``.

    Returns:
        Directory -> error, of the runs that failed.

    Raises:
        InputError: without submitit or Slurm, or if data or networks cannot work.
    """
    submit = submitter(settings)
    ready, failed = _prepared(submit, groups)
    with bar:
        jobs = int(settings["jobs"])
        return failed | _train(grid.shared_out(ready, jobs), bar, submit, jobs)


def _prepared(
    submit: Callable[[Callable[[], Any]], Any], groups: list[Part]
) -> tuple[list[Part], dict[str, str]]:
    """What :func:`noisy_kd.sweep.part.prepare` gives, from a job."""
    job = _submitted(submit, Resumable(_prepare, groups))
    try:
        error = job.exception()
    except BaseException:
        job.cancel()
        raise
    if error is not None:
        raise TrainingError(
            f"the job that makes the teachers failed: {' '.join(str(error).split())}"
        )
    content = job.result()
    if isinstance(content, str):
        raise InputError(content)
    ready, failed = content
    return ready, failed


def _submitted(submit: Callable[[Callable[[], Any]], Any], call: Callable[[], Any]) -> Any:
    """The job of a call.

    Raises:
        InputError: if the cluster does not take it.
    """
    try:
        return submit(call)
    except Exception as error:  # submitit's, with what sbatch has said
        raise InputError(f"Slurm refuses the job: {' '.join(str(error).split())}") from error


def submitter(settings: Mapping[str, Any]) -> Callable[[Callable[[], Any]], Any]:
    """Hands a call to the cluster; returns its job.

    Raises:
        InputError: without submitit, or without Slurm where ``cluster=slurm``.
    """
    try:
        import submitit
    except ImportError as error:
        text = "hydra/launcher=stacked_slurm needs submitit: pip install -e '.[slurm]'."
        raise InputError(text) from error
    try:
        executor = submitit.AutoExecutor(folder=settings["folder"], cluster=settings["cluster"])
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "no Slurm here (sbatch is not found): take hydra/launcher=stacked on one machine, or "
            "hydra.launcher.cluster=local to try."
        ) from error
    known = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")
    given = {key: settings[key] for key in known if settings[key] is not None}
    if settings["cluster"] == "slurm":
        given["slurm_additional_parameters"] = dict(settings["additional"])
        given |= {"slurm_partition": settings["partition"]} if settings["partition"] else {}
    executor.update_parameters(name="noisy-kd", **given)
    logging.getLogger("submitit").propagate = False  # it has a handler of its own
    submit: Callable[[Callable[[], Any]], Any] = executor.submit
    return submit


def _prepare(groups: list[Part]) -> tuple[list[Part], dict[str, str]] | str:
    """In a job: the groups with their images in the store, or what is wrong with them."""
    try:
        return work.prepare(groups, share=True)
    except InputError as error:
        return str(error)


def _train(
    parts: list[Part], bar: RunsBar, submit: Callable[..., Any], most: int
) -> dict[str, str]:
    """Train the parts in jobs, at most so many at once."""
    failed: dict[str, str] = {}
    todo = deque(parts)
    jobs: list[tuple[Any, Part]] = []
    try:
        while todo or jobs:
            while todo and len(jobs) < most:
                part = todo.popleft()
                jobs.append((_submitted(submit, Resumable(work.train, part)), part))
            time.sleep(POLL)
            _show(parts, bar)
            for job, part in [(job, part) for job, part in jobs if job.done()]:
                jobs.remove((job, part))
                todo.extendleft(_end(job, part, failed))
    finally:
        for job, _ in jobs:
            job.cancel()
    _show(parts, bar)
    return failed


def _end(job: Any, part: Part, failed: dict[str, str]) -> list[Part]:
    """Take a job's outcome; returns what to submit again, in halves, after a lack of memory."""
    error = job.exception()
    if error is None:
        failed |= job.result()
        return []
    lacks_memory = any(word in f"{job.state} {error}" for word in MEMORY)
    if lacks_memory and len(part) > 1:
        return part.split(2)
    failed |= work.fail(part, error)
    return []


def _show(parts: list[Part], bar: RunsBar) -> None:
    for part in parts:
        for config, directory in zip(part.configs, part.directories, strict=True):
            result = runs.finished(directory, config_hash(config))
            if result is not None:
                error = result["val_error"]
                metrics = {} if error is None else {"val_error": error}
                bar.update({str(directory): (config.trainer.max_epochs, metrics)})


def with_settings(settings: Mapping[str, Any]) -> Callable[[list[Part], RunsBar], dict[str, str]]:
    """:func:`train_groups` with these settings."""
    Path(settings["folder"]).mkdir(parents=True, exist_ok=True)
    return partial(train_groups, settings=settings)
