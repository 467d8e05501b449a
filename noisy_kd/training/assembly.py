"""From the configuration to the objects of a run."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, get_method, instantiate
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch.utils.tensorboard import SummaryWriter

from noisy_kd.callbacks import BestEpoch
from noisy_kd.config import Config, Optimizer, named_networks
from noisy_kd.data import ImageDataModule
from noisy_kd.data.images import Source
from noisy_kd.errors import InputError
from noisy_kd.method import Method
from noisy_kd.model import notation
from noisy_kd.training import hardware
from noisy_kd.training.hardware import Numerics

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]


def quiet_libraries() -> None:
    """Silence advice and adverts that do not concern the user of this project."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*no `val_dataloader`.*",
        ".*log files in this directory.*",
        ".*`srun` command is available.*",
        ".*constructed with capturable=True.*",  # an epoch's last, shorter chunk is no graph
    ):
        warnings.filterwarnings("ignore", message)


def data_module(config: Config, read: Source | None = None) -> ImageDataModule:
    """The images, read (unless they are already) and split.

    Raises:
        InputError: if the files are missing or damaged, or too few for the split.
    """
    arguments = {k: v for k, v in vars(config.data).items() if k not in ("_target_", "name")}
    arguments["root"] = arguments["root"] or ""
    if read is not None:
        arguments["read"] = read
    module: ImageDataModule = get_class(config.data._target_)(**arguments)
    module.setup()
    return module


def method(config: Config) -> Method:
    """The method, composed.

    Raises:
        InputError: if it does not take one of its keys, or not this value.
    """
    arguments = {key: value for key, value in config.method.items() if key != "_target_"}
    make = get_method(config.method["_target_"])
    parameters = inspect.signature(make).parameters
    for key, value in arguments.items():
        if key not in parameters:
            raise InputError(f"method={config.method_name}: there is no key method.{key}.")
        _check_kind(f"method.{key}", value, str(parameters[key].annotation))
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in arguments:
            raise InputError(f"method={config.method_name} needs the key {key}.")
    try:
        composed: Method = make(**arguments)
    except ValueError as error:
        raise InputError(f"method.{error}") from error
    if composed.hint is not None and composed.hint.epochs >= config.trainer.max_epochs:
        raise InputError(
            f"method.hint_epochs={composed.hint.epochs} leaves nothing of trainer.max_epochs="
            f"{config.trainer.max_epochs} to train the whole student."
        )
    if composed.hint is not None and config.trainer.strategy == "ddp":
        raise InputError(f"method={config.method_name} does not go with trainer=ddp.")
    return composed


KINDS: dict[str, type | tuple[type, ...]] = {
    "float": (int, float),
    "int": int,
    "str": str,
    "str | None": (str, type(None)),
    "Sequence[str]": list,
}


def _check_kind(key: str, value: Any, annotation: str) -> None:
    """Refuse a value of another kind than a method's signature says; others pass."""
    kind = KINDS.get(annotation)
    if kind is None:
        return
    words = {"float": "a number", "int": "a whole number", "Sequence[str]": "a list of names"}
    right = isinstance(value, kind) and not (isinstance(value, bool) and annotation != "bool")
    if annotation == "Sequence[str]":
        right = right and all(isinstance(one, str) for one in value)
    if not right:
        raise InputError(f"{key}={value} must be {words.get(annotation, 'a name')}.")


def layers_for(layers: str, classes: int) -> tuple[notation.Layer, ...]:
    """The layers of a network; one of conf/model takes as many logits as there are classes."""
    parsed = notation.parse(layers)
    if notation.notation(parsed) in named_networks():
        return notation.with_classes(parsed, classes)
    return parsed


def student_layers(config: Config, classes: int) -> tuple[notation.Layer, ...]:
    """The student's layers, with its dropout."""
    layers = layers_for(config.student.layers, classes)
    if config.student.dropout:
        layers = notation.with_dropout(layers, config.student.dropout)
    return layers


def optimizer(target: str, lr: float, weight_decay: float, numerics: Numerics) -> OptimizerFactory:
    """Makes the optimiser from a net's parameters; fused where the device has it."""
    known = inspect.signature(get_class(target)).parameters
    may = {"fused": numerics.fast and numerics.device.type in ("cpu", "cuda")}
    may["capturable"] = numerics.graphs
    fast = {key: True for key, wanted in may.items() if wanted and key in known}

    def make(params: Any) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = get_class(target)(
            params, lr=lr, weight_decay=weight_decay, **fast
        )
        return made

    return make


def device(config: Config) -> torch.device:
    """Where a single-device run takes place.

    Raises:
        InputError: if the accelerator is not there.
    """
    wanted = config.trainer.accelerator
    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted in there and not there[wanted]:
        raise InputError(f"trainer.accelerator={wanted}: this machine has none; take trainer=cpu.")
    if wanted == "gpu" or (wanted == "auto" and there["gpu"]):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if wanted == "mps" or (wanted == "auto" and there["mps"]) else "cpu")


