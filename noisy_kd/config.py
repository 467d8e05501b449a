"""The configuration's schema: its keys, their types and ranges, and which of them decide numbers.

Everything here works without torch and Hydra, so that wrong settings are refused at once.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from noisy_kd.errors import InputError, check_range, shown
from noisy_kd.model import notation

SEED = 2**63 - 1  # the largest
UNKNOWN = "is not a key of this configuration; --help lists them."
SCHEDULES = ("constant", "linear", "cosine", "step", "onecycle")

CONF = next(p / "conf" for p in Path(__file__).resolve().parents[:2] if (p / "conf").is_dir())
SWEEPS = CONF.parent / "sweeps"

PLACE = {"identity": False}
"""Of fields that say where and how a run takes place; the others decide its numbers."""

LATER = {"later": True}
"""Of fields that decide numbers only when changed: kept results are older than they are."""
MARKS = (*PLACE, *LATER)
OmegaConf.register_new_resolver("in_notation", bool, replace=True)  # ${in_notation:LAYERS}
ADAM = {"_target_": "torch.optim.Adam"}


def _checked(default: Any, **rules: Any) -> Any:
    """Return a field whose value :func:`check_range` checks by these rules."""
    return field(default=default, metadata=rules)


@dataclass
class Data:
    """Group ``data``."""

    _target_: str = field(metadata=PLACE)
    name: str = field(metadata={"plain": True})
    val_size: int | None = _checked(None, least=0)
    subset: int | None = _checked(None, least=1)
    label_noise: float = _checked(0.0, least=0, most=1)
    batch_size: int = _checked(64, least=1)
    seed: int = _checked(0, least=0, most=SEED)
    augment: str = field(default="none", metadata=PLACE)  # identity where not the data set's own
    views: int | None = _checked(1, **PLACE, least=1)  # likewise
    root: str | None = field(default=None, metadata=PLACE)
    download: bool = field(default=True, metadata=PLACE)
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class Recipe:
    """What the data set sets for the other groups (conf/data/*.yaml): its defaults."""

    alpha: float = 0.5
    sigma: float = 0.9
    second_teacher: str = ""
    augment: str = "none"
    mirror: bool = True
    teacher_epochs: int = 1
    teacher_shift: int = 0
    teacher_batch_norm: bool = False
    student_epochs: int = 1


@dataclass
class Network:
    """A network: in the paper's notation, or what an import path makes with these arguments."""

    layers: str | None = None
    _target_: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    name: str | None = field(default=None, metadata=PLACE)  # a part of torchvision's _target_

    def __str__(self) -> str:
        """The id in conf/model, the notation, or the import path with its arguments."""
        if self._target_ is None:
            text = canonical(str(self.layers))
            return named_networks().get(text, text)
        given = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self._target_}({given})" if given else self._target_


@dataclass
class Input:
    """Pixels that a teacher expects: size, and mean and deviation of the channels in [0, 1]."""

    size: int | None = _checked(None, least=1)
    mean: list[float] | None = None
    std: list[float] | None = None


@dataclass
class Teacher(Network):
    """Group ``model@teacher`` and how the teacher is trained."""

    checkpoint: str | None = None
    checkpoint_key: str | None = field(default=None, metadata=PLACE)  # identity where it is set
    input: Input = field(default_factory=Input, metadata=PLACE)  # likewise
    max_epochs: int = _checked(1, least=0)
    lr: float = _checked(1e-3, above=0)
    weight_decay: float = _checked(0.0, least=0)
    schedule: str = _checked("linear", choices=SCHEDULES)
    subset: int | None = _checked(None, least=1)
    batch_size: int = _checked(64, least=1)
    shift: int = _checked(0, least=0)
    batch_norm: bool = False
    optimizer: dict[str, Any] = field(default_factory=lambda: dict(ADAM), metadata=LATER)
    label_smoothing: float = _checked(0.0, **LATER, least=0, below=1)
    augment: str = field(default="none", metadata=PLACE)  # identity where not the data set's own
    seed: int = _checked(0, least=0, most=SEED)


@dataclass
class Student(Network):
    """Group ``model@student``."""

    dropout: float = _checked(0.0, least=0, below=1)
    batch_norm: bool = field(default=False, metadata=LATER)
    init: str = _checked("he", **LATER, choices=("he", "xavier", "torch"))


@dataclass
class Optimizer:
    """Group ``optimizer``: the student's."""

    _target_: str
    lr: float = _checked(1e-3, above=0)
    weight_decay: float = _checked(0.0, least=0)
    schedule: str = _checked("linear", choices=SCHEDULES)
    averaging: str = _checked("none", choices=("none", "ema", "swa"))
    ema_decay: float = _checked(0.999, least=0, below=1)
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class Trainer:
    """Group ``trainer``: arguments of Lightning's Trainer; ``max_epochs`` is the student's."""

    _target_: str = field(metadata=PLACE)
    max_epochs: int = _checked(1, least=1)
    arguments: dict[str, Any] = field(default_factory=dict)
    accelerator: str = _checked("auto", **PLACE, choices=("auto", "cpu", "gpu", "mps"))
    devices: int = _checked(1, **PLACE, least=1)
    strategy: str = _checked("auto", **PLACE, choices=("auto", "ddp"))


@dataclass
class Config:
    """One run."""

    data: Data
    teacher: Teacher
    student: Student
    method: dict[str, Any]
    optimizer: Optimizer
    trainer: Trainer
    callbacks: dict[str, Any] = field(metadata=PLACE)  # but for callbacks.best.patience
    logger: dict[str, Any] = field(metadata=PLACE)
    recipe: Recipe = field(metadata=PLACE)
    seed: int = _checked(1, least=0, most=SEED)
    precision: str = _checked("auto", choices=("auto", "32", "bf16"))
    fast: bool = True
    deterministic: bool = False
    store: str = _checked(".cache/store", **PLACE, filled=True)
    force: bool = field(default=False, metadata=PLACE)
    devices: int | None = _checked(None, **PLACE, least=1)
    max_stack: int | None = _checked(None, **PLACE, least=1)
    augment: dict[str, dict[str, Any]] = field(default_factory=dict, metadata=PLACE)
    paper: dict[str, Any] | None = field(default=None, metadata=PLACE)

    @property
    def method_name(self) -> str:
        """``noisy_teacher`` and so on: the last part of the method's ``_target_``."""
        return str(self.method["_target_"]).rpartition(".")[2]

    @property
    def teachers(self) -> list[Network]:
        """All teachers: the method's own, in the paper's notation, else that of group ``model``."""
        layers_of = {name: layers for layers, name in named_networks().items()}
        own = self.method.get("teachers")
        return [Network(layers_of.get(name, name)) for name in own] if own else [self.teacher]

    @property
    def teacher_name(self) -> str:
        """The teacher as tables name it; several joined by +."""
        return "+".join(map(str, self.teachers))

    @property
    def student_name(self) -> str:
        """The student as tables name it."""
        return str(self.student)

    @property
    def patience(self) -> Any:
        """After how many epochs without fewer validation errors a student's training ends."""
        return (self.callbacks.get("best") or {}).get("patience")


OPEN = {
    "data": Data,
    "teacher": Teacher,
    "student": Student,
    "optimizer": Optimizer,
    "trainer": Trainer,
}
"""Nodes whose ``_target_`` is somebody else's class: further keys are its arguments."""


def read(cfg: DictConfig) -> Config:
    """Return the typed configuration of a run.

    Raises:
        InputError: for an unknown key, a wrong type, or a value out of its range.
    """
    try:
        own = OmegaConf.create({k: v for k, v in cfg.items_ex(resolve=False) if k != "hydra"})
        for key in ("data.augment", "teacher.augment"):
            choices = own.get("augment", {"none": None})
            if choices is None or isinstance(choices, str):
                raise InputError(f"augment={shown(choices)}: choose views by data.augment=NAME.")
            if (name := OmegaConf.select(own, key, default="none")) not in choices:
                raise InputError(f"{key}={shown(name)} must be one of {', '.join(choices)}.")
        for key in sorted(OmegaConf.missing_keys(own)):
            raise InputError(f"{key} has no value: give it one.")
        content = OmegaConf.to_container(own, resolve=True)
        _gather_arguments(content)  # type: ignore[arg-type]
        merged = OmegaConf.merge(OmegaConf.structured(Config), content)
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise InputError(_explain(error)) from error
    for node, key in ((config, "store"), (config.data, "root"), (config.teacher, "checkpoint")):
        if path := getattr(node, key):
            setattr(node, key, os.path.expanduser(path))
    _check_ranges(config)
    _check_targets(config)
    _check_method(config.method)
    if config.trainer.devices > 1 and config.trainer.strategy != "ddp":
        raise InputError(f"trainer.devices={config.trainer.devices} needs trainer=ddp.")
    _check_networks(config)
    return config


def targets(config: Config) -> dict[str, Any]:
    """Return the import paths in a configuration, by their keys."""
    nodes = {"method": config.method, "teacher.optimizer": config.teacher.optimizer}
    for group, entries in (("callbacks", config.callbacks), ("logger", config.logger)):
        nodes |= {f"{group}.{key}": node for key, node in entries.items() if node is not None}
    nodes |= {k: vars(node) for k in OPEN if (node := getattr(config, k))._target_ is not None}
    paths = {key: getattr(node, "get", nodes.get)("_target_") for key, node in nodes.items()}
    return {f"{key}._target_": path for key, path in paths.items()}


def _gather_arguments(content: dict[str, Any]) -> None:
    """Move the keys that the schema does not know into ``arguments`` of their ``_target_``."""
    for name, schema in OPEN.items():
        node = content.get(name)
        if not isinstance(node, dict):
            continue
        known = {item.name for item in fields(schema)}
        for key in [key for key in node if key not in known]:
            if not node.get("_target_"):
                raise InputError(f"{name}.{key} {UNKNOWN}")
            node.setdefault("arguments", {})[key] = node.pop(key)


def _check_networks(config: Config) -> None:
    for name, network in (("teacher", config.teacher), ("student", config.student)):
        if network._target_ is not None and network.layers is not None:
            raise InputError(f"{name}.layers={network.layers} beside {name}._target_: choose one.")
        if network._target_ is None and network.layers is None:
            raise InputError(f"{name}.layers has no value: give it one.")
    student = config.student
    for spec in (*config.teachers, student):
        if spec.layers is not None:
            notation.parse(spec.layers)
    if len(config.teachers) > 1 and config.teacher.checkpoint is not None:
        raise InputError("teacher.checkpoint holds one teacher: leave it out with several.")
    for key in Student.__annotations__ if student.layers is None else ():
        if (value := getattr(student, key)) != getattr(Student, key):
            raise InputError(f"student.{key}={shown(value)} works in the paper's notation only.")
    if student.layers is not None and student.dropout:
        notation.with_dropout(notation.parse(student.layers), student.dropout)


def canonical(layers: str) -> str:
    """Return a network's notation as this project prints it."""
    return notation.notation(notation.parse(layers))


@cache
def named_networks() -> dict[str, str]:
    """Return the id of every network in conf/model, by its notation."""
    names = {}
    for file in sorted((CONF / "model").glob("[!.]*.yaml")):
        with suppress(OSError, KeyError, TypeError, ValueError, yaml.YAMLError):  # of the user's
            layers = yaml.safe_load(file.read_text(encoding="utf-8"))["layers"]
            names[canonical(layers)] = file.stem
    return names


def _explain(error: OmegaConfBaseException) -> str:
    first, *lines = str(error).splitlines()
    key = next((line.split(":", 1)[1].strip() for line in lines if "full_key:" in line), "")
    if "not in" in first:
        return f"{key} {UNKNOWN}"
    if key in ("student", "teacher"):
        return f"{key} is a group of keys: name a network by model@{key}=NAME."
    return f"{key}: {first}" if key else first


def _check_ranges(node: Any, prefix: str = "") -> None:
    for item in fields(node):
        value, key = getattr(node, item.name), prefix + item.name
        if is_dataclass(value):
            _check_ranges(value, f"{key}.")
        elif value is not None:
            check_range(key, value, **{k: v for k, v in item.metadata.items() if k not in MARKS})


def _check_method(method: dict[str, Any]) -> None:
    teachers = method.get("teachers", ["one"])
    is_list = isinstance(teachers, list) and all(isinstance(name, str) for name in teachers)
    if not is_list or not teachers or len(set(teachers)) < len(teachers):
        raise InputError(f"method.teachers={teachers} must be a list, of different ones.")
    for key, value in method.items():
        check_range(f"method.{key}", value)
    for key, most in (("alpha", 1.0), ("sigma", None)):
        value = method.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"method.{key}={shown(value)} must be a number.")
        check_range(f"method.{key}", float(value), least=0, most=most)


def _check_targets(config: Config) -> None:
    for key, path in targets(config).items():
        if not isinstance(path, str) or not all(map(str.isidentifier, path.split("."))):
            raise InputError(f"{key}={shown(path)} must be the import path of a class or function.")
    patience = config.patience
    if patience is not None and (not isinstance(patience, int) or patience < 1):
        raise InputError(f"callbacks.best.patience={shown(patience)} must be at least 1, or null.")
