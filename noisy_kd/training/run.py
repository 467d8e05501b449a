"""A run, top to bottom: data, teacher, logits, student, result."""

from __future__ import annotations

import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import noisy_kd
from noisy_kd import dashboard, runs, summary
from noisy_kd.callbacks.logs import close
from noisy_kd.callbacks.progress import Watch
from noisy_kd.config import Config
from noisy_kd.data import ImageDataModule
from noisy_kd.data.preprocess import kind_of
from noisy_kd.errors import InputError
from noisy_kd.evaluation import count_errors, predict_logits
from noisy_kd.identity import config_hash, identity, settings_hash
from noisy_kd.model import complexity
from noisy_kd.model.network import build, notation_of, with_active_dropout
from noisy_kd.runs import TEACHER_LOGITS, Result
from noisy_kd.training import assembly
from noisy_kd.training.hardware import Numerics, device_name
from noisy_kd.training.hints import hint_stage
from noisy_kd.training.logits import cached_logits, cached_passes
from noisy_kd.training.student import Teaching, Trained, new_student, train_students
from noisy_kd.training.teacher import trained_teacher

log = logging.getLogger(__name__)

NEEDS_TWO = "batch normalisation needs mini-batches of at least two images; take more."


def run(
    configs: list[Config],
    directories: list[Path],
    data: ImageDataModule | None = None,
    watch: Watch | None = None,
) -> list[Result]:
    """Train one student per configuration and write each one's ``result.json``.

    Args:
        configs: they differ only in method, seed, dropout and optimiser.
        directories: one for each.
        data: the images, if they are read already.
        watch: hears of every epoch.

    Returns:
        The results, also of students that diverged.

    Raises:
        InputError: for settings or files that cannot work, before anything is trained.
    """
    first, began = configs[0], time.time()
    data, numerics = ready(configs, data)
    log.info("%s", summary.opening(first, data, numerics))

    data.to(numerics.device)
    taught = teaching(first, data, numerics, directories[0] / "teacher")
    students = train_students(configs, directories, data, taught, numerics, watch)

    found = []
    for config, directory, student in zip(configs, directories, students, strict=True):
        z_NC = None if taught is None else assembly.method(config).clean_target(taught.test_logits)
        errors = None if z_NC is None else count_errors(z_NC, data.test_images.labels)
        logits = None if student.diverged else predict_logits(student.net, data.test_table())
        result = describe_run(config, data) | outcome(student, data, logits, errors)
        result |= {"precision": numerics.precision, "device": device_name(numerics.device)}
        result |= {"stack_size": len(configs), "process": os.getpid(), "began": began}
        result |= {"ended": time.time(), "versions": versions()}
        keep(directory, config, student, data.preprocessing, z_NC, result)
        show(config, student, logits, data, taught, result)
        found.append(result)
    return found


def show(
    config: Config,
    student: Trained,
    logits_NC: Tensor | None,
    data: ImageDataModule,
    taught: Teaching | None,
    result: Result,
) -> None:
    """Add the result to the run's TensorBoard file; a dashboard that fails harms no result."""
    method = assembly.method(config)
    try:
        dashboard.add_run(config, method, student, logits_NC, data, taught, result)
        close(student.loggers)
    except Exception as error:  # of whatever draws or writes
        log.warning("The dashboard of this run is not complete: %s", error)


def ready(
    configs: list[Config], data: ImageDataModule | None = None
) -> tuple[ImageDataModule, Numerics]:
    """Everything that is checked, read and chosen before the first stage.

    Raises:
        InputError: for settings or files that cannot work.
    """
    assembly.quiet_libraries()
    first = configs[0]
    for config in configs:
        assembly.check(config)
    numerics = assembly.numerics(first)
    data = data or assembly.data_module(first)
    check_fit(configs, data)
    return data, numerics


@rank_zero_only
def keep(
    directory: Path,
    config: Config,
    student: Trained,
    preprocessing: nn.Module,
    teacher_logits_NC: Tensor | None,
    result: Result,
) -> None:
    """Write the student and, last, the result; then the checkpoint to go on from is not needed.

    The teacher's logits of the test images stay with the run: evaluated later, or elsewhere, it is
    compared with the teacher that it had.
    """
    torch.save(student.net.cpu().state_dict(), directory / "student.pt")
    if teacher_logits_NC is not None:
        torch.save(teacher_logits_NC.clone(), directory / TEACHER_LOGITS)
    kind, state = kind_of(preprocessing), preprocessing.state_dict()
    torch.save(
        {"kind": kind, "state": {name: one.cpu() for name, one in state.items()}},
        directory / "preprocessing.pt",
    )
    OmegaConf.save(OmegaConf.structured(config), directory / "config.yaml")
    runs.write_result(directory, result)
    student.checkpoint.unlink(missing_ok=True)


