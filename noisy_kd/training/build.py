"""From the configuration to the objects of a run."""

import difflib
import inspect
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Generator, Tensor, nn

from noisy_kd.config import Config, Input, Network, Optimizer, Teacher, named_networks
from noisy_kd.data import preprocessing
from noisy_kd.data.datamodules import ImageDataModule
from noisy_kd.data.dataset import generator_key
from noisy_kd.data.views import Views
from noisy_kd.errors import InputError, shown
from noisy_kd.method import Method
from noisy_kd.model import network as networks
from noisy_kd.model import notation
from noisy_kd.model.device import choose_device
from noisy_kd.model.layers import TeacherInput, initialise, teacher_channels
from noisy_kd.model.network import instantiate
from noisy_kd.model.targets import locate
from noisy_kd.runs.identity import resolved_precision
from noisy_kd.training import numerics as numerics_of
from noisy_kd.training.callbacks import BestEpoch
from noisy_kd.training.distiller import OptimizerFactory
from noisy_kd.training.numerics import Numerics

CLIP = ("gradient_clip_val", "gradient_clip_algorithm")
"""Arguments of the Trainer that a stack applies to each of its students."""


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
        ".*in eval mode at the start of training.*",  # averaged weights
    ):
        warnings.filterwarnings("ignore", message)


def data_module(config: Config) -> ImageDataModule:
    """Return the images: downloaded, read and split.

    Raises:
        InputError: if the files are missing or damaged, or too few for the split.
    """
    make, given = locate(config.data._target_, "data._target_"), config.data.arguments
    check_arguments("data", make, given, ImageDataModule)
    settings = vars(config.data) | {"root": config.data.root or ""} | given
    settings["views"] = views(config, config.data.augment, config.data.views)
    settings |= {"store": config.store} if "store" in inspect.signature(make).parameters else {}
    del settings["_target_"], settings["name"], settings["arguments"], settings["augment"]
    try:
        module = make(**settings)
    except TypeError as error:
        raise InputError(
            f"data._target_={config.data._target_} cannot be made: {error}."
        ) from error
    if not isinstance(module, ImageDataModule):
        raise InputError(f"data._target_={config.data._target_} does not make an ImageDataModule.")
    module.prepare_data()
    module.setup()
    return module


def check_arguments(place: str, make: Any, given: Mapping[str, Any], also: Any = None) -> None:
    """Refuse arguments that a class has neither itself nor in ``also``, which it passes them to.

    Raises:
        InputError: naming the first, after its place in the configuration; or if it is no class.
    """
    try:
        names = dict(inspect.signature(make).parameters)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{place}._target_: {make!r} is not a class or function with arguments."
        ) from error
    names |= {} if also is None else inspect.signature(also).parameters
    for key in given:
        if key not in names:
            hidden = ("params", "kwargs", "self", "common", "source")
            known = [name for name in names if name not in hidden]
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {place}.{close[0]}?" if close else f"it has: {', '.join(known)}."
            raise InputError(f"{place}.{key}: {make.__name__} has no such argument; {hint}")


def method(config: Config) -> Method:
    """Return the method, composed.

    Raises:
        InputError: if it does not take one of its keys, or not this value.
    """
    make, given = locate(config.method["_target_"], "method._target_"), arguments(config.method)
    check_arguments("method", make, given)
    try:
        composed = make(**given)
    except ValueError as error:  # it begins with the argument's name and value
        raise InputError(f"method.{error}") from error
    except TypeError as error:
        values = ", ".join(f"{key}={value}" for key, value in given.items())
        raise InputError(f"method={config.method_name} with {values}: {error}") from error
    if not isinstance(composed, Method):
        raise InputError(f"method._target_={config.method['_target_']} makes no noisy_kd.Method.")
    if composed.hint is not None and composed.hint.epochs >= config.trainer.max_epochs:
        raise InputError(
            f"method.hint_epochs={composed.hint.epochs} leaves nothing of trainer.max_epochs="
            f"{config.trainer.max_epochs} to train the whole student."
        )
    if composed.hint is not None and config.trainer.strategy == "ddp":
        raise InputError(f"method={config.method_name} needs one device: leave trainer=ddp out.")
    return composed


