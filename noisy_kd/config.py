"""The configuration's schema: what keys there are, their types and ranges.

Everything here works without torch, so that a wrong setting is refused before anything is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from noisy_kd.errors import InputError
from noisy_kd.model import notation

SEED = 2**63 - 1  # the largest
SCHEDULES = ("constant", "linear", "cosine", "step")

CONF = Path(__file__).resolve().parent.parent / "conf"
SWEEPS = CONF.parent / "sweeps"


def _checked(default: Any = MISSING, **rules: Any) -> Any:
    """A field with a range (``least``, ``above``, ``most``) or a set of ``choices``."""
    if default is MISSING:
        return field(metadata=rules)
    return field(default=default, metadata=rules)


@dataclass
class Data:
    """Group ``data``."""

    _target_: str
    name: str
    root: str | None = None
    download: bool = True
    batch_size: int = _checked(64, least=1)
    val_size: int | None = _checked(None, least=0)
    subset: int | None = _checked(None, least=1)
    label_noise: float = _checked(0.0, least=0, most=1)
    seed: int = _checked(0, least=0, most=SEED)


@dataclass
class Recipe:
    """What the data set sets for the other groups (conf/data/*.yaml): its defaults."""

    alpha: float = 0.5
    sigma: float = 0.9
    second_teacher: str = ""
    teacher_epochs: int = 1
    teacher_shift: int = 0
    teacher_batch_norm: bool = False
    student_epochs: int = 1


@dataclass
class Teacher:
    """Group ``model@teacher`` and how the teacher is trained."""

    layers: str
    name: str | None = None  # what model@teacher=torchvision makes layers of
    _target_: str | None = None  # what model@teacher=module makes layers of
    checkpoint: str | None = None
    max_epochs: int = _checked(1, least=1)
    lr: float = _checked(1e-3, above=0)
    weight_decay: float = _checked(0.0, least=0)
    schedule: str = _checked("linear", choices=SCHEDULES)
    subset: int | None = _checked(None, least=1)
    batch_size: int = _checked(64, least=1)
    shift: int = _checked(0, least=0)
    batch_norm: bool = False
    seed: int = _checked(0, least=0, most=SEED)


@dataclass
class Student:
    """Group ``model@student``."""

    layers: str
    name: str | None = None
    _target_: str | None = None
    dropout: float = _checked(0.0, least=0, below=1)


@dataclass
class Optimizer:
    """Group ``optimizer``: the student's."""

    _target_: str
    lr: float = _checked(1e-3, above=0)
    weight_decay: float = _checked(0.0, least=0)
    schedule: str = _checked("linear", choices=SCHEDULES)
    averaging: str = _checked("none", choices=("none", "ema", "swa"))
    ema_decay: float = _checked(0.999, least=0, below=1)


@dataclass
class Trainer:
    """Group ``trainer``: arguments of Lightning's Trainer; ``max_epochs`` is the student's."""

    _target_: str
    max_epochs: int = _checked(1, least=1)
    accelerator: str = _checked("auto", choices=("auto", "cpu", "gpu", "mps"))
    devices: int = _checked(1, least=1)
    strategy: str = _checked("auto", choices=("auto", "ddp"))


@dataclass
class Config:
    """One run."""

    data: Data
    recipe: Recipe
    teacher: Teacher
    student: Student
    method: dict[str, Any]
    optimizer: Optimizer
    trainer: Trainer
    callbacks: dict[str, Any]
    logger: dict[str, Any]
    seed: int = _checked(1, least=0, most=SEED)
    precision: str = _checked("auto", choices=("auto", "32", "bf16"))
    fast: bool = True
    deterministic: bool = False
    store: str = ".cache/store"
    force: bool = False
    devices: int | None = _checked(None, least=1)
    max_stack: int | None = _checked(None, least=1)
    paper: dict[str, Any] | None = None

    @property
    def method_name(self) -> str:
        """``noisy_teacher`` and so on: the last part of the method's ``_target_``."""
        return str(self.method["_target_"]).rpartition(".")[2]

    @property
    def teachers(self) -> list[str]:
        """The notations of all teachers: the method's own, else the one of group ``model``."""
        named = {name: layers for layers, name in named_networks().items()}
        return [named.get(t, t) for t in self.method.get("teachers") or [self.teacher.layers]]

    @property
    def teacher_name(self) -> str:
        """The id of a network of conf/model, or its notation; several joined by +."""
        return "+".join(network_name(layers) for layers in self.teachers)

    @property
    def student_name(self) -> str:
        """The id of a network of conf/model, or its notation."""
        return network_name(self.student.layers)


def read(cfg: DictConfig) -> Config:
    """The typed configuration of a run.

    Raises:
        InputError: for an unknown key, a wrong type, or a value out of its range.
    """
    try:
        own = OmegaConf.create({k: v for k, v in cfg.items_ex(resolve=False) if k != "hydra"})
        content = OmegaConf.to_container(own, resolve=True)
        merged = OmegaConf.merge(OmegaConf.structured(Config), content)
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise InputError(_explain(error)) from error
    _check_ranges(config)
    _check_method(config.method)
    if config.trainer.devices > 1 and config.trainer.strategy != "ddp":
        raise InputError(f"trainer.devices={config.trainer.devices} needs trainer=ddp.")
    _check_nodes("callbacks", config.callbacks)
    _check_patience(config.callbacks.get("best"))
    _check_nodes("logger", config.logger)
    for teacher in config.teachers:
        notation.parse(teacher)
    if len(config.teachers) > 1 and config.teacher.checkpoint is not None:
        raise InputError("teacher.checkpoint is one teacher's: it cannot serve several teachers.")
    layers = notation.parse(config.student.layers)
    if config.student.dropout:
        notation.with_dropout(layers, config.student.dropout)
    return config


def compose(overrides: Sequence[str], name: str = "config") -> Config:
    """The configuration that ``python train.py OVERRIDES`` would run.

    Raises:
        InputError: see :func:`read`; Hydra's own errors pass through.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return read(hydra_compose(name, list(overrides)))


def _all_text(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def network_name(layers: str) -> str:
    """The id in conf/model of a network in the paper's notation, or the notation itself."""
    text = canonical(layers)
    return named_networks().get(text, text)


def canonical(layers: str) -> str:
    """A network's notation as this project prints it."""
    return notation.notation(notation.parse(layers))


@cache
def named_networks() -> dict[str, str]:
    """Notation -> id of every network in conf/model."""
    files = sorted((CONF / "model").glob("*.yaml"))
    layers = {file.stem: yaml.safe_load(file.read_text())["layers"] for file in files}
    return {canonical(text): name for name, text in layers.items() if "${" not in text}


def _explain(error: OmegaConfBaseException) -> str:
    lines = str(error).splitlines()
    key = next((line.split(":", 1)[1].strip() for line in lines if "full_key:" in line), "")
    if "Missing mandatory value" in lines[0]:
        return f"{lines[0].rpartition(' ')[2]} has no value: give it one."
    if "Incompatible value 'None'" in lines[0]:
        return f"{key} must have a value: it cannot be null."
    if "not in" in lines[0]:
        return f"{key} is not a key of this configuration; `python train.py --help` lists them."
    if "could not be converted to" in lines[0]:
        value, kind = lines[0].split("'")[1], lines[0].split()[-1].lower()
        return f"{key}={value} must be of the kind {kind}."
    if key in ("student", "teacher"):
        return f"{key} is a group of keys: name a network by model@{key}=NAME."
    return f"{key}: {lines[0]}" if key else lines[0]


def _check_ranges(node: Any, prefix: str = "") -> None:
    for item in fields(node):
        value, key = getattr(node, item.name), prefix + item.name
        if is_dataclass(value):
            _check_ranges(value, f"{key}.")
        elif value is not None:
            check_range(key, value, **item.metadata)


def check_range(
    key: str,
    value: Any,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
) -> None:
    """Refuse a value outside its range.

    Raises:
        InputError: naming the key, the value and the range.
    """
    rules = {
        "a finite number": not isinstance(value, float) or math.isfinite(value),
        f"at least {least}": least is None or value >= least,
        f"above {above}": above is None or value > above,
        f"at most {most}": most is None or value <= most,
        f"below {below}": below is None or value < below,
        f"one of {', '.join(choices or ())}": choices is None or value in choices,
    }
    for rule, holds in rules.items():
        if not holds:
            raise InputError(f"{key}={value} must be {rule}.")


def _check_method(method: dict[str, Any]) -> None:
    teachers = method.get("teachers", ["one"])
    if not isinstance(teachers, list) or not teachers or not _all_text(teachers):
        raise InputError(
            f"method.teachers={teachers} must be a list of networks, as in [nin,lenet]."
        )
    for key, most in {"alpha": 1.0, "sigma": None}.items():
        if key in method:
            value = method[key]
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"method.{key}={value} must be a number.")
            check_range(f"method.{key}", float(value), least=0, most=most)


def _check_patience(best: dict[str, Any] | None) -> None:
    patience = (best or {}).get("patience")
    if patience is not None and (not isinstance(patience, int) or patience < 1):
        raise InputError(f"callbacks.best.patience={patience} must be at least 1, or null.")


def _check_nodes(group: str, nodes: dict[str, Any]) -> None:
    for key, node in nodes.items():
        if node is not None and not (isinstance(node, dict) and "_target_" in node):
            raise InputError(
                f"{group}.{key} is not a key of this configuration: an entry of {group} is a "
                "mapping with a _target_."
            )
