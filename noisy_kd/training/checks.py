"""What is refused before anything is trained: settings, and networks that do not fit the data."""

from __future__ import annotations

import importlib.util
import inspect
import math
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.tensorboard import SummaryWriter

from noisy_kd.config import Config, Optimizer, Teacher
from noisy_kd.data import ImageDataModule
from noisy_kd.errors import InputError
from noisy_kd.method import Method
from noisy_kd.model import complexity
from noisy_kd.model.network import with_active_dropout
from noisy_kd.training import build
from noisy_kd.training.hints import hint_stage
from noisy_kd.training.numerics import Numerics

NEEDS_TWO = "batch normalisation needs mini-batches of at least two images; take more."
USE_INSTEAD = {"accumulate_grad_batches": "data.batch_size", "precision": "precision"}


def check_settings(config: Config) -> None:
    """Refuse, before anything is trained, what would fail only later.

    Raises:
        InputError: for an optimiser, callback or logger that is not there or not so called.
    """
    build.method(config)
    _check_optimizer(config.optimizer)
    _check_trainer(config)
    nodes = {f"callbacks.{k}": v for k, v in config.callbacks.items() if v}
    nodes |= {f"logger.{k}": v for k, v in config.logger.items() if v}
    for place, node in nodes.items():
        _check_keys(place, node)
    wandb = any("Wandb" in node["_target_"] for node in config.logger.values() if node)
    if wandb and importlib.util.find_spec("wandb") is None:
        raise InputError("logger=wandb needs a package that is not there: pip install wandb.")


def _check_optimizer(settings: Optimizer) -> None:
    plain = Numerics(torch.device("cpu"), "32", fast=False)
    target, given = settings._target_, settings.arguments
    known = inspect.signature(build.locate(target)).parameters
    for key in given:
        if key not in known:
            names = ", ".join(name for name in known if name != "params")
            raise InputError(f"optimizer.{key}: {target} has no such argument; it has: {names}.")
    try:
        make = build.optimizer(target, settings.lr, settings.weight_decay, plain, given)
        make([nn.Parameter(torch.zeros(1))])
    except Exception as error:  # the optimiser's own
        words = " ".join(str(error).split())
        raise InputError(
            f"optimizer._target_={target} cannot be used: it has to take lr and weight_decay "
            f"({words})."
        ) from error


def _check_trainer(config: Config) -> None:
    known = inspect.signature(build.locate(config.trainer._target_)).parameters
    for key, value in config.trainer.arguments.items():
        if key not in known:
            names = ", ".join(known)
            raise InputError(f"trainer.{key}: the Trainer has no such argument; it has: {names}.")
        if key in build.OWN_ARGUMENTS or key in ("callbacks", "deterministic"):
            raise InputError(f"trainer.{key}={value}: a run sets it itself; leave it out.")
        if key in USE_INSTEAD:
            raise InputError(f"trainer.{key}={value}: use {USE_INSTEAD[key]} instead.")
    clip = config.trainer.arguments.get("gradient_clip_val", 1)
    if isinstance(clip, bool) or not isinstance(clip, int | float) or not 0 < clip < math.inf:
        raise InputError(f"trainer.gradient_clip_val={clip} must be a number above 0.")
    if config.trainer.arguments:
        build.trainer(config, config.trainer.max_epochs, [])


def _check_keys(place: str, node: dict[str, Any]) -> None:
    make = build.locate(node["_target_"])
    known = set(inspect.signature(make).parameters)
    if issubclass(make, TensorBoardLogger):
        known |= set(inspect.signature(SummaryWriter).parameters)
    for key in node:
        if key != "_target_" and key not in known and not issubclass(make, WandbLogger):
            raise InputError(f"{place}.{key} is not a key of this configuration.")


def check_fit(
    config: Config,
    data: ImageDataModule,
    method: Method,
    student: nn.Module,
    teachers: list[nn.Module],
) -> None:
    """Refuse networks and subsets that do not fit the data.

    Args:
        config: of the run.
        data: its images.
        method: its method.
        student: untrained.
        teachers: untrained.

    Raises:
        InputError: saying which.
    """
    data.training_set(data.subset)
    check_teacher(config.teacher, data, method, teachers)
    complexity.multiplications(student, data.input_shape)
    if method.hint is not None:
        hint_stage(method.hint, teachers[0], student, data.input_shape, config.seed)
    if method.teacher_dropout is not None:
        with_active_dropout(teachers[0], method.teacher_dropout.probability)
    if config.data.batch_size == 1 and _normalises(student):
        raise InputError(f"data.batch_size=1: {NEEDS_TWO}")
    if _normalises(student) and config.optimizer.averaging == "swa":
        raise InputError(
            "optimizer.averaging=swa: averaged weights of a net with batch normalisation need "
            "statistics of their own; take none or ema."
        )


def check_teacher(
    teacher: Teacher, data: ImageDataModule, method: Method, nets: list[nn.Module]
) -> None:
    """Refuse settings of the teacher's training that do not fit the data or its network.

    Raises:
        InputError: saying which.
    """
    data.training_set(teacher.subset, "teacher.subset")
    check_shift(teacher.shift, data.input_shape)
    is_trained = teacher.checkpoint is None and method.has_teacher
    for net in nets:
        complexity.multiplications(net, data.input_shape)
        if is_trained and teacher.batch_size == 1 and (teacher.batch_norm or _normalises(net)):
            raise InputError(f"teacher.batch_size=1: {NEEDS_TWO}")


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


def _normalises(net: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in net.modules())