def network(
    spec: Network,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int = 0,
    dropout: float = 0.0,
) -> nn.Module:
    """Return a network with its initial weights, decided by the seed.

    A network of conf/model gets as many logits as there are classes. ``dropout`` is the probability
    of a dropout layer after the last hidden FC layer; 0 for none.

    Raises:
        InputError: if it does not fit the images or the classes.
    """
    if spec._target_ is not None:
        return instantiate(spec._target_, input_shape, classes, seed, spec.arguments)
    layers = notation.parse(str(spec.layers))
    if notation.notation(layers) in named_networks():
        layers = notation.with_classes(layers, classes)
    if dropout:
        layers = notation.with_dropout(layers, dropout)
    return networks.network(layers, input_shape, classes, seed)


def student(config: Config, data: ImageDataModule) -> nn.Module:
    """Return the untrained student with the initial weights that the run's seed decides."""
    dropout, classes = config.student.dropout, len(data.classes)
    net = network(config.student, data.input_shape, classes, config.seed, dropout)
    if config.student.init != "he":
        initialise(net, Generator().manual_seed(config.seed), config.student.init)
    return net


def teachers(config: Config, data: ImageDataModule) -> list[nn.Module]:
    """Return the untrained teachers."""
    classes, seed, wanted = len(data.classes), config.teacher.seed, config.teacher.input
    if wanted == Input():
        return [network(spec, data.input_shape, classes, seed) for spec in config.teachers]
    shape = teacher_shape(config.teacher, data.input_shape)
    nets = [network(spec, shape, classes, seed) for spec in config.teachers]
    to_pixels = _undo(data.preprocessing)
    return [TeacherInput(net, to_pixels, wanted.size, wanted.mean, wanted.std) for net in nets]


def teacher_shape(teacher: Teacher, input_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the shape [C, H, W] of what the teacher sees of images of ``input_shape``."""
    (channels, height, width), wanted = input_shape, teacher.input
    channels = teacher_channels(channels, wanted.mean, wanted.std)
    return channels, wanted.size or height, wanted.size or width


def _undo(scaled: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the inverse of a preprocessing, but for its scale to [0, 1].

    Raises:
        InputError: if it has none.
    """
    if isinstance(scaled, preprocessing.SubtractMean):
        return lambda x: x + scaled.mean
    if type(scaled) is preprocessing.Scale:
        return lambda x: x
    name = type(scaled).__name__
    raise InputError(f"teacher.input does not work with the preprocessing {name}: leave it out.")


def optimizer(settings: Optimizer, numerics: Numerics) -> OptimizerFactory:
    """Return what makes the optimiser from parameters; fused where the device has it."""
    make = locate(settings._target_)
    known = inspect.signature(make).parameters
    fused = numerics.fast and numerics.device.type in ("cpu", "cuda")
    fused = fused and not {"foreach", "differentiable"} & settings.arguments.keys()
    may = {"fused": fused, "capturable": numerics.graphs}
    given: dict[str, Any] = {key: True for key, wanted in may.items() if wanted and key in known}
    given |= {"lr": settings.lr, "weight_decay": settings.weight_decay, **settings.arguments}
    return partial(make, **given)


def teacher_optimizer(teacher: Teacher) -> Optimizer:
    """Return the settings of the optimiser that trains the teacher."""
    arguments = {key: value for key, value in teacher.optimizer.items() if key != "_target_"}
    target = teacher.optimizer["_target_"]
    for key in arguments.keys() & {"lr", "weight_decay"}:
        raise InputError(f"teacher.optimizer.{key}={arguments[key]}: use teacher.{key} instead.")
    return Optimizer(target, teacher.lr, teacher.weight_decay, arguments=arguments)


def numerics(config: Config) -> Numerics:
    """Return how the run's networks are computed; sets what is global for that."""
    device = choose_device(config.trainer.accelerator)
    return numerics_of.set_up(resolved_precision(config), config.fast, device)


OWN_ARGUMENTS = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}
"""Arguments of the Trainer that the project sets: runs have callbacks of their own for these."""


