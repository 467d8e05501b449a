"""What decides a run's numbers: its identity, the hash of it, and the run's name."""

import copy
import hashlib
import json
import re
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from noisy_kd.config import ADAM, Config, Input, Network, Teacher, canonical, read
from noisy_kd.runs import WITHOUT_TEACHER, file_digest

OWN_VIEWS = {"none": {"views": 1}, "mirror": {"views": 2, "mirror": True}}
"""Views of data sets as they are; kept results do not name them."""


def identity(config: Config) -> dict[str, Any]:
    """Return what decides a run's numbers, as nested JSON values; ``settings`` of ``result.json``.

    These are the fields that the schema marks so, with the precision resolved for this machine and
    files named by their content.
    """
    settings = _deciding(config)
    settings["teacher"] = _teacher(config)
    settings |= _augment(config, settings)
    settings["method"].pop("teachers", None)  # they are in "teacher"
    own = {k: v for k, v in config.callbacks.items() if k not in ("best", "progress") and v}
    own = {k: v for k, v in own.items() if not v["_target_"].startswith("noisy_kd.")}
    best = config.callbacks.get("best") or {}
    is_own = best and not best["_target_"].startswith("noisy_kd.")
    settings["callbacks"] = {"best": best if is_own else {"patience": config.patience}} | own
    if config.data._target_ and not config.data._target_.startswith("noisy_kd."):
        settings["data"]["_target_"] = config.data._target_
    settings["precision"] = resolved_precision(config)
    if content := _content(config.data.name, str(config.data.root), config.store):
        settings["data"]["content"] = content
    return settings


def overrides(settings: dict[str, Any]) -> list[str]:
    """Return the arguments of ``noisy-kd train`` that give these settings: identity's inverse.

    Files are not among them: ``data.root`` and ``teacher.checkpoint``.
    """
    left = copy.deepcopy(settings)
    method, data, teacher = (left[key] for key in ("method", "data", "teacher"))
    chosen = [f"data={data.pop('name')}", f"method={method['_target_'].rpartition('.')[2]}"]
    chosen += [f"model@{k}=module" for k in ("teacher", "student") if "_target_" in left[k]]
    if isinstance(teacher.get("layers"), list):
        method["teachers"] = teacher.pop("layers")
    data.pop("content", None)
    teacher.pop("checkpoint", None)
    best = left["callbacks"].pop("best")
    left["callbacks"] |= {f"best.{key}": value for key, value in best.items()}
    return [*chosen, *_as_overrides(left)]


def _as_overrides(node: dict[str, Any], prefix: str = "++") -> list[str]:
    texts = []
    for key, value in node.items():
        if isinstance(value, dict) and value:
            texts += _as_overrides(value, f"{prefix}{key}.")
        else:
            texts.append(f"{prefix}{key}={json.dumps(value, ensure_ascii=False)}")
    return texts


def _augment(config: Config, settings: dict[str, Any]) -> dict[str, Any]:
    """Add what decides the views to the settings, where they are not those of the data set."""
    own, data, teacher = config.recipe.augment, config.data, config.teacher
    usual = OWN_VIEWS.get(own, {})
    if config.augment.get(own, usual) != usual:
        own = ""  # its parameters were changed
    has_other = data.augment != own
    if has_other:
        settings["data"]["augment"] = data.augment
    if has_other or data.views != usual.get("views"):
        settings["data"]["views"] = data.views
    is_trained = "max_epochs" in settings["teacher"]
    if is_trained and teacher.augment != own:
        settings["teacher"]["augment"] = teacher.augment
    names = {data.augment, teacher.augment if is_trained else own} - {own}
    parameters = {
        name: {
            key: value
            for key, value in config.augment[name].items()
            if key != "views" or value != OWN_VIEWS.get(name, {}).get(key, value)
        }
        for name in sorted(names)
    }
    return {"augment": parameters} if names else {}


def resolved_precision(config: Config) -> str:
    """Return the precision that the run is computed in, ``32`` or ``bf16``.

    ``auto`` is float32 for networks by their import path: not every layer bears bf16. (On CPUs with
    AMX the bf16 gradient of a convolution is wrong where a part of its kernel sees only padding, as
    in a ResNet-18 on images of 16x16.)
    """
    if config.precision != "auto":
        return config.precision
    if any(network.layers is None for network in (*config.teachers, config.student)):
        return "32"
    from noisy_kd.model import device  # here: it needs torch

    return device.resolve_precision(
        config.precision, config.fast, device.choose_device(config.trainer.accelerator)
    )


def config_hash(config: Config) -> str:
    """Return eight hex digits of what decides a run's numbers, and of nothing else."""
    return _digest(identity(config))


def settings_hash(config: Config) -> str:
    """Return the hash without the method: runs that differ in nothing else can be compared."""
    settings = identity(config)
    del settings["method"]
    return _digest(settings)


def run_name(config: Config) -> str:
    """Return the name of a run's directory: what is run, and the configuration's hash."""
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


def _deciding(node: Any) -> dict[str, Any]:
    """Return the fields of a node that decide numbers, arguments beside the others."""
    deciding: dict[str, Any] = {}
    for item in fields(node):
        value = getattr(node, item.name)
        is_later = item.metadata.get("later") and value in (item.default, ADAM)
        if item.metadata.get("identity", True) and not is_later:
            deciding[item.name] = _deciding(value) if is_dataclass(value) else copy.copy(value)
    if isinstance(node, Network):
        del deciding["_target_" if node._target_ is None else "layers"]
        if node.layers is not None:
            deciding["layers"] = canonical(node.layers)
    arguments: dict[str, Any] = deciding.pop("arguments", {})
    return deciding | arguments


def _teacher(config: Config) -> dict[str, Any]:
    """Return what decides the teachers: the networks, and a checkpoint or how they are trained."""
    networks = [_deciding(Network(t.layers, t._target_, t.arguments)) for t in config.teachers]
    if len(networks) > 1:
        networks = [{"layers": [network["layers"] for network in networks]}]
    if config.method_name in WITHOUT_TEACHER:
        return networks[0]
    teacher = config.teacher
    own: dict[str, Any] = {} if teacher.input == Input() else {"input": vars(teacher.input)}
    if teacher.checkpoint is not None:
        own["checkpoint"] = file_digest(teacher.checkpoint, "teacher.checkpoint")
        own |= {} if teacher.checkpoint_key is None else {"checkpoint_key": teacher.checkpoint_key}
        return own | networks[0]
    return training_settings(teacher) | {"checkpoint": None} | own | networks[0]


def training_settings(teacher: Teacher) -> dict[str, Any]:
    """Return how a teacher is trained, but for its network."""
    others = {"layers", "_target_", "checkpoint", *teacher.arguments}
    return {key: value for key, value in _deciding(teacher).items() if key not in others}


@cache
def _content(name: str, root: str, store: str) -> str | None:
    """Return a fingerprint of one's own images; None for the files of a published data set."""
    from noisy_kd.data import folder, sources  # here: they need torch

    if name == "folder":
        return folder.content_digest(Path(root), Path(store))
    return sources.other_content(name, Path(root))


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