def check_fit(configs: list[Config], data: ImageDataModule) -> None:
    """Refuse networks and subsets that do not fit the data, before anything is trained.

    Raises:
        InputError: saying which.
    """
    data.training_table(data.subset)
    data.training_table(configs[0].teacher.subset, "teacher.subset")
    assembly.check_shift(configs[0].teacher.shift, data.input_shape)
    teacher, teachers = configs[0].teacher, teacher_nets(configs[0], data)
    is_trained = teacher.checkpoint is None and assembly.method(configs[0]).has_teacher
    for net in teachers:
        complexity.multiplications(net, data.input_shape)
        if is_trained and teacher.batch_size == 1 and (teacher.batch_norm or _normalises(net)):
            raise InputError(f"teacher.batch_size=1: {NEEDS_TWO}")
    for config in configs:
        student = new_student(config, data)
        complexity.multiplications(student, data.input_shape)
        method = assembly.method(config)
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


def _normalises(net: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in net.modules())


def teacher_nets(config: Config, data: ImageDataModule) -> list[nn.Sequential]:
    """The untrained teachers.

    Raises:
        InputError: if one does not fit the images or the classes.
    """
    classes = len(data.classes)
    return [
        build(assembly.layers_for(layers, classes), data.input_shape, classes)
        for layers in config.teachers
    ]


def teaching(
    config: Config, data: ImageDataModule, numerics: Numerics, logs: Path
) -> Teaching | None:
    """The teachers, trained if need be, and their logits; None for a method without one.

    Raises:
        InputError: if a method wants of a teacher what it has not.
    """
    method = assembly.method(config)
    if not method.has_teacher:
        return None
    teachers = [trained_teacher(config, data, numerics, logs, layers) for layers in config.teachers]
    store = Path(config.store)
    each = [cached_logits(teacher, data, store) for teacher in teachers]
    train, test = (torch.stack([one[part] for one in each], dim=1) for part in ("train", "test"))
    live = None
    if method.teacher_dropout is not None:
        live = with_active_dropout(teachers[0], method.teacher_dropout.probability)
        if method.passes:
            passes = cached_passes(live, method.passes, data, store)
            train, live = torch.cat([train, passes], dim=1), None
    return Teaching(teachers[0], live, train, test)


def names(config: Config) -> Result:
    """What was run: names and settings."""
    clean = assembly.method(config).is_logit_regression
    return {
        "dataset": config.data.name,
        "student": config.student_name,
        "teacher": config.teacher_name,
        "method": "logit_regression" if clean else config.method_name,
        "alpha": config.method.get("alpha"),
        "sigma": config.method.get("sigma"),
        "seed": config.seed,
        "dropout": config.student.dropout,
        "subset": config.data.subset,
        "config_hash": config_hash(config),
        "settings_hash": settings_hash(config),
        "settings": identity(config),
    }


def write_failed(config: Config, directory: Path, error: str) -> None:
    """A ``result.json`` that says why there is no result; the run is tried again next time."""
    runs.write_result(directory, names(config) | {"status": "failed", "error": error})


def describe_run(config: Config, data: ImageDataModule) -> Result:
    """What was run: names, settings, sizes."""
    shape = data.input_shape
    student = new_student(config, data)
    teachers = teacher_nets(config, data)
    cost = complexity.multiplications(student, shape)
    teacher_cost = sum(complexity.multiplications(net, shape) for net in teachers)
    return names(config) | {
        "student_layers": notation_of(student),
        "teacher_layers": " + ".join(notation_of(net) for net in teachers),
        "input_shape": list(shape),
        "classes": list(data.classes),
        "multiplications": cost,
        "teacher_multiplications": teacher_cost,
        "compression": teacher_cost / cost,
        "parameters": complexity.parameters(student),
        "teacher_parameters": sum(complexity.parameters(net) for net in teachers),
    }


def outcome(
    student: Trained, data: ImageDataModule, logits_NC: Tensor | None, teacher_errors: int | None
) -> Result:
    """How it went; the logits are those of the test images, in float32, with the chosen weights."""
    size = len(data.test_images)
    errors = None if logits_NC is None else count_errors(logits_NC, data.test_images.labels)
    return {
        "status": "diverged" if student.diverged else "done",
        "test_error": None if errors is None else errors / size,
        "test_errors": errors,
        "test_size": size,
        "val_error": student.best.val_error,
        "teacher_test_error": None if teacher_errors is None else teacher_errors / size,
        "teacher_test_errors": teacher_errors,
        "best_epoch": student.best.epoch,
        "epochs": student.epochs,
        "steps": student.steps,
        "seconds": round(student.seconds, 3),
        "samples_per_second": round(student.samples / student.seconds, 1),
    }


def versions() -> dict[str, Any]:
    """What the numbers were made with."""
    return {
        "noisy_kd": noisy_kd.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
