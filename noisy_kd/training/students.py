"""Stage 3: students, trained side by side on the teacher's cached logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from noisy_kd.config import Config
from noisy_kd.data import ImageDataModule, WithColumns, loader
from noisy_kd.method import Method
from noisy_kd.runs.identity import config_hash
from noisy_kd.training import build
from noisy_kd.training.callbacks import Progress, Resume, RunLogs
from noisy_kd.training.callbacks.best import Best
from noisy_kd.training.callbacks.progress import Watch
from noisy_kd.training.distiller import Distiller
from noisy_kd.training.fit import fit
from noisy_kd.training.hints import hint_stage
from noisy_kd.training.numerics import Numerics
from noisy_kd.training.samples import TrainingSamples
from noisy_kd.training.stack import StudentStack


@dataclass(frozen=True)
class Run:
    """One run: its configuration, and the objects that are made of it, once.

    Args:
        config: the configuration.
        method: what the student learns from.
        student: untrained.
    """

    config: Config
    method: Method
    student: nn.Module


@dataclass(frozen=True)
class TeacherOutputs:
    """What students learn from.

    Args:
        teacher: the (first) frozen teacher.
        train_logits: of all V x M views by T teachers or passes, [V * M, T, C].
        test_logits: of the N test images by the teachers, [N, T, C].
    """

    teacher: nn.Module
    train_logits: Tensor
    test_logits: Tensor


@dataclass(frozen=True)
class TrainedStudent:
    """A student after training: the net with the weights of the chosen epoch."""

    net: nn.Module
    distiller: Distiller
    best: Best
    epochs: int
    seconds: float
    samples: int
    steps: int
    diverged: bool
    checkpoint: Path
    loggers: list[Logger]


def train_students(
    runs: list[Run],
    directories: list[Path],
    data: ImageDataModule,
    taught: TeacherOutputs | None,
    numerics: Numerics,
    watch: Watch | None = None,
) -> list[TrainedStudent]:
    """Train one student per run, all on the same batches of the same images.

    Args:
        runs: they differ only in method, seed, dropout and optimiser.
        directories: where each writes its checkpoint and its curves.
        data: the images, on the device.
        taught: the teacher and its logits, None for a method without one.
        numerics: how networks are computed.
        watch: is called after every epoch, and shows it in place of a progress bar here.
    """
    first = runs[0]
    dataset = data.training_set(data.subset)
    z_NTC = None
    if taught is not None:
        index = dataset.logit_index()
        z_NTC = taught.train_logits.to(numerics.device)[index]
    stack = StudentStack(
        [_distiller(run, data, taught, numerics) for run in runs],
        TrainingSamples(dataset, data.batch_size, z_NTC),
        numerics,
        build.clipping(first.config),
    )
    checkpoints = [directory / "last.ckpt" for directory in directories]
    best = build.best_epoch(first.config)
    identity = [f"{config_hash(run.config)} in {numerics.precision}" for run in runs]
    files = [directory / "metrics.csv" for directory in directories]
    loggers = [
        build.loggers(run.config, directory)
        for run, directory in zip(runs, directories, strict=True)
    ]
    callbacks = [best, Resume(checkpoints, best, identity), RunLogs(files, loggers)]
    callbacks += build.callbacks(first.config, bar=watch is None)
    if watch is not None:
        callbacks.append(Progress([str(directory) for directory in directories], watch))
    trainer = build.trainer(first.config, first.config.trainer.max_epochs, callbacks)
    fit(stack, trainer, _validation(first, data, taught))
    return [
        _trained(stack, k, best.best[k], trainer.current_epoch, checkpoints[k], loggers[k])
        for k in range(len(runs))
    ]


def _validation(
    run: Run, data: ImageDataModule, taught: TeacherOutputs | None
) -> DataLoader[Any] | None:
    """The loader of the validation set, with the teacher's logits; None without one."""
    held_out = data.validation_set()
    if not len(held_out):
        return None
    if taught is None:
        return loader(held_out, 1000)
    z_NTC = taught.train_logits[held_out.logit_index().to(taught.train_logits.device)]
    clean = run.method.clean_target(z_NTC).to(data.images.labels.device)
    return loader(WithColumns(held_out, clean), 1000)


def _distiller(
    run: Run, data: ImageDataModule, taught: TeacherOutputs | None, numerics: Numerics
) -> Distiller:
    settings, method = run.config.optimizer, run.method
    student = numerics.place(run.student)
    hint = teacher = None
    if taught is not None and method.hint is not None:
        seed = run.config.seed
        hint = hint_stage(method.hint, taught.teacher, student, data.input_shape, seed)
    if taught is not None and method.teacher_dropout is not None and not method.passes:
        teacher = taught.teacher  # it is asked at each step
    optimizer = build.optimizer(
        settings._target_, settings.lr, settings.weight_decay, numerics, settings.arguments
    )
    return Distiller(
        student,
        teacher,
        method,
        optimizer=optimizer,
        schedule=settings.schedule,
        seed=run.config.seed,
        averaging=settings.averaging,
        ema_decay=settings.ema_decay,
        hint=hint,
    )


def _trained(
    stack: StudentStack, k: int, best: Best, epochs: int, checkpoint: Path, loggers: list[Logger]
) -> TrainedStudent:
    assert stack.samples is not None
    distiller = stack.distillers[k]
    net = distiller.student
    if best.weights:
        net.load_state_dict(best.weights)
    epochs = stack.stopped[k] or epochs
    net.eval().to(stack.numerics.device)  # Lightning leaves it on the CPU
    return TrainedStudent(
        net=net,
        distiller=distiller,
        best=best,
        epochs=epochs,
        seconds=stack.seconds_trained,
        samples=len(stack.samples.dataset) * epochs,  # type: ignore[arg-type]
        steps=stack.updates(k),
        diverged=stack.diverged[k],
        checkpoint=checkpoint,
        loggers=loggers,
    )
