"""Runs on disk: a run's directory and its result, its identity, the store of teachers and logits.

``result.json`` is the one source of every table; this module reads it without torch.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from noisy_kd.data import files
from noisy_kd.data.files import read_json as read_json
from noisy_kd.errors import DamagedError, InputError, TrainingError

if TYPE_CHECKING:
    from torch import nn

Result = dict[str, Any]

TEACHER_LOGITS = "teacher_logits.pt"  # of the test images, of several teachers the combined

OWN_FILES = ("student.pt", "preprocessing.pt", TEACHER_LOGITS)
"""Files whose digests a result holds."""

UNTOUCHED = {".hydra", "train.log", "run.lock", "run.holder"}
"""What Hydra leaves in a run's directory before the run has begun."""

WITHOUT_TEACHER = ("supervised",)
"""Methods whose numbers no teacher decides."""


def read_result(directory: Path) -> Result | None:
    """Return the run's result, or None if it has none (yet)."""
    return read_json(directory / "result.json")


def write_result(directory: Path, result: Result) -> None:
    """Write ``result.json`` whole or not at all."""
    files.write_json(directory / "result.json", result)


def finished(directory: Path, config_hash: str) -> Result | None:
    """Return the result of exactly this configuration, unless the run failed."""
    result = read_result(directory) or {}
    is_finished = result.get("config_hash") == config_hash and result.get("status") != "failed"
    return result if is_finished else None


def check_free(directory: Path, config_hash: str) -> None:
    """Refuse a directory that holds the result of another run.

    Raises:
        InputError: naming it.
    """
    held = read_result(directory)
    if held and held.get("status") != "failed" and held.get("config_hash") != config_hash:
        raise InputError(
            f"{directory} holds the result of another run ({held.get('method')}, seed "
            f"{held.get('seed')}): choose another hydra.run.dir, or replace it by force=true."
        )


def check_is_of_a_run(directory: Path) -> None:
    """Refuse a directory with files of other programs that a run would replace.

    Raises:
        InputError: naming one.
    """
    signs = ("result.json", *UNTOUCHED)
    replaced = (*OWN_FILES, "config.yaml", "metrics.csv", "last.ckpt", "latency.json")
    held = [name for name in replaced if (directory / name).exists()]
    if held and not any((directory / name).exists() for name in signs):
        raise InputError(
            f"{directory} holds {held[0]}, but not of a run: choose another hydra.run.dir."
        )


def remove_outputs(directory: Path) -> None:
    """Remove what the run has written: result, student, checkpoint, curves, evaluation."""
    for pattern in (
        *("result.json", "student.pt", "preprocessing.pt", TEACHER_LOGITS, "last.ckpt"),
        *("metrics.csv", "evaluation*.json", "latency.json", "events.out.*"),
        *("student*.onnx*", "student*.pt2*", "student*.safetensors*"),
    ):
        for file in directory.glob(pattern):
            file.unlink(missing_ok=True)


def results(root: Path) -> Iterator[tuple[Path, Result]]:
    """Yield every finished run directly below a folder."""
    for file in sorted(root.glob("*/result.json")):
        result = read_result(file.parent)
        if result is not None:
            yield file.parent, result


def baseline_of(result: Result, root: Path) -> Result | None:
    """Return the logit regression run with the same settings and seed, if it is below ``root``."""
    expected = (result["settings_hash"], "logit_regression", "done")
    for _, other in results(root):
        if tuple(map(other.get, ("settings_hash", "method", "status"))) == expected:
            return other
    return None


def outcome(directory: Path) -> float | None:
    """Return the validation error of a run, for a sweeper.

    Raises:
        TrainingError: if the run diverged or has no result.
    """
    result = read_result(directory)
    if result is None:
        raise TrainingError(f"{directory} holds no result.")
    if result["status"] == "diverged":
        raise TrainingError(
            f"{directory}: the loss is no longer finite; try a smaller optimizer.lr."
        )
    error: float | None = result["val_error"]
    return error


def remove_if_untouched(directory: Path) -> None:
    """Remove a run's directory in which nothing has been done and no process works."""
    if not directory.is_dir():
        return
    with suppress(Timeout, OSError, InputError), files.locked(directory / "run.lock", timeout=0):
        untouched = {file.name for file in directory.iterdir()} <= UNTOUCHED
        if untouched and not directory.samefile(Path.cwd()):
            shutil.rmtree(directory)


def load_student(directory: str | Path, allow: Sequence[str] = ()) -> nn.Module:
    """Return the finished student of a run, in eval mode, on the CPU.

    Its input is preprocessed images.

    Args:
        directory: of the run, which may be somebody else's: its files run no code.
        allow: packages or modules whose classes and functions its files may name, beside those of
            noisy_kd, torch, torchvision, timm and lightning: ``["my_nets"]``.

    Raises:
        InputError: if the directory holds no finished student, its training did not end well, or
            its files name code that is not allowed.
    """
    from noisy_kd.model import network

    result = read_result(Path(directory))
    file = Path(directory) / "student.pt"
    if result is not None and result.get("status") in ("diverged", "failed"):
        raise InputError(f"{directory}: its training {result['status']}: change its settings.")
    if result is None or not file.exists():
        raise InputError(f"{directory} holds no finished student: name a run's directory.")
    weights = read_tensors(file)
    try:
        shape, classes = tuple(result["input_shape"]), len(result["classes"])
        student = result["settings"]["student"]
        net = network.from_settings(student, result["student_layers"], shape, classes, allow)
        net.load_state_dict(weights)
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error
    except Exception as error:  # whatever follows from fields that are missing or wrong
        raise InputError(
            f"{directory}: result.json and student.pt do not fit ({files.reason(error)}): "
            "force=true makes the run again."
        ) from error
    return net.eval()


def load_preprocessing(directory: str | Path, allow: Sequence[str] = ()) -> nn.Module:
    """Return the module from uint8 images [B, C, H, W] to the input of a run's student.

    The arguments are those of :func:`load_student`.

    Raises:
        InputError: if the directory does not hold it, or it is of code that cannot be imported or
            is not allowed.
    """
    from noisy_kd.data import preprocessing

    file = Path(directory) / "preprocessing.pt"
    if not file.exists():
        raise InputError(f"{directory} holds no finished student: name a run's directory.")
    content = read_tensors(file)
    fields = content if isinstance(content, dict) else {}
    kind, state = fields.get("kind"), fields.get("state")
    if not isinstance(kind, str) or not isinstance(state, dict):
        raise InputError(f"{file} names no preprocessing: force=true makes the run again.")
    try:
        return preprocessing.restored(kind, state, allow)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def file_digest(path: str, key: str = "") -> str:
    """Return a fingerprint of a file's content; messages begin with the key of its path."""
    where = f"{key}{'=' * bool(key)}{path}"
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise InputError(f"{where} cannot be read (it is not a file): name a file.")
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise InputError(f"{where} cannot be read ({error.strerror}): name a file.") from error


def read_tensors(file: Path) -> Any:
    """Return what a file of a finished run holds: tensors and plain values.

    Raises:
        DamagedError: if it holds anything else, or is damaged.
    """
    try:
        content = files.read_tensors(file)
        digest = (read_result(file.parent) or {}).get("digests", {}).get(file.name)
        if digest not in (None, file_digest(str(file))):
            raise DamagedError(f"{file} is not what this run has written.")
        return content
    except DamagedError as error:
        raise DamagedError(f"{error} force=true makes the run again.") from error
