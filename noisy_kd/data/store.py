"""Content-addressed store of what is computed once: trained teachers and their logits.

An entry's key is a hash of everything that decides its bytes, this code's version included. It is
written under a temporary name and renamed when complete; its checksum is verified when it is read;
a lock lets one process compute what others wait for.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import Timeout

from noisy_kd.data import files
from noisy_kd.errors import DamagedError, InputError

log = logging.getLogger(__name__)

SAME = ("kind", "data", "layers")
OWN = re.compile(r"([a-z]+-[0-9a-f]{16})(?:\..+)?$")
"""Names of the store's own files and folders."""
VERSION = 3  # of the code that decides the bytes; raise it when a change here alters results


def key_of(kind: str, made_by: dict[str, Any]) -> str:
    """Return the name of an entry: its kind and a hash of everything that decides its bytes."""
    text = json.dumps({"version": VERSION, "kind": kind, **made_by}, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def get_or_make(
    store: Path, kind: str, made_by: dict[str, Any], make: Callable[[Path], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the entry's tensors and facts, computed first if they are not there or damaged.

    ``made_by`` is everything that decides the bytes, as JSON values. ``make`` returns a dict with
    ``tensors`` and ``facts`` (JSON values to remember); its argument is a folder for unfinished
    work, kept if it is interrupted.

    Raises:
        InputError: if the store's folder cannot be written.
    """
    entry = store / key_of(kind, made_by)
    found = _read(entry, made_by)  # without a lock: an entry never changes, and may be read-only
    if found is not None:
        return found
    with files.writing(f"store={store}"):
        store.mkdir(parents=True, exist_ok=True)
    with files.locked(entry.with_name(f"{entry.name}.lock")):
        found = _read(entry, made_by)
        if found is None:
            work = entry.with_name(f"{entry.name}.unfinished")
            with files.writing(work):
                work.mkdir(exist_ok=True)
            content = make(work)
            with files.writing(entry):
                _write(entry, kind, made_by, content)
                shutil.rmtree(work)
            found = _read(entry, made_by)
    assert found is not None
    return found


def check_room(store: Path, needed: int, what: str, mend: str) -> None:
    """Refuse a disk that is too full now, not after hours.

    Raises:
        InputError: saying how much is free, and how much is needed.
    """
    there = next(folder for folder in (store, *store.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"store={store} has {free / 1e9:.1f} GB left, but {what} need {needed / 1e9:.1f} GB: "
            f"choose another folder, or {mend}."
        )


def _write(entry: Path, kind: str, made_by: dict[str, Any], content: dict[str, Any]) -> None:
    temporary = entry.with_name(f"{entry.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        files.write_tensors(temporary / "tensors.pt", content["tensors"])
        about = {"kind": kind, "made_by": made_by, "facts": content["facts"]}
        about["made"] = time.strftime("%Y-%m-%d %H:%M")
        files.write_json(temporary / "entry.json", about)
        shutil.rmtree(entry, ignore_errors=True)
        temporary.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    files.sync(entry.parent)


def _read(entry: Path, made_by: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the entry's tensors and facts, checked; None if it is not there or damaged."""
    if not entry.exists():
        return None
    try:
        about = files.unsealed((entry / "entry.json").read_bytes())
        if about["made_by"] == json.loads(json.dumps(made_by)):
            tensors = files.read_tensors(entry / "tensors.pt", mmap=True)
            files.hold(entry / "entry.json")
            return tensors, about["facts"]
    except (FileNotFoundError, ValueError, KeyError, DamagedError):
        pass
    log.warning("%s is damaged and is recomputed.", entry)
    return None


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
    """Return of every finished entry its folder, what is known of it, its size in bytes."""
    listed = []
    for file in sorted(store.glob("*/entry.json")):
        try:
            about = json.loads(file.read_bytes())
            about["made_by"]["layers"], about["facts"].items()
        except (ValueError, KeyError, TypeError, AttributeError):
            about = {"made": "damaged", "made_by": {"data": "", "layers": ""}, "facts": {}}
        listed.append((file.parent, about, sum(f.stat().st_size for f in file.parent.iterdir())))
    return listed


def differing_keys(made: list[dict[str, Any]]) -> list[str]:
    """Return for each entry the settings that differ among those of its kind, data and layers."""
    texts = []
    for settings in made:
        like = [other for other in made if all(other.get(k) == settings.get(k) for k in SAME)]
        own = {
            key: value
            for key, value in settings.items()
            if key != "classes" and any(other.get(key) != value for other in like)
        }
        texts.append(in_words(own))
    return texts


def clean(store: Path) -> tuple[int, int]:
    """Remove what no other process makes or uses; return how many entries, and how many stay.

    Whatever else lies in the folder stays, too.
    """
    removed = kept = 0
    matches = map(OWN.match, sorted(path.name for path in store.glob("*")))
    for name in dict.fromkeys(match[1] for match in matches if match):
        file, about = store / f"{name}.lock", store / name / "entry.json"
        with suppress(Timeout), files.locked(file, timeout=0):
            if files.is_used(about):
                kept += 1
                continue
            removed += about.exists()
            for path in [*store.glob(f"{name}.*"), store / name]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                elif path != file:
                    path.unlink(missing_ok=True)
            file.unlink(missing_ok=True)
    return removed, kept
