"""A sweep: what its file in ``sweeps/`` says, and the runs that its launcher has recorded."""

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from noisy_kd.config import CONF, SWEEPS
from noisy_kd.data.files import sealed, unsealed, writing
from noisy_kd.errors import InputError

log = logging.getLogger(__name__)

CUSTOM = "custom"
"""The name of sweeps without a file, ``-m``."""

Value = float | str


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep's file."""

    name: str
    title: str
    axes: dict[str, list[Value]] = field(default_factory=dict)  # of several values, without seed
    paper: dict[str, Any] = field(default_factory=dict)  # the printed numbers, in percent
    usual: dict[str, Value] = field(default_factory=dict)  # the paper's data, networks and alpha


def names() -> list[str]:
    """Return all sweeps over a grid; a search has no table."""
    texts = {f.stem: f.read_text("utf-8", "replace") for f in SWEEPS.glob("[!.]*.yaml")}
    return sorted(name for name, text in texts.items() if "hydra/sweeper:" not in text)


def read(name: str) -> Sweep:
    """Return the sweep of this name.

    Raises:
        InputError: for one that is not there, or whose file has no grid.
    """
    if name == CUSTOM:
        return Sweep(name, "sweeps without a file")
    if name not in names():
        known = ", ".join([*names(), CUSTOM])
        raise InputError(f"there is no sweep named {name}: choose {known}.")
    file = SWEEPS / f"{name}.yaml"
    try:
        text = file.read_text("utf-8")
        content = yaml.safe_load(text)
        params = content["hydra"]["sweeper"]["params"].items()
    except (KeyError, TypeError, AttributeError, UnicodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} needs a grid of settings in hydra.sweeper.params.") from error
    grid = {key: split(str(values)) for key, values in params if key != "seed"}
    axes = {key: values for key, values in grid.items() if len(values) > 1}
    paper = content.get("paper", {})
    paper = read(paper["same_as"]).paper if "same_as" in paper else paper
    title = text.splitlines()[0].lstrip("# ").rstrip(".")
    dataset = _defaults(content).get("data", "digits")
    data = yaml.safe_load((CONF / "data" / f"{dataset}.yaml").read_text("utf-8"))
    networks = {f"model@{key.rpartition('.')[2]}": name for key, name in _defaults(data).items()}
    usual = {"data": dataset, "method.alpha": data["recipe"]["alpha"], **networks}
    return Sweep(name, title, axes, paper, usual)


def _defaults(content: dict[str, Any]) -> dict[str, str]:
    """Return the files that a configuration chooses in its defaults: group -> name."""
    entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
    return {k.removeprefix("override "): str(v) for entry in entries for k, v in entry.items()}


def record(folder: Path, name: str, jobs: Iterable[tuple[str, list[str]]]) -> None:
    """Append jobs (directory below the folder, overrides) to ``FOLDER/sweeps/NAME.jsonl``."""
    file = folder / "sweeps" / f"{name}.jsonl"
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as out:
            for directory, overrides in jobs:
                job = sealed({"directory": directory, "overrides": overrides})
                out.write(json.dumps(job) + "\n")


def recorded(folder: Path, name: str) -> list[str]:
    """Return the directories of a sweep's jobs, below the folder."""
    file = folder / "sweeps" / f"{name}.jsonl"
    directories = []
    for line in file.read_text("utf-8", "replace").splitlines() if file.exists() else ():
        try:
            directories.append(str(unsealed(line)["directory"]))
        except (ValueError, KeyError):  # perhaps cut off by a crash
            log.warning("%s: a line is damaged, and left out: %s", file, line[:60])
    begun = [name for name in dict.fromkeys(directories) if (folder / name).is_dir()]
    return begun  # of a sweep that was refused there is nothing


def split(values: str) -> list[Value]:
    """Return the values of a list such as ``0,0.5`` or ``[nin],[nin,alexnet_mod]``."""
    comma = r",(?![^[(]*[])])"  # outside brackets
    return [canonical(word.strip().strip("'\"")) for word in re.split(comma, values)]


def canonical(value: Any) -> Value:
    """Return a value in one form, whether from a result or from a command line.

    Numbers are floats, lists are joined by +, truth values and null are as in YAML.
    """
    if isinstance(value, list):
        return "+".join(map(str, value))
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    try:
        return float(value) + 0.0  # not -0.0
    except (TypeError, ValueError):
        text = str(value)
        is_list = text.startswith("[") and text.endswith("]") and "@" not in text
        return "+".join(word.strip() for word in text[1:-1].split(",")) if is_list else text
