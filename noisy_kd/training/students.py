"""Stage 3: students, trained side by side on the teacher's cached logits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from noisy_kd.config import Config
from noisy_kd.data.datamodules import ImageDataModule
from noisy_kd.data.dataset import WithColumns, at_once, loader
from noisy_kd.method import Method
from noisy_kd.model.layers import folded, with_batch_norm
from noisy_kd.runs.identity import config_hash
from noisy_kd.training import build
from noisy_kd.training.callbacks.best import Best
from noisy_kd.training.distiller import Distiller
from noisy_kd.training.fit import TrainingSamples, fit_runs
from noisy_kd.training.hints import hint_stage
from noisy_kd.training.logits import weights_digest
from noisy_kd.training.numerics import Numerics
from noisy_kd.training.stack import StudentStack


@dataclass(frozen=True)
class Run:
    """A configuration, and the method and the untrained student that it describes."""

    config: Config
    method: Method
    student: nn.Module


@dataclass(frozen=True)
class TeacherOutputs:
    """What students learn from.

    Args:
        teachers: frozen.
        train_logits: of all V x M views by T teachers or passes, [V * M, T, C].
        test_logits: of the N test images by the teachers, [N, T, C].
    """

    teachers: list[nn.Module]
    train_logits: Tensor
    test_logits: Tensor


@dataclass(frozen=True)
class TrainedStudent:
    """A student with the weights of its best epoch, and how its training went."""

    net: nn.Module
    distiller: Distiller
    best: Best
    loggers: list[Logger]
    epochs: int
    seconds: float
    samples: int
    steps: int
    diverged: bool


def train_students(
    runs: list[Run],
    directories: list[Path],
    data: ImageDataModule,
    taught: TeacherOutputs | None,
    numerics: Numerics,
    refresh: Callable[[], None] | None = None,
) -> list[TrainedStudent]:
    """Train one student per run, all on the same batches of the same images."""
    config = runs[0].config
    dataset = data.training_set(data.subset, unlabelled=not runs[0].method.needs_labels)
    z_NTC, live = None, []
    if taught is not None and data.views.count is None:
        live = taught.teachers
    elif taught is not None:
        z_NTC = taught.train_logits.to(numerics.device)[dataset.logit_index()]
    samples = TrainingSamples(dataset, data.batch_size, z_NTC, live)
    distillers = [_distiller(run, data, taught, numerics) for run in runs]
    stack = StudentStack(distillers, samples, numerics, build.clipping(config))
    teachers = "" if taught is None else " of ".join(["", *map(weights_digest, taught.teachers)])
    fitted = fit_runs(
        stack,
        config,
        config.trainer.max_epochs,
        _validation(runs[0], data, taught),
        [f"{config_hash(run.config)} in {numerics.precision}{teachers}" for run in runs],
        [directory / "last.ckpt" for directory in directories],
        directories,
        refresh,
    )
    students = []
    for k, (distiller, best) in enumerate(zip(distillers, fitted.best.best, strict=True)):
        epochs = stack.stopped[k] or fitted.epochs
        if best.weights:
            distiller.student.load_state_dict(best.weights)
        net = distiller.student.eval().to(numerics.device)  # Lightning leaves it on the CPU
        if config.student.batch_norm:
            net = folded(net)  # type: ignore[arg-type]
        steps = stack.updates(k) or samples.steps * epochs
        counts = (epochs, stack.seconds_trained, len(dataset) * epochs, steps)
        parts = (net, distiller, best, fitted.loggers[k])
        students.append(TrainedStudent(*parts, *counts, stack.diverged[k]))
    return students


def _validation(
    run: Run, data: ImageDataModule, taught: TeacherOutputs | None
) -> DataLoader[Any] | None:
    """Return the loader of the validation set, with the teacher's logits; None without one."""
    validation = data.validation_set()
    if not len(validation):
        return None
    size = at_once(validation.pixels, 1000)
    if taught is None:
        return loader(validation, size)
    z_NTC = taught.train_logits[validation.logit_index().to(taught.train_logits.device)]
    clean = run.method.clean_target(z_NTC).to(data.images.labels.device)
    return loader(WithColumns(validation, clean), size)


def trainable(run: Run) -> nn.Module:
    """Return the student as it is trained: with batch normalisation, if it is asked for."""
    if not run.config.student.batch_norm:
        return run.student
    return with_batch_norm(run.student)  # type: ignore[arg-type]


def _distiller(
    run: Run, data: ImageDataModule, taught: TeacherOutputs | None, numerics: Numerics
) -> Distiller:
    settings, method, seed = run.config.optimizer, run.method, run.config.seed
    student = numerics.place(trainable(run))
    hint = teacher = None
    if taught is not None and method.hint is not None:
        hint = hint_stage(method.hint, taught.teachers[0], student, data.input_shape, seed)
    if taught is not None and method.teacher_dropout is not None and not method.passes:
        teacher = taught.teachers[0]  # it is asked at each step
    return Distiller(
        student,
        teacher,
        method,
        optimizer=build.optimizer(settings, numerics),
        schedule=settings.schedule,
        seed=seed,
        averaging=settings.averaging,
        ema_decay=settings.ema_decay,
        hint=hint,
    )
