"""Stage 3: students, trained side by side on the teacher's cached logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from noisy_kd.callbacks import Progress, Resume, RunLogs
from noisy_kd.callbacks.best import Best
from noisy_kd.callbacks.progress import Watch
from noisy_kd.config import Config
from noisy_kd.data import ImageDataModule
from noisy_kd.identity import config_hash
from noisy_kd.model.network import build
from noisy_kd.training import assembly
from noisy_kd.training.hardware import Numerics
from noisy_kd.training.hints import hint_stage
from noisy_kd.training.learner import Learner, Member, fit


@dataclass(frozen=True)
class Trained:
    """A student after training: the net with the chosen epoch's weights."""

    net: nn.Sequential
    best: Best
    epochs: int
    seconds: float
    samples: int
    steps: int
    diverged: bool
    checkpoint: Path
    loggers: list[Logger]


@dataclass(frozen=True)
class Teaching:
    """What students learn from.

    Args:
        teacher: the (first) frozen teacher.
        live: the teacher that is asked at each step, its dropout active; None if none is.
        train_logits: of all V x M views by T teachers or passes, [V * M, T, C].
        test_logits: of the N test images by the teachers, [N, T, C].
    """

    teacher: nn.Sequential
    live: nn.Sequential | None
    train_logits: Tensor
    test_logits: Tensor


def train_students(
    configs: list[Config],
    directories: list[Path],
    data: ImageDataModule,
    teaching: Teaching | None,
    numerics: Numerics,
    watch: Watch | None = None,
) -> list[Trained]:
    """Train one student per configuration, all on the same batches of the same images.

    Args:
        configs: they differ only in method, seed, dropout and optimiser.
        directories: where each writes its checkpoint and its curves.
        data: the images, on the device.
        teaching: the teacher and its logits, None for a method without one.
        numerics: how nets are computed.
        watch: hears of every epoch, and shows it in place of a progress bar here.
    """
    first = configs[0]
    learner = Learner(
        [_member(config, data, teaching, numerics) for config in configs],
        data.training_table(data.subset),
        data.validation_table(),
        None if teaching is None else teaching.train_logits,
        data.batch_size,
        first.trainer.max_epochs,
        numerics,
    )
    checkpoints = [directory / "last.ckpt" for directory in directories]
    best = assembly.best_epoch(first)
    identity = [f"{config_hash(config)} in {numerics.precision}" for config in configs]
    resume = Resume(checkpoints, best, identity)
    loggers = [assembly.loggers(c, d) for c, d in zip(configs, directories, strict=True)]
    callbacks = [best, resume, RunLogs(loggers), *assembly.displays(first, bar=watch is None)]
    if watch is not None:
        callbacks.append(Progress([str(directory) for directory in directories], watch))
    trainer = assembly.trainer(first, learner.epochs, callbacks)
    fit(learner, trainer)
    return [
        _trained(learner, k, best.best[k], trainer.current_epoch, checkpoints[k], loggers[k])
        for k in range(len(configs))
    ]


def _member(
    config: Config, data: ImageDataModule, teaching: Teaching | None, numerics: Numerics
) -> Member:
    settings, method = config.optimizer, assembly.method(config)
    net = numerics.arrange_net(new_student(config, data))
    hint = None
    if method.hint is not None and teaching is not None:
        hint = hint_stage(method.hint, teaching.teacher, net, data.input_shape, config.seed)
    return Member(
        net,
        method,
        config.seed,
        assembly.optimizer(settings._target_, settings.lr, settings.weight_decay, numerics),
        settings.schedule,
        settings.averaging,
        settings.ema_decay,
        None if teaching is None else teaching.live,
        hint,
    )


def _trained(
    learner: Learner, k: int, best: Best, epochs: int, checkpoint: Path, loggers: list[Logger]
) -> Trained:
    net = learner.members[k].net
    steps = learner.updates(k)
    if best.weights:
        net.load_state_dict(best.weights)
    epochs = learner.stopped[k] or epochs
    samples = len(learner.table) * epochs
    net.eval().to(learner.numerics.device)  # Lightning leaves it on the CPU
    seconds, diverged = learner.seconds_trained, learner.diverged[k]
    return Trained(net, best, epochs, seconds, samples, steps, diverged, checkpoint, loggers)


def new_student(config: Config, data: ImageDataModule) -> nn.Sequential:
    """The untrained student with the initial weights that its seed decides.

    Raises:
        InputError: if the network does not fit the images or the classes.
    """
    layers = assembly.student_layers(config, len(data.classes))
    return build(layers, data.input_shape, len(data.classes), config.seed)
