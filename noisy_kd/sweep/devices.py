"""The parts of a sweep on the devices of this machine: a queue, and one process for each device."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from noisy_kd.config import Config
from noisy_kd.sweep import grid
from noisy_kd.sweep import part as work
from noisy_kd.sweep.grid import Part

if TYPE_CHECKING:
    from noisy_kd.training.callbacks.progress import RunsBar, Watch

DIED = "its process was killed{}; the machine may lack memory: try a smaller max_stack"


def available(config: Config, runs: int) -> list[str]:
    """The devices of a sweep: numbers of GPUs, or ``cpu`` once for each process.

    ``devices`` bounds them; by default all visible GPUs, or one process for each core.

    Args:
        config: of any run of the sweep.
        runs: how many there are to train.
    """
    import torch

    if config.trainer.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        found = (
            visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        )
    elif config.trainer.accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        found = ["mps"]
    else:
        found = ["cpu"] * (config.devices or cores())
    return found[: max(1, min(config.devices or len(found), runs))]


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def train_groups(groups: list[Part], bar: RunsBar) -> dict[str, str]:
    """Prepare all groups, then train them on the devices of this machine.

    Returns:
        Directory -> error, of the runs that failed.

    Raises:
        InputError: if a group's data or networks cannot work; then nothing has been trained.
    """
    devices = available(groups[0].configs[0], sum(map(len, groups)))
    ready, failed = work.prepare(groups, share=len(devices) > 1)
    with bar:
        return failed | train(grid.shared_out(ready, len(devices)), devices, bar.update)


@dataclass
class _Worker:
    """A process that trains parts on its device until it is told to stop."""

    device: str
    threads: int
    process: BaseProcess | None = None
    pipe: Connection | None = None
    part: Part | None = None

    def give(self, part: Part) -> None:
        if self.process is None or not self.process.is_alive():
            spawn = get_context("spawn")
            self.pipe, theirs = spawn.Pipe()
            arguments = (self.device, self.threads, theirs)
            self.process = spawn.Process(target=_serve, args=arguments, daemon=True)
            self.process.start()
            theirs.close()
        assert self.pipe is not None
        self.part = part
        self.pipe.send(part)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()


def train(parts: list[Part], devices: list[str], watch: Watch) -> dict[str, str]:
    """Train all parts, each on the next device that is free.

    Args:
        parts: in the order in which they are begun.
        devices: as :func:`available` names them; with one, this process does the work.
        watch: hears of every epoch.

    Returns:
        Directory -> error, of the runs that failed.
    """
    failed: dict[str, str] = {}
    if len(devices) == 1:
        for part in parts:
            failed |= work.train(part, watch)
        return failed
    workers = [_Worker(device, max(1, cores() // len(devices))) for device in devices]
    todo = deque(parts)
    try:
        while todo or any(worker.part for worker in workers):
            for worker in workers:
                if worker.part is None and todo:
                    worker.give(todo.popleft())
            for worker in _speaking(workers):
                _hear(worker, todo, failed, watch)
    finally:
        for worker in workers:
            worker.stop()
    return failed


def _speaking(workers: list[_Worker]) -> list[_Worker]:
    ready = connection.wait([w.pipe for w in workers if w.part and w.pipe])
    return [worker for worker in workers if worker.pipe in ready]


def _hear(worker: _Worker, todo: deque[Part], failed: dict[str, str], watch: Watch) -> None:
    """Take one message: an epoch, the end of the part, or (end of file) the process's death."""
    assert worker.part is not None and worker.pipe is not None and worker.process is not None
    part = worker.part
    try:
        kind, content = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        worker.part = None
        if len(part) > 1:  # perhaps it was the memory: half as many take half of it
            todo.extendleft(part.split(2))
        else:
            failed |= work.fail(part, RuntimeError(DIED.format(_by(worker.process.exitcode))))
        return
    if kind == "epoch":
        watch(content)
    else:
        failed.update(content)
        worker.part = None


def _by(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f" (exit code {exitcode})"
    return f" ({signal.Signals(-exitcode).name})"


def _serve(device: str, threads: int, pipe: Connection) -> None:
    """Train part after part in a worker process; end when the sweep's process has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep's process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device not in ("cpu", "mps"):
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import torch

    torch.set_num_threads(threads)

    def send(kind: str, content: Any) -> None:
        try:
            pipe.send((kind, content))
        except OSError:  # nobody listens any more: the sweep's process has ended
            os._exit(1)

    while True:
        try:
            part = pipe.recv()
        except EOFError:
            return
        send("done", work.train(part, lambda epochs: send("epoch", epochs)))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
