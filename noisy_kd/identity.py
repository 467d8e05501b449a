"""What decides a run's numbers: its identity, the hash of it, and the run's name."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from noisy_kd.config import Config, canonical, read
from noisy_kd.runs import OMITTED_AT_DEFAULT, WITHOUT_TEACHER, file_digest


def identity(config: Config) -> dict[str, Any]:
    """What decides a run's numbers, as nested JSON values; ``settings`` of ``result.json``."""
    whole = asdict(config)
    whole["method"].pop("teachers", None)  # they are in "teacher", canonical
    for net in ("teacher", "student"):
        del whole[net]["name"], whole[net]["_target_"]  # they are in "layers"
    keys = ("name", "val_size", "subset", "label_noise", "seed", "batch_size")
    data = {key: whole["data"][key] for key in keys}
    if config.data.name == "folder":
        data["content"] = _folder_digest(str(config.data.root))
    teacher = whole["teacher"]
    usual = {"batch_size": data["batch_size"], **OMITTED_AT_DEFAULT}
    teacher = {key: one for key, one in teacher.items() if key not in usual or one != usual[key]}
    if config.teacher.checkpoint is not None:
        teacher = {"checkpoint": file_digest(config.teacher.checkpoint)}
    elif config.method_name in WITHOUT_TEACHER:
        teacher = {}
    return {
        "data": data,
        "teacher": {**teacher, "layers": _layers_of_teachers(config)},
        "student": {**whole["student"], "layers": canonical(config.student.layers)},
        "method": whole["method"],
        "optimizer": whole["optimizer"],
        "max_epochs": config.trainer.max_epochs,
        "patience": (config.callbacks.get("best") or {}).get("patience"),
        **{key: whole[key] for key in ("seed", "precision", "fast", "deterministic")},
    }


def config_hash(config: Config) -> str:
    """Eight hex digits of what decides a run's numbers, and of nothing else.

    Paths, store, download, force, loggers, devices and displays are left out; 0 and 0.0 are equal;
    a network's id and its notation are equal. A teacher's checkpoint and a folder of images count
    by their content.
    """
    return _digest(identity(config))


def settings_hash(config: Config) -> str:
    """The same without the method: runs that differ in nothing else can be compared."""
    settings = identity(config)
    del settings["method"]
    return _digest(settings)


def run_name(config: Config) -> str:
    """Name of a run's directory: what was run, and the configuration's hash; never the clock."""
    parts = [config.data.name, _slug(config.student_name), config.method_name]
    noise = {key: config.method.get(key) for key in ("alpha", "sigma", "temperature")}
    parts += [f"{key[0]}{value:g}" for key, value in noise.items() if _is_number(value)]
    others = {"drop": config.student.dropout, "wd": config.optimizer.weight_decay}
    parts += [f"{key}{value:g}" for key, value in others.items() if value]
    if "teachers" in config.method:
        parts.append(_slug(config.teacher_name))
    return "-".join([*parts, f"seed{config.seed}", config_hash(config)])


def register_resolvers() -> None:
    """Let ``${run_name:}`` in the configuration name the run's directory."""
    OmegaConf.register_new_resolver("run_name", _resolve_run_name, replace=True)


def _resolve_run_name(*, _root_: DictConfig) -> str:
    return run_name(read(_root_))


def _layers_of_teachers(config: Config) -> str | list[str]:
    found = [canonical(layers) for layers in config.teachers]
    return found[0] if len(found) == 1 else found


@cache
def _folder_digest(root: str) -> str:
    fingerprint = hashlib.sha256()
    for file in sorted([*Path(root).glob("train/*/*.png"), *Path(root).glob("test/*/*.png")]):
        fingerprint.update(f"{file.relative_to(root)}:{file_digest(str(file))}".encode())
    return fingerprint.hexdigest()[:16]


def _digest(settings: dict[str, Any]) -> str:
    text = json.dumps(_canonical(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) + 0.0 if float(value) == value else value  # also -0.0 -> 0.0
    return value


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+]+", "", text.replace("-", "_"))[:60]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
