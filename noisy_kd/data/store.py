"""Content-addressed store of what is made once: trained teachers and their logits.

An entry's key is a hash of everything that decides its bytes, this code's version included. It is
written under a temporary name and renamed when whole, its checksum is verified when it is read,
and a lock lets one process make what others wait for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from noisy_kd.errors import InputError

log = logging.getLogger(__name__)

SAME = ("kind", "data", "layers")
VERSION = 3  # of the code that decides the bytes; raise it when a change here alters results


def key_of(kind: str, made_by: dict[str, Any]) -> str:
    """Name of an entry: its kind and a hash of everything that decides its bytes."""
    text = json.dumps({"version": VERSION, "kind": kind, **made_by}, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def get_or_make(
    store: Path, kind: str, made_by: dict[str, Any], make: Callable[[Path], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry's tensors, made first if they are not there.

    Args:
        store: the store's folder.
        kind: ``teacher`` or ``logits``.
        made_by: everything that decides the bytes, as JSON values.
        make: makes the content, a dict with ``tensors`` and ``facts`` (JSON values to remember);
            its argument is a folder for unfinished work, kept if it is interrupted.

    Returns:
        The tensors and the facts. A damaged entry is made again, and a warning says so.

    Raises:
        InputError: if the store's folder cannot be written.
    """
    import torch

    entry = store / key_of(kind, made_by)
    try:
        store.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{entry}.lock")
        lock.acquire()
    except OSError as error:
        raise InputError(
            f"store={store} cannot be written ({error.strerror}): choose another folder."
        ) from error
    with lock:
        if not _is_sound(entry):
            work = entry.with_name(f"{entry.name}.unfinished")
            work.mkdir(exist_ok=True)
            _write(entry, kind, made_by, make(work))
            shutil.rmtree(work)
        lock.release()
    facts = json.loads((entry / "entry.json").read_text())["facts"]
    return torch.load(entry / "tensors.pt", weights_only=True, mmap=True), facts


def _write(entry: Path, kind: str, made_by: dict[str, Any], content: dict[str, Any]) -> None:
    import torch

    temporary = entry.with_name(f"{entry.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    torch.save(content["tensors"], temporary / "tensors.pt")
    about = {
        "kind": kind,
        "made_by": made_by,
        "facts": content["facts"],
        "checksum": _checksum(temporary / "tensors.pt"),
        "made": time.strftime("%Y-%m-%d %H:%M"),
    }
    (temporary / "entry.json").write_text(json.dumps(about, indent=1))
    shutil.rmtree(entry, ignore_errors=True)
    temporary.rename(entry)


def _is_sound(entry: Path) -> bool:
    try:
        about = json.loads((entry / "entry.json").read_text())
        if about["checksum"] == _checksum(entry / "tensors.pt"):
            return True
    except FileNotFoundError:
        if not entry.exists():
            return False
    except (ValueError, KeyError, TypeError):
        pass
    log.warning("%s is damaged and is made again.", entry)
    return False


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def in_words(facts: dict[str, Any]) -> str:
    """Return facts in words, errors as percentages."""
    words = [
        f"{key.replace('_', ' ')} {value:.2%}"
        if key.endswith("error") and value is not None
        else f"{key} {value}"
        for key, value in facts.items()
    ]
    return ", ".join(words)


def entries(store: Path) -> list[tuple[Path, dict[str, Any], int]]:
    """Every finished entry: its folder, what is known of it, its size in bytes."""
    found = []
    for file in sorted(store.glob("*/entry.json")):
        try:
            about = json.loads(file.read_text())
            about["made_by"]["layers"], about["facts"].items()
        except (ValueError, KeyError, TypeError, AttributeError):
            about = {"made": "damaged", "made_by": {"data": "", "layers": ""}, "facts": {}}
        found.append((file.parent, about, sum(f.stat().st_size for f in file.parent.iterdir())))
    return found


def differing(made: list[dict[str, Any]]) -> list[str]:
    """Return for each entry the settings that differ among those of its kind, data and layers."""
    words = []
    for settings in made:
        like = [one for one in made if all(one.get(k) == settings.get(k) for k in SAME)]
        own = {
            key: value
            for key, value in settings.items()
            if key != "classes" and any(other.get(key) != value for other in like)
        }
        words.append(in_words(own))
    return words


def clean(store: Path) -> int:
    """Remove everything but what is in the making; returns how many entries were removed."""
    count = 0
    for file in sorted(store.glob("*.lock")):
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        count += file.with_suffix("").exists()
        for path in store.glob(f"{file.stem}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
        file.unlink(missing_ok=True)
        lock.release()
    return count
