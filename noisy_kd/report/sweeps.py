"""A sweep: what its file in ``sweeps/`` says, and the runs that its launcher has recorded."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from noisy_kd.config import CONF, SWEEPS
from noisy_kd.errors import InputError

CUSTOM = "custom"
"""The name of sweeps without a file, ``-m hydra/launcher=stacked``."""

Value = float | str


@dataclass(frozen=True)
class Sweep:
    """What the file of a sweep says.

    Args:
        name: of the file.
        title: its first line, a comment.
        axes: key -> the values of the grid, without ``seed``; axes of one value are left out.
        paper: the paper's printed numbers, in percent.
        usual: data, networks and alpha that these are of.
    """

    name: str
    title: str
    axes: dict[str, list[Value]]
    paper: dict[str, Any]
    usual: dict[str, Value]


def names() -> list[str]:
    """Return all sweeps over a grid; a search has no table."""
    files = SWEEPS.glob("*.yaml")
    return sorted(file.stem for file in files if "hydra/sweeper:" not in file.read_text("utf-8"))


def read(name: str) -> Sweep:
    """Return the sweep of this name.

    Raises:
        InputError: if there is none; the message names those there are.
    """
    if name == CUSTOM:
        return Sweep(name, "sweeps without a file", {}, {}, {})
    if name not in names():
        known = ", ".join([*names(), CUSTOM])
        raise InputError(f"there is no sweep named {name}: choose {known}.")
    text = (SWEEPS / f"{name}.yaml").read_text("utf-8")
    content = yaml.safe_load(text)
    params = content["hydra"]["sweeper"]["params"]
    axes = {key: split(str(values)) for key, values in params.items() if key != "seed"}
    paper = content.get("paper") or {}
    paper = read(paper["same_as"]).paper if "same_as" in paper else paper
    title = text.splitlines()[0].lstrip("# ").rstrip(".")
    grid = {key: values for key, values in axes.items() if len(values) > 1}
    return Sweep(name, title, grid, paper, _usual(_chosen(content).get("data", "digits")))


def _usual(dataset: str) -> dict[str, Value]:
    content = yaml.safe_load((CONF / "data" / f"{dataset}.yaml").read_text("utf-8"))
    networks = {f"model@{key.rpartition('.')[2]}": one for key, one in _chosen(content).items()}
    return {"data": dataset, "method.alpha": content["recipe"]["alpha"], **networks}


def _chosen(content: dict[str, Any]) -> dict[str, str]:
    """Group -> name, as a file has them in its defaults."""
    entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
    return {k.removeprefix("override "): str(v) for entry in entries for k, v in entry.items()}


def record(folder: Path, name: str, jobs: Iterable[tuple[str, list[str]]]) -> None:
    """Append the jobs of a sweep to its record, ``FOLDER/sweeps/NAME.jsonl``."""
    file = folder / "sweeps" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"directory": place, "overrides": words}) for place, words in jobs]
    with file.open("a") as out:
        out.write("".join(f"{line}\n" for line in lines))


def recorded(folder: Path, name: str) -> dict[str, list[str]]:
    """Return the jobs of a sweep: directory below the folder -> overrides of the last time."""
    file = folder / "sweeps" / f"{name}.jsonl"
    jobs = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            job = json.loads(line)
            jobs[job["directory"]] = job["overrides"]
        except (ValueError, KeyError, TypeError):  # cut off by a crash
            continue
    return jobs


def split(values: str) -> list[Value]:
    """Return the values of a list such as ``0,0.5`` or ``[nin],[nin,alexnet_mod]``."""
    found, depth, word = [], 0, ""
    for letter in values + ",":
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            found.append(canonical(word.strip().strip("'\"")))
            word = ""
        else:
            word += letter
    return found


def canonical(value: Any) -> Value:
    """Return a value in one form, whether from a result or from a command line.

    Numbers are floats, lists are joined by +, truth values and null are as in YAML.
    """
    if isinstance(value, list):
        return "+".join(str(one) for one in value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        return float(value) + 0.0
    except (TypeError, ValueError):
        text = str(value)
        is_list = text.startswith("[") and text.endswith("]") and "@" not in text
        return "+".join(word.strip() for word in text[1:-1].split(",")) if is_list else text
