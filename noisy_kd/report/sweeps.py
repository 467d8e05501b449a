"""A sweep as its file in ``sweeps/`` describes it: grid, data, method, the paper's numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from noisy_kd.errors import InputError
from noisy_kd.runs import LATER

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
Value = float | str
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Sweep:
    """What a sweep is.

    Args:
        name: of its file.
        title: the first line of its comment.
        axes: key -> the values of the grid, without ``seed``.
        dataset: of its runs.
        methods: of its runs, besides their zero-noise ends.
        paper: the paper's printed numbers, in percent.
    """

    name: str
    title: str
    axes: dict[str, list[Value]]
    dataset: str
    methods: tuple[str, ...]
    paper: dict[str, Any]


def names() -> list[str]:
    """All sweeps over a grid; a search has no table."""
    files = SWEEPS.glob("*.yaml")
    return sorted(file.stem for file in files if "hydra/sweeper:" not in file.read_text())


def read(name: str) -> Sweep:
    """The sweep of this name.

    Raises:
        InputError: if there is none; the message names those there are.
    """
    file = SWEEPS / f"{name}.yaml"
    if name not in names():
        raise InputError(f"there is no sweep named {name}: choose {', '.join(names())}.")
    text = file.read_text()
    content = yaml.load(text, Loader)
    params = content["hydra"]["sweeper"]["params"]
    axes = {key: split(str(values)) for key, values in params.items() if key != "seed"}
    chosen = {"data": "digits", "method": "noisy_teacher"}
    chosen |= _overridden(content)
    methods = tuple(str(m) for m in axes.get("method", [chosen["method"]]))
    paper = content.get("paper") or {}
    if "same_as" in paper:
        paper = read(paper["same_as"]).paper
    title = text.splitlines()[0].lstrip("# ").rstrip(".")
    return Sweep(name, title, axes, chosen["data"], methods, paper)


@cache
def defaults_of(method: str, dataset: str) -> dict[str, Value]:
    """What the files of a method and a data set give: the method's keys, and the networks."""
    conf = SWEEPS.parent / "conf"
    found: dict[str, Any] = {}
    data = conf / "data" / f"{dataset}.yaml"
    content = yaml.load(data.read_text(), Loader) if data.exists() else {"defaults": []}
    for entry in content["defaults"]:
        key, name = next(iter(entry.items()))
        found[f"model@{key.rpartition('.')[2]}"] = name
    recipe = content.get("recipe", {})
    found |= {f"method.{key}": recipe[key] for key in ("alpha", "sigma") if key in recipe}
    file = conf / "method" / f"{method}.yaml"
    for key, one in (yaml.load(file.read_text(), Loader) if file.exists() else {}).items():
        if isinstance(one, str) and one.startswith("${recipe."):
            one = recipe.get(one[len("${recipe.") : -1])
        if not isinstance(one, list):
            found[f"method.{key}"] = one
    return {key: canonical(one) for key, one in found.items()}


def _overridden(content: dict[str, Any]) -> dict[str, str]:
    """Group -> name, as a sweep's file has them in its defaults."""
    entries = [entry for entry in content["defaults"] if isinstance(entry, dict)]
    return {k.removeprefix("override "): str(v) for entry in entries for k, v in entry.items()}


@cache
def usual_settings(name: str, dataset: str) -> dict[str, Value]:
    """What a sweep's runs are made with unless its command line says otherwise: key -> value.

    The keys are those of a result's settings, without the method's, and ``model@student``,
    ``model@teacher``; what the sweep's own file says is taken before the defaults.
    """
    conf, file = SWEEPS.parent / "conf", SWEEPS / f"{name}.yaml"
    data = conf / "data" / f"{dataset}.yaml"
    if not data.exists():
        return {}
    own = yaml.load(file.read_text(), Loader)
    groups = {"optimizer": "adam", "trainer": "default"} | _overridden(own)
    files = (conf / "config.yaml", data)
    contents = [yaml.load(one.read_text(), Loader) for one in files]
    for group in ("optimizer", "trainer"):
        text = (conf / group / f"{groups[group]}.yaml").read_text()
        contents.append({group: yaml.load(text, Loader)})
    contents.append(own)
    nets = {key: one for key, one in defaults_of("", dataset).items() if key.startswith("model@")}
    found: dict[str, Any] = nets | {k: v for k, v in groups.items() if k.startswith("model@")}
    found |= {"patience": None}
    for content in contents:
        for group in ("data", "teacher", "student", "optimizer", "trainer"):
            found |= {f"{group}.{key}": one for key, one in (content.get(group) or {}).items()}
        found |= {
            key: content[key] for key in ("precision", "fast", "deterministic") if key in content
        }
    found |= {key: values[0] for key, values in read(name).axes.items() if len(values) == 1}
    found["max_epochs"] = found.pop("trainer.max_epochs")
    given = contents[1].get("recipe", {}) | own.get("recipe", {})
    recipe = {f"${{recipe.{key}}}": one for key, one in given.items()}
    recipe |= {
        f"${{oc.select:recipe.teacher_{key},{json.dumps(one)}}}": given.get(f"teacher_{key}", one)
        for key, one in LATER.items()
    }
    recipe["${data.batch_size}"] = found["data.batch_size"]
    found = {
        key: recipe.get(one, one) if isinstance(one, str) else one for key, one in found.items()
    }
    return {key: canonical(one) for key, one in found.items() if "${" not in str(one)}


def split(values: str) -> list[Value]:
    """The values of a sweep's list, ``0,0.5`` or ``[nin],[nin,alexnet_mod]``; quotes taken off."""
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
    """A value in one form, whether from a result or from a command line.

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
