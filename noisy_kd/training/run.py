"""A run, top to bottom: data, teacher, logits, student, result."""

from __future__ import annotations

import logging
import platform
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

import noisy_kd
from noisy_kd import runs, summary
from noisy_kd.config import Config, config_hash, settings_hash
from noisy_kd.data import ImageDataModule
from noisy_kd.evaluation import count_errors, predict_logits
from noisy_kd.model import complexity
from noisy_kd.model.network import build, notation_of
from noisy_kd.runs import Result
from noisy_kd.training import assembly, hardware
from noisy_kd.training.logits import cached_logits
from noisy_kd.training.student import Trained, new_student, train_students
from noisy_kd.training.teacher import trained_teacher

log = logging.getLogger(__name__)


def run(configs: list[Config], directories: list[Path]) -> list[Result]:
    """Train one student per configuration and write each one's ``result.json``.

    Args:
        configs: they differ only in method, seed, dropout and optimiser.
        directories: one for each.

    Returns:
        The results, also of students that diverged.

    Raises:
        InputError: for settings or files that cannot work, before anything is trained.
    """
    assembly.quiet_libraries()
    first = configs[0]
    device = assembly.device(first)
    for config in configs:
        assembly.check(config)
    data = assembly.data_module(first)
    check_fit(configs, data)
    numerics = hardware.choose(first.precision, first.fast, device)
    methods = [assembly.method(config) for config in configs]
    log.info("%s", summary.opening(first, data, numerics))

    data.to(device)
    teacher, logits = None, None
    if any(method.has_teacher for method in methods):
        teacher = trained_teacher(first, data, numerics, directories[0] / "teacher")
        logits = cached_logits(teacher, data, Path(first.store))
    students = train_students(configs, directories, data, logits, numerics)

    labels = data.test_images.labels
    taught = {} if logits is None else {"test": count_errors(logits["test"], labels)}
    found = []
    for config, directory, student in zip(configs, directories, students, strict=True):
        result = describe_run(config, data) | outcome(student, data, taught.get("test"))
        result |= {"precision": numerics.precision, "device": device_name(device)}
        result |= {"stack_size": len(configs), "versions": versions()}
        keep(directory, config, student, result)
        found.append(result)
    return found


@rank_zero_only
def keep(directory: Path, config: Config, student: Trained, result: Result) -> None:
    """Write the student and, last, the result; then the checkpoint to go on from is not needed."""
    torch.save(student.net.cpu().state_dict(), directory / "student.pt")
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
    shape, classes = data.input_shape, len(data.classes)
    for config in configs:
        new_student(config, data)
        build(assembly.layers_for(config.teacher.layers, classes), shape, classes)


def describe_run(config: Config, data: ImageDataModule) -> Result:
    """What was run: names, settings, sizes."""
    shape, classes = data.input_shape, len(data.classes)
    student = new_student(config, data)
    teacher = build(assembly.layers_for(config.teacher.layers, classes), shape, classes)
    costs = [complexity.multiplications(net, shape) for net in (student, teacher)]
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
        "student_layers": notation_of(student),
        "teacher_layers": notation_of(teacher),
        "input_shape": list(shape),
        "multiplications": costs[0],
        "teacher_multiplications": costs[1],
        "compression": costs[1] / costs[0],
        "parameters": complexity.parameters(student),
        "teacher_parameters": complexity.parameters(teacher),
        "config_hash": config_hash(config),
        "settings_hash": settings_hash(config),
    }


def outcome(student: Trained, data: ImageDataModule, teacher_errors: int | None) -> Result:
    """How it went; the one look at the test set, in float32, with the chosen weights."""
    size = len(data.test_images)
    errors = None
    if not student.diverged:
        logits = predict_logits(student.net, data.test_table())
        errors = count_errors(logits, data.test_images.labels)
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
        "seconds": round(student.seconds, 3),
        "samples_per_second": round(student.samples / student.seconds, 1),
    }


def device_name(device: torch.device) -> str:
    """``cpu`` or the accelerator's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, Any]:
    """What the numbers were made with."""
    return {
        "noisy_kd": noisy_kd.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
