"""The queue of a sweep: its parts on the devices of this machine, or as jobs of a cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from typing import TYPE_CHECKING, Any

from joblib import cpu_count

from noisy_kd.config import Config
from noisy_kd.errors import TrainingError
from noisy_kd.sweep import grid
from noisy_kd.sweep import part as work
from noisy_kd.sweep.grid import Part

if TYPE_CHECKING:
    from noisy_kd.training.callbacks.progress import RunsBar

KILLED = "the process was killed; if memory ran out, use a smaller max_stack."


def available(config: Config, runs: int) -> list[str]:
    """Return the devices of a sweep of so many runs: numbers of GPUs, or ``cpu`` per process.

    ``devices`` limits them; the default is all visible GPUs, or one process per core.
    """
    import torch

    if config.trainer.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
        devices = list(names)
    elif config.trainer.accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        devices = ["mps"]
    else:
        devices = ["cpu"] * (config.devices or cpu_count())
    return devices[: max(1, min(config.devices or len(devices), runs))]


def train_groups(groups: list[Part], bar: RunsBar) -> dict[str, str]:
    """Prepare all groups, then train them on the devices of this machine.

    Returns:
        Directory -> error, of the runs that failed.

    Raises:
        InputError: if a group's data or networks cannot work; then nothing has been trained.
    """
    devices = available(groups[0].configs[0], sum(map(len, groups)))
    ready, failed = work.prepare(groups)
    with bar:
        return failed | train(grid.shared_out(ready, len(devices)), devices, bar.refresh)


def train(parts: Sequence[Part], devices: list[str], refresh: Callable[[], None]) -> dict[str, str]:
    """Train all parts; with several devices in one process for each.

    Returns:
        Directory -> error, of the runs that failed.
    """
    if len(devices) == 1:
        return {place: why for part in parts for place, why in work.train(part, refresh).items()}
    threads = max(1, cpu_count() // len(devices))
    pools = [_process(device, threads) for device in devices]

    def submit(slot: int, part: Part) -> Any:
        try:
            return pools[slot].submit(work.train, part)
        except BrokenProcessPool:
            pools[slot] = _process(devices[slot], threads)
            return pools[slot].submit(work.train, part)

    try:
        return drain(parts, range(len(devices)), submit, refresh, pause=0.3)
    finally:
        for process in active_children():
            process.kill()
            process.join()


def drain(
    parts: Sequence[Part],
    slots: Sequence[int],
    submit: Callable[[int, Part], Any],
    refresh: Callable[[], None],
    pause: float,
) -> dict[str, str]:
    """Submit every part to the next free slot until all are done.

    A part whose process ended early is submitted again in two halves: perhaps memory ran out.

    Args:
        parts: in the order in which they start.
        slots: how many parts are trained at the same time.
        submit: starts a part in a slot; returns a ``concurrent.futures.Future`` or its like.
        refresh: shows the progress.
        pause: seconds between two looks at the jobs.

    Returns:
        Directory -> error, of the runs that failed.
    """
    failed: dict[str, str] = {}
    waiting = deque(parts)
    running: dict[int, tuple[Any, Part]] = {}
    try:
        while waiting or running:
            for slot in slots:
                if waiting and slot not in running:
                    part = waiting.popleft()
                    running[slot] = (submit(slot, part), part)
            time.sleep(pause)
            refresh()
            for slot, (job, part) in list(running.items()):
                if not job.done():
                    continue
                del running[slot]
                error = job.exception()
                if error is None:
                    failed |= job.result()
                elif len(part) > 1:
                    waiting.extendleft(part.split(2))
                else:
                    is_kill = isinstance(error, BrokenProcessPool)
                    failed |= work.fail(part, TrainingError(KILLED) if is_kill else error)
    finally:
        for job, _ in running.values():
            job.cancel()
    return failed


def _process(device: str, threads: int) -> ProcessPoolExecutor:
    """Return an executor of one process, for one device."""
    start = partial(_start, device, threads)
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=start)


def _start(device: str, threads: int) -> None:
    """Set up a process for its device; it ends with the process of the sweep."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep's process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device not in ("cpu", "mps"):
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import torch

    torch.set_num_threads(threads)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
