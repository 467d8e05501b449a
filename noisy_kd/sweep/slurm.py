"""The parts of a sweep as jobs of a Slurm cluster, through submitit: ``stacked_slurm``.

The command that started the sweep waits for the jobs and needs no device of its own. A job that
Slurm preempts or that runs out of time is queued again and continues from its checkpoints.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from noisy_kd.errors import InputError, TrainingError
from noisy_kd.sweep import grid, queue
from noisy_kd.sweep import part as work
from noisy_kd.sweep.grid import Part
from noisy_kd.training.callbacks.progress import RunsBar

try:
    import submitit
except ImportError as error:
    text = "hydra/launcher=stacked_slurm needs submitit: pip install -e '.[slurm]'."
    raise InputError(text) from error


class Resumable(submitit.helpers.Checkpointable):
    """A call that submitit queues again, from its checkpoints, when Slurm ends it early."""

    def __call__(self, function: Callable[..., Any], argument: Any) -> Any:
        """Call the function; where Slurm does not bind processes, torch would use all cores."""
        if cores := os.environ.get("SLURM_CPUS_PER_TASK"):
            os.environ["LOKY_MAX_CPU_COUNT"] = cores  # what joblib then counts
        return function(argument)


def train_groups(groups: list[Part], bar: RunsBar, settings: Mapping[str, Any]) -> dict[str, str]:
    """Prepare all groups in one job, then train their parts in others.

    Returns:
        Directory -> error, of the runs that failed.

    Raises:
        InputError: without Slurm, or if data or networks cannot work.
        TrainingError: if the job that makes the teachers failed.
    """
    submit = submitter(settings)
    job = submit(_prepare, groups)
    try:
        error = job.exception()
    except BaseException:
        job.cancel()
        raise
    if error is not None:
        why = " ".join(str(error).split())
        raise TrainingError(f"the job that makes the teachers failed: {why}")
    failed: dict[str, str]
    wrong, ready, failed = job.result()
    if wrong:
        raise InputError(wrong)
    slots = range(int(settings["jobs"]))
    parts = grid.shared_out(ready, len(slots))
    with bar:
        more = queue.drain(parts, slots, lambda _, p: submit(work.train, p), bar.refresh, pause=2.0)
    return failed | more


def _prepare(groups: list[Part]) -> tuple[str, list[Part], dict[str, str]]:
    """In a job: prepare the groups; first, what is wrong with them."""
    try:
        return "", *work.prepare(groups)
    except InputError as error:
        return str(error), [], {}


def submitter(settings: Mapping[str, Any]) -> Callable[..., Any]:
    """Return what submits the call of a function and returns its job.

    Raises:
        InputError: without Slurm where ``cluster=slurm``.
    """
    Path(settings["folder"]).mkdir(parents=True, exist_ok=True)
    try:
        executor = submitit.AutoExecutor(folder=settings["folder"], cluster=settings["cluster"])
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "Slurm was not found (no sbatch): use hydra/launcher=stacked on one machine, or "
            "hydra.launcher.cluster=local to try."
        ) from error
    known = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")
    given = {key: settings[key] for key in known if settings[key] is not None}
    if settings["cluster"] == "slurm":
        given["slurm_additional_parameters"] = dict(settings["additional"])
        given |= {"slurm_partition": settings["partition"]} if settings["partition"] else {}
    executor.update_parameters(name="noisy-kd", **given)
    logging.getLogger("submitit").propagate = False  # it has a handler of its own

    def submit(function: Callable[..., Any], argument: Any) -> Any:
        try:
            return executor.submit(Resumable(), function, argument)  # type: ignore[no-untyped-call]
        except Exception as error:  # submitit's, with what sbatch has said
            raise InputError(f"Slurm refuses the job: {' '.join(str(error).split())}") from error

    return submit
