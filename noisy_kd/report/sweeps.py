"""A sweep as its file in ``sweeps/`` describes it: grid, data, method, the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from noisy_kd.errors import InputError

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
CONF = SWEEPS.parent / "conf"
Value = float | str
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Sweep:
    """What a sweep is.

    Args:
        name: of its file.
        title: the first line of its file, a comment.
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
    first = text.splitlines()[0]
    title = first.lstrip("# ").rstrip(".") if first.startswith("#") else "a sweep without a title"
    return Sweep(name, title, axes, chosen["data"], methods, paper)


@cache
def own_data_keys(name: str) -> frozenset[str]:
    """The keys of the data that a sweep's file sets: runs on other data are not the sweep's."""
    own = _yaml(SWEEPS / f"{name}.yaml")
    fixed = {key for key, values in read(name).axes.items() if len(values) == 1}
    fixed |= {f"data.{key}" for key in own.get("data") or {}}
    return frozenset(key for key in fixed if key.startswith("data."))


@cache
def defaults_of(method: str, dataset: str) -> dict[str, Value]:
    """What the files of a method and a data set give: the method's keys, and the networks."""
    return _networks(dataset) | _section(_composed(dataset, method=method), "method")


@cache
def usual_settings(name: str, dataset: str) -> dict[str, Value]:
    """What a sweep's runs are made with unless its command line says otherwise: key -> value.

    The keys are those of a result's settings, without the method's, and ``model@student``,
    ``model@teacher``; what the sweep's own file says is taken before the defaults.
    """
    if not (CONF / "data" / f"{dataset}.yaml").exists():
        return {}
    own = _yaml(SWEEPS / f"{name}.yaml")
    composed = _composed(dataset, own=own)
    found: dict[str, Value] = {"patience": "null", **_networks(dataset)}
    found |= {key: one for key, one in _overridden(own).items() if key.startswith("model@")}
    for group in ("data", "teacher", "student", "optimizer", "trainer"):
        found |= _section(composed, group)
    for key in ("precision", "fast", "deterministic"):
        found[key] = canonical(composed[key])
    found |= {key: values[0] for key, values in read(name).axes.items() if len(values) == 1}
    found["max_epochs"] = found.pop("trainer.max_epochs")
    return found


def _composed(
    dataset: str, method: str = "", own: Mapping[str, Any] = MappingProxyType({})
) -> DictConfig:
    """What Hydra makes of the files of ``conf/`` and a sweep's own, without its start-up time."""
    groups = {"optimizer": "adam", "trainer": "default"} | _overridden(own)
    parts = [_yaml(CONF / "config.yaml"), _yaml(CONF / "data" / f"{dataset}.yaml")]
    for group in ("optimizer", "trainer"):
        parts.append({group: _yaml(CONF / group / f"{groups[group]}.yaml")})
    parts += [{"method": _yaml(CONF / "method" / f"{method}.yaml")}, dict(own)]
    composed = OmegaConf.unsafe_merge(*parts)
    assert isinstance(composed, DictConfig)
    return composed


def _section(composed: DictConfig, group: str) -> dict[str, Value]:
    """A group's keys and values but lists; those that refer to what is not there are left out."""
    found: dict[str, Value] = {}
    for key in composed[group]:
        with suppress(InterpolationResolutionError):
            if not OmegaConf.is_list(one := composed[group][key]):
                found[f"{group}.{key}"] = canonical(one)
    return found


def _networks(dataset: str) -> dict[str, Value]:
    """A data set's ``model@teacher`` and ``model@student``."""
    entries = _yaml(CONF / "data" / f"{dataset}.yaml").get("defaults", [])
    chosen = _overridden({"defaults": entries})
    return {f"model@{key.rpartition('.')[2]}": one for key, one in chosen.items()}


def _overridden(content: Mapping[str, Any]) -> dict[str, str]:
    """Group -> name, as a file has them in its defaults."""
    entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
    return {k.removeprefix("override "): str(v) for entry in entries for k, v in entry.items()}


def _yaml(file: Path) -> dict[str, Any]:
    """A file's content; nothing if there is no such file."""
    return yaml.load(file.read_text(), Loader) or {} if file.exists() else {}


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