def trainer(
    config: Config, max_epochs: int, callbacks: list[Callback], one_device: bool = False
) -> Trainer:
    """Return Lightning's Trainer; the runs' own callbacks log and keep checkpoints.

    Raises:
        InputError: if it refuses an argument.
    """
    settings = vars(config.trainer) | {"max_epochs": max_epochs}
    target, given = settings.pop("_target_"), settings.pop("arguments")
    settings |= {key: value for key, value in given.items() if key not in CLIP}
    if one_device:
        settings |= {"devices": 1, "strategy": "auto"}
    if settings["strategy"] == "auto":  # in a Slurm job too: its signals are the sweep's affair
        settings["plugins"] = [LightningEnvironment()]
        rank_zero_only.rank = 0  # type: ignore[attr-defined]  # whatever the environment says
    bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    settings |= OWN_ARGUMENTS | {"callbacks": callbacks, "enable_progress_bar": bar}
    try:
        return locate(target)(**settings, deterministic=config.deterministic)  # type: ignore[no-any-return]
    except (MisconfigurationException, TypeError, ValueError) as error:
        texts = [f"{key}={value}" for key, value in given.items()]
        why = " ".join(str(error).split())
        raise InputError(f"trainer{' with ' * bool(texts)}{', '.join(texts)}: {why}") from error


def clipping(config: Config) -> dict[str, Any]:
    """Return how the gradients of each student are clipped; empty for not at all."""
    return {key: value for key, value in config.trainer.arguments.items() if key in CLIP}


def arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a node of the configuration, all but its ``_target_``."""
    return {key: value for key, value in node.items() if key != "_target_"}


def callbacks(config: Config, bar: bool = True, own: bool = True) -> list[Callback]:
    """Return the progress bar (with ``bar``) and what the user added; ``own`` code too, or not."""
    left_out = ("best",) if bar else ("best", "progress")
    nodes = [node for name, node in config.callbacks.items() if node and name not in left_out]
    targets = [node["_target_"] for node in nodes]
    return [
        locate(target)(**arguments(node))
        for node, target in zip(nodes, targets, strict=True)
        if own or target.startswith("noisy_kd.")
    ]


def best_epoch(config: Config) -> BestEpoch:
    """Return the callback that chooses the epoch."""
    node = config.callbacks.get("best")
    return locate(node["_target_"])(**arguments(node)) if node else BestEpoch()


def loggers(config: Config, directory: Path, prefix: str = "") -> list[Logger]:
    """Return the loggers of one run; they write into its directory, one event file per run.

    The prefix of a teacher keeps its curves out of the charts of the students'.
    """
    loggers: list[Logger] = []
    for node in filter(None, config.logger.values()):
        make = locate(node["_target_"])
        where: dict[str, Any] = {"save_dir": str(directory), "name": "", "version": ""}
        if issubclass(make, TensorBoardLogger):
            where |= {"default_hp_metric": False, "prefix": prefix}
        if issubclass(make, WandbLogger):
            where = {"save_dir": str(directory), "name": directory.name}
        try:
            loggers.append(make(**arguments(node), **where))
        except TypeError as error:
            raise InputError(f"logger: {' '.join(str(error).split())}") from error
    return loggers


def views(config: Config, augment: str, count: int | None) -> Views:
    """Return the views that an entry of ``augment`` describes, so many of them.

    Raises:
        InputError: if it does not take one of its keys, or not this value.
    """
    given = {k: v for k, v in config.augment.get(augment, {}).items() if k != "views"}
    for key, instead in (("seed", "data.seed"), ("count", "data.views")):
        if key in given:
            raise InputError(f"augment.{augment}.{key}={shown(given[key])}: use {instead} instead.")
    check_arguments(f"augment.{augment}", Views, given)
    try:
        return Views(count, config.data.seed, **given)
    except InputError as error:
        raise InputError(f"augment.{augment}: {error}") from error


def teacher_views(config: Config) -> Views:
    """Return the views that a teacher is trained on: drawn ones without end, not the students'."""
    count = config.augment.get(config.teacher.augment, {}).get("views", 1)
    teacher = views(config, config.teacher.augment, count)
    seed = generator_key(config.teacher.seed, "teacher views")
    return replace(teacher, count=None, seed=seed) if teacher.draws else teacher
