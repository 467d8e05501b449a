"""What is refused before anything is trained: settings, and networks that do not fit the data."""

import copy
import importlib.util
import math
from functools import partial

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    EarlyStopping,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from noisy_kd.config import Config, Optimizer, Teacher
from noisy_kd.data.datamodules import ImageDataModule
from noisy_kd.errors import InputError
from noisy_kd.method import Method
from noisy_kd.model import complexity
from noisy_kd.model.layers import has_batch_norm
from noisy_kd.model.network import logits_of, with_active_dropout
from noisy_kd.model.targets import locate
from noisy_kd.training import build
from noisy_kd.training.callbacks import BestEpoch
from noisy_kd.training.hints import hint_stage
from noisy_kd.training.numerics import Numerics

NEEDS_TWO = "BatchNorm needs mini-batches of at least two images."
USE_INSTEAD = {
    "accumulate_grad_batches": "data.batch_size",
    "precision": "precision",
    **dict.fromkeys(("overfit_batches", "limit_train_batches"), "data.subset"),
    "limit_val_batches": "data.val_size",
    **dict.fromkeys(("max_steps", "max_time", "fast_dev_run"), "trainer.max_epochs"),
    **dict.fromkeys(("check_val_every_n_epoch", "val_check_interval"), "callbacks.best.patience"),
    "num_nodes": "trainer=ddp on one machine, or hydra/launcher=stacked_slurm,",
}
"""Arguments of the Trainer that would change what a run is, and its own keys for that."""

UNFIT: dict[type[Callback], str] = {
    EarlyStopping: "callbacks.best.patience",
    Timer: "trainer.max_epochs",
    StochasticWeightAveraging: "optimizer.averaging=swa",
    WeightAveraging: "optimizer.averaging",
    ModelPruning: "a smaller student",
    BaseFinetuning: "a smaller student",
}
"""Lightning's callbacks that know nothing of several students, and what to use instead."""


def check_settings(config: Config) -> None:
    """Refuse settings that would fail only later.

    Raises:
        InputError: for an optimiser, callback or logger that does not exist or takes no such key.
    """
    method = build.method(config)
    if config.data.views is None and (method.passes or method.draws_once):
        what = "passes" if method.passes else "resample"
        raise InputError(
            f"data.views=null asks the teacher at each step, but method.{what}="
            f"{config.method[what]} needs its logits beforehand: give a number of views."
        )
    _check_optimizer("optimizer", config.optimizer)
    _check_optimizer("teacher.optimizer", build.teacher_optimizer(config.teacher))
    build.views(config, config.data.augment, config.data.views)
    build.teacher_views(config)
    _check_trainer(config)
    for group, kind in (("callbacks", Callback), ("logger", Logger)):
        for name, node in getattr(config, group).items():
            if not node:
                continue
            make = locate(node["_target_"], f"{group}.{name}._target_")
            wanted = BestEpoch if (group, name) == ("callbacks", "best") else kind
            if not isinstance(make, type) or not issubclass(make, wanted):
                target = f"{group}.{name}._target_={node['_target_']}"
                raise InputError(f"{target} must be a subclass of {wanted.__name__}.")
            for unfit in filter(partial(issubclass, make), UNFIT):
                target = f"{group}.{name}._target_={node['_target_']}"
                raise InputError(f"{target}: use {UNFIT[unfit]} instead.")
            if issubclass(make, WandbLogger):
                if importlib.util.find_spec("wandb") is None:
                    raise InputError("logger=wandb needs a package: pip install wandb.")
                continue
            also = SummaryWriter if issubclass(make, TensorBoardLogger) else None
            build.check_arguments(f"{group}.{name}", make, build.arguments(node), also)
            if kind is Callback:
                try:
                    make(**build.arguments(node))
                except Exception as error:  # the callback's own
                    raise InputError(f"{group}.{name}: {' '.join(str(error).split())}") from error


