"""One process's work in a sweep: prepare what groups share, and train a part."""

import gc
import traceback
from collections.abc import Callable
from contextlib import ExitStack

from noisy_kd import runs
from noisy_kd.data import files
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.runs.identity import config_hash
from noisy_kd.sweep.grid import Part


def prepare(groups: list[Part]) -> tuple[list[Part], dict[str, str]]:
    """Check the groups against their data, and make their teachers and logits, once.

    Returns:
        The groups, without those whose teachers failed; and directory -> error of these.

    Raises:
        InputError: if the data cannot be read, or a network does not fit: before any training.
    """
    from noisy_kd.training import stages

    checked = [(group, stages.prepare(group.configs)) for group in groups]
    ready: list[Part] = []
    failed: dict[str, str] = {}
    for group, prepared in checked:
        try:
            stages.teacher_outputs(prepared, group.directories[0] / "teacher")
        except InputError:
            raise
        except Exception as error:
            fail(group, error)
            failed |= dict.fromkeys(map(str, group.directories), message(error))  # forced ones too
            continue
        ready.append(group)
    for config, directory in (pair for group in ready for pair in group):
        if config.force:  # now that nothing is known to be wrong
            with files.locked(directory / "run.lock"):
                runs.remove_outputs(directory)
    return ready, failed


def train(part: Part, refresh: Callable[[], None] | None = None) -> dict[str, str]:
    """Train what has no result yet; a stack that does not fit in memory is halved and continues.

    Args:
        part: runs that differ only in stackable keys.
        refresh: is called after each epoch, and shows the progress in place of a progress bar.

    Returns:
        Directory -> error, of the runs that failed; their ``result.json`` says so too.
    """
    failed: dict[str, str] = {}
    for stack in _by_saved_epoch(part):
        try:
            _train(stack, refresh)
        except Exception as error:
            if _is_out_of_memory(error) and len(stack) > 1:
                del error
                _free_memory()
                for half in stack.split(2):
                    failed |= train(half, refresh)
            else:
                failed |= fail(stack, error)
    return failed


def fail(part: Part, error: BaseException) -> dict[str, str]:
    """Record that these runs failed, except finished ones; returns directory -> error."""
    from noisy_kd.training.stages import write_failed

    text = trace = message(error)
    if not isinstance(error, (InputError, TrainingError)):
        trace = "".join(traceback.format_exception(error))
    failed = {}
    for config, directory in part:
        if runs.finished(directory, config_hash(config)) is None:
            directory.mkdir(parents=True, exist_ok=True)
            write_failed(config, directory, text)
            with (directory / "train.log").open("a", encoding="utf-8") as log:
                log.write(f"{trace}\n")
            failed[str(directory)] = text
    return failed


def message(error: BaseException) -> str:
    """Return an error in one line; without the type if it is one of this project."""
    if (disk := files.disk_error(error)) is not None and not isinstance(error, InputError):
        return files.unwritable(disk.filename or "a file", disk)
    own = isinstance(error, (InputError, TrainingError))
    return str(error) if own else f"{type(error).__name__}: {error}"


def _train(part: Part, refresh: Callable[[], None] | None) -> None:
    from noisy_kd.training.stages import run

    with ExitStack() as locks:
        for directory in sorted(part.directories):  # lock in a fixed order to avoid deadlock
            locks.enter_context(files.locked(directory / "run.lock"))
        todo = [  # another process may have trained some meanwhile
            pair for pair in part if runs.finished(pair[1], config_hash(pair[0])) is None
        ]
        if todo:
            configs, directories = zip(*todo, strict=True)
            run(list(configs), list(directories), refresh)


def _by_saved_epoch(part: Part) -> list[Part]:
    """Interrupted runs continue in stacks of those that stopped at the same epoch."""
    from noisy_kd.training.callbacks.resume import saved_epoch

    stacks: dict[int, Part] = {}
    for config, directory in part:
        directory.mkdir(parents=True, exist_ok=True)
        epoch = saved_epoch(directory / "last.ckpt", config_hash(config))
        stacks.setdefault(epoch, Part()).add(config, directory)
    return list(stacks.values())


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    types = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, types) or "can't allocate memory" in str(error)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