def numerics(config: Config) -> Numerics:
    """How the run's networks are computed.

    ``precision=auto`` is float32 for networks by their import path: whether each of their layers
    bears bf16 is not known. (On CPUs with AMX the bf16 gradient of a convolution is wrong where a
    part of its kernel sees only padding, as in a ResNet-18 on images of 16x16.)

    Raises:
        InputError: if the accelerator is not there.
    """
    precision = config.precision
    parsed = [notation.parse(layers) for layers in (*config.teachers, config.student.layers)]
    if precision == "auto" and any(isinstance(net[0], notation.Module) for net in parsed):
        precision = "32"
    return hardware.choose(precision, config.fast, device(config))


def trainer(
    config: Config,
    max_epochs: int,
    callbacks: list[Callback],
    one_device: bool = False,
) -> Trainer:
    """Lightning's Trainer; the runs' own callbacks log and keep checkpoints."""
    settings = vars(config.trainer) | {"max_epochs": max_epochs}
    target = settings.pop("_target_")
    if one_device:
        settings |= {"devices": 1, "strategy": "auto"}
    if settings["strategy"] == "auto":  # in a Slurm job too: its signals are the sweep's affair
        settings["plugins"] = [LightningEnvironment()]
    made: Trainer = get_class(target)(
        **settings,
        callbacks=callbacks,
        deterministic=config.deterministic,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(one, ProgressBar) for one in callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    return made


def check_shift(pixels: int, input_shape: tuple[int, int, int]) -> None:
    """Refuse a ``teacher.shift`` that moves images [C, H, W] out of sight.

    Raises:
        InputError: naming it.
    """
    _, height, width = input_shape
    if pixels >= min(height, width):
        raise InputError(
            f"teacher.shift={pixels} moves images of {height}x{width} out of sight: choose fewer "
            "pixels."
        )


def check(config: Config) -> None:
    """Refuse, before anything is trained, what would fail only later.

    Raises:
        InputError: for an optimiser, callback or logger that is not there or not so called.
    """
    method(config)
    _check_optimizer(config.optimizer)
    try:
        nodes = {f"callbacks.{k}": v for k, v in config.callbacks.items() if v}
        nodes |= {f"logger.{k}": v for k, v in config.logger.items() if v}
        for place, node in nodes.items():
            _check_keys(place, node)
    except InputError:
        raise
    except Exception as error:  # Hydra's, whatever was missing
        raise InputError(" ".join(str(error).split())) from error
    wandb = any("Wandb" in node["_target_"] for node in config.logger.values() if node)
    if wandb and importlib.util.find_spec("wandb") is None:
        raise InputError("logger=wandb needs a package that is not there: pip install wandb.")


def _check_optimizer(settings: Optimizer) -> None:
    plain = Numerics(torch.device("cpu"), "32", fast=False)
    target = settings._target_
    try:
        optimizer(target, settings.lr, settings.weight_decay, plain)([torch.zeros(1)])
    except Exception as error:  # Hydra's, or the optimiser's own
        words = " ".join(str(error).split())
        raise InputError(
            f"optimizer._target_={target} cannot be used: it has to take lr and weight_decay "
            f"({words})."
        ) from error


def _check_keys(place: str, node: dict[str, Any]) -> None:
    kind = get_class(node["_target_"])
    known = set(inspect.signature(kind).parameters)
    if issubclass(kind, TensorBoardLogger):
        known |= set(inspect.signature(SummaryWriter).parameters)
    for key in node:
        if key != "_target_" and key not in known and not issubclass(kind, WandbLogger):
            raise InputError(f"{place}.{key} is not a key of this configuration.")


def displays_config(config: Config) -> dict[str, Any]:
    """The callbacks that are not :class:`noisy_kd.callbacks.BestEpoch`, without empty ones."""
    return {name: node for name, node in config.callbacks.items() if node and name != "best"}


def displays(config: Config, bar: bool = True) -> list[Callback]:
    """Progress bar (unless another one shows the run) and whatever callbacks the user added."""
    nodes = displays_config(config)
    return [instantiate(node) for name, node in nodes.items() if bar or name != "progress"]


def best_epoch(config: Config) -> BestEpoch:
    """The choice of the epoch."""
    node = config.callbacks.get("best")
    made: BestEpoch = instantiate(node) if node else BestEpoch()
    return made


def loggers(config: Config, directory: Path, prefix: str = "") -> list[Logger]:
    """The loggers of one run; they write into its directory, one event file per run.

    A prefix, the teacher's, keeps its curves out of the charts of the students'.
    """
    made: list[Logger] = []
    for node in filter(None, config.logger.values()):
        kind = get_class(node["_target_"])
        place: dict[str, Any] = {"save_dir": str(directory), "name": "", "version": ""}
        if issubclass(kind, TensorBoardLogger):
            place["default_hp_metric"] = False
            place |= {"prefix": prefix} if prefix else {}
        if issubclass(kind, WandbLogger):
            place = {"save_dir": str(directory), "name": directory.name}
        made.append(instantiate(node, **place))
    return made


def views(config: Config) -> int:
    """How many views of each image the data set trains on."""
    kind: type[ImageDataModule] = get_class(config.data._target_)
    return kind.views
