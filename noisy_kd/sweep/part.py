"""One process's work in a sweep: prepare what groups share, and train a part."""

from __future__ import annotations

import gc
import traceback
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from noisy_kd import runs
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.runs.identity import config_hash
from noisy_kd.sweep.grid import Part

if TYPE_CHECKING:
    from noisy_kd.data import ImageDataModule
    from noisy_kd.training.callbacks.progress import Watch


def prepare(groups: list[Part], share: bool) -> tuple[list[Part], dict[str, str]]:
    """Check the groups against their data, and make their teachers and logits, once.

    Args:
        groups: runs that differ only in stackable keys.
        share: whether several processes will need the images.

    Returns:
        The groups with their images (in memory, or with ``share`` as a file in the store), but for
        those whose teachers failed; and directory -> error of these.

    Raises:
        InputError: if the data cannot be read, or a network does not fit: before any training.
    """
    from noisy_kd.training import stages
    from noisy_kd.training.shared_images import share_images

    read: dict[str, ImageDataModule] = {}
    checked = []
    for group in groups:
        settings = repr(group.configs[0].data)
        prepared = stages.prepare(group.configs, read.get(settings))
        read[settings] = prepared.data
        checked.append((group, prepared))
    ready: list[Part] = []
    failed: dict[str, str] = {}
    for group, prepared in checked:
        data, first = prepared.data, group.configs[0]
        data.to(prepared.numerics.device)
        try:
            stages.teacher_outputs(prepared, group.directories[0] / "teacher")
        except InputError:
            raise
        except Exception as error:
            fail(group, error)
            failed |= dict.fromkeys(map(str, group.directories), message(error))  # forced ones too
            continue
        for config, directory in zip(group.configs, group.directories, strict=True):
            if config.force:  # now that nothing is known to be wrong
                with FileLock(directory / "run.lock"):
                    runs.forget(directory)
        ready.append(replace(group, data=share_images(data, Path(first.store)) if share else data))
    return ready, failed


def train(part: Part, watch: Watch | None = None) -> dict[str, str]:
    """Train what has no result yet; a stack that does not fit in memory is halved and goes on.

    Returns:
        Directory -> error, of the runs that failed; their ``result.json`` says so too.
    """
    failed: dict[str, str] = {}
    for stack in _by_saved_epoch(part):
        try:
            _train(stack, watch)
        except Exception as error:
            if _is_out_of_memory(error) and len(stack) > 1:
                del error
                _free_memory()
                for half in stack.split(2):
                    failed |= train(half, watch)
            else:
                failed |= fail(stack, error)
    return failed


def fail(part: Part, error: BaseException) -> dict[str, str]:
    """Write down that these runs failed, but for finished ones; returns directory -> error."""
    from noisy_kd.training.stages import write_failed

    text = trace = message(error)
    if not isinstance(error, (InputError, TrainingError)):
        trace = "".join(traceback.format_exception(error))
    failed = {}
    for config, directory in zip(part.configs, part.directories, strict=True):
        if runs.finished(directory, config_hash(config)) is None:
            directory.mkdir(parents=True, exist_ok=True)
            write_failed(config, directory, text)
            with (directory / "train.log").open("a") as log:
                log.write(f"{trace}\n")
            failed[str(directory)] = text
    return failed


def message(error: BaseException) -> str:
    """Return an error in a line; those of this project without their type."""
    own = isinstance(error, (InputError, TrainingError))
    return str(error) if own else f"{type(error).__name__}: {error}"


def _train(part: Part, watch: Watch | None) -> None:
    from noisy_kd.training.shared_images import shared_data
    from noisy_kd.training.stages import run

    with ExitStack() as locks:
        for directory in sorted(part.directories):  # in one order, so that none waits in a ring
            locks.enter_context(FileLock(directory / "run.lock"))
        todo = [  # another process may have trained some meanwhile
            (config, directory)
            for config, directory in zip(part.configs, part.directories, strict=True)
            if runs.finished(directory, config_hash(config)) is None
        ]
        if todo:
            data = part.data
            if isinstance(data, Path):
                data = shared_data(todo[0][0], data)
            run([config for config, _ in todo], [where for _, where in todo], data, watch)


def _by_saved_epoch(part: Part) -> list[Part]:
    """A stack goes on from one epoch: interrupted runs beside those as far as they."""
    from noisy_kd.training.callbacks.resume import saved_epoch

    found: dict[int, Part] = {}
    for config, directory in zip(part.configs, part.directories, strict=True):
        directory.mkdir(parents=True, exist_ok=True)
        epoch = saved_epoch(directory / "last.ckpt", config_hash(config))
        stack = found.setdefault(epoch, Part([], [], part.data))
        stack.configs.append(config)
        stack.directories.append(directory)
    return list(found.values())


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