def _check_optimizer(place: str, settings: Optimizer) -> None:
    build.check_arguments(place, locate(settings._target_, f"{place}._target_"), settings.arguments)
    try:
        make = build.optimizer(settings, Numerics(torch.device("cpu"), "32", fast=True))
        weight = nn.Parameter(torch.zeros(1))
        weight.grad = torch.zeros(1)
        optimizer = make([weight])
        if not settings.arguments.get("capturable"):  # on a GPU alone
            optimizer.step()
    except Exception as error:  # the optimiser's own
        given = [f"{key}={value}" for key, value in settings.arguments.items()]
        what = " with ".join([f"{place}._target_={settings._target_} cannot be used", *given])
        raise InputError(
            f"{what}: it has to take lr and weight_decay ({' '.join(str(error).split())})."
        ) from error


def _check_trainer(config: Config) -> None:
    given = config.trainer.arguments
    make = locate(config.trainer._target_, "trainer._target_")
    if not isinstance(make, type) or not issubclass(make, Trainer):
        target = f"trainer._target_={config.trainer._target_}"
        raise InputError(f"{target} must be a subclass of lightning.Trainer.")
    build.check_arguments("trainer", make, given)
    for key, value in given.items():
        if key in (*build.OWN_ARGUMENTS, "callbacks", "deterministic"):
            raise InputError(f"trainer.{key}={value}: a run sets it itself; leave it out.")
        if key in USE_INSTEAD:
            raise InputError(f"trainer.{key}={value}: use {USE_INSTEAD[key]} instead.")
    clip = given.get("gradient_clip_val", 1)
    if isinstance(clip, bool) or not isinstance(clip, int | float) or not 0 < clip < math.inf:
        raise InputError(f"trainer.gradient_clip_val={clip} must be a number above 0.")
    if given:
        build.trainer(config, config.trainer.max_epochs, [])


def check_fit(
    config: Config,
    data: ImageDataModule,
    method: Method,
    student: nn.Module,
    teachers: list[nn.Module],
) -> None:
    """Refuse untrained networks and subsets that do not fit the data.

    Raises:
        InputError: saying which.
    """
    data.training_set(data.subset)
    check_teacher(config.teacher, data, method, teachers)
    complexity.multiplications(student, data.input_shape)
    _check_student(student, data.input_shape)
    if method.hint is not None:
        hint_stage(method.hint, teachers[0], student, data.input_shape, config.seed)
    if method.teacher_dropout is not None:
        with_active_dropout(teachers[0], method.teacher_dropout.probability)
    normalised = config.student.batch_norm or has_batch_norm(student)
    if config.data.batch_size == 1 and normalised:
        raise InputError(f"data.batch_size=1: {NEEDS_TWO}")
    if config.optimizer.averaging == "swa" and normalised:
        raise InputError(
            "optimizer.averaging=swa: averaged weights of a network with BatchNorm need statistics "
            "of their own; use none or ema."
        )


def _check_student(student: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Refuse a student that cannot be trained, or whose finished logits would not be its own."""
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise InputError("the student has no weights to train.")
    net, x = copy.deepcopy(student).eval(), torch.ones(2, *input_shape)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        first, second = (logits_of(net(x.clone())) for _ in range(2))
    if not first.requires_grad:
        raise InputError("the student's logits have no gradient: its forward detaches them.")
    if not torch.allclose(first, second, equal_nan=True):
        raise InputError(
            "the student gives other logits for the same images in eval mode: does it draw random "
            "numbers, as F.dropout(x) does without training=self.training?"
        )


def check_unshared(students: list[nn.Module]) -> None:
    """Refuse students that are trained side by side and share weights.

    Raises:
        InputError: saying so.
    """
    own = [id(parameter) for student in students for parameter in student.parameters()]
    if len(set(own)) < len(own):
        raise InputError("the students share weights: make each layer in __init__, or max_stack=1.")


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
        normalised = teacher.batch_norm or has_batch_norm(net)
        if is_trained and teacher.batch_size == 1 and normalised:
            raise InputError(f"teacher.batch_size=1: {NEEDS_TWO}")


def check_shift(pixels: int, input_shape: tuple[int, int, int]) -> None:
    """Refuse a ``teacher.shift`` that moves images [C, H, W] out of sight."""
    _, height, width = input_shape
    if pixels >= min(height, width):
        raise InputError(
            f"teacher.shift={pixels} moves images of {height}x{width} out of sight: choose fewer "
            "pixels."
        )
