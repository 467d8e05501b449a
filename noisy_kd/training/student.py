"""Stage 3: students, trained side by side on the teacher's cached logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from noisy_kd.callbacks import Resume, RunLogs
from noisy_kd.callbacks.best import Best
from noisy_kd.config import Config, config_hash
from noisy_kd.data import ImageDataModule
from noisy_kd.model.network import build
from noisy_kd.training import assembly
from noisy_kd.training.hardware import Numerics
from noisy_kd.training.learner import Learner, Member, fit


@dataclass(frozen=True)
class Trained:
    """A student after training: the net with the chosen epoch's weights."""

    net: nn.Sequential
    best: Best
    epochs: int
    seconds: float
    samples: int
    diverged: bool
    resume: Resume


def train_students(
    configs: list[Config],
    directories: list[Path],
    data: ImageDataModule,
    logits: dict[str, Tensor] | None,
    numerics: Numerics,
) -> list[Trained]:
    """Train one student per configuration, all on the same batches of the same images.

    Args:
        configs: they differ only in method, seed, dropout and optimiser.
        directories: where each writes its checkpoint and its curves.
        data: the images, on the device.
        logits: the teacher's, as :func:`noisy_kd.training.logits.cached_logits` gives them.
        numerics: how nets are computed.
    """
    first = configs[0]
    nets = [new_student(config, data) for config in configs]
    members = [
        Member(
            numerics.arrange_net(net),
            assembly.method(config),
            config.seed,
            assembly.optimizer(
                config.optimizer._target_,
                config.optimizer.lr,
                config.optimizer.weight_decay,
                numerics,
            ),
            config.optimizer.schedule,
        )
        for config, net in zip(configs, nets, strict=True)
    ]
    table = data.training_table(data.subset)
    teacher_logits = None if logits is None else logits["train"]
    epochs = first.trainer.max_epochs
    held_out = data.validation_table()
    learner = Learner(members, table, held_out, teacher_logits, data.batch_size, epochs, numerics)
    best = assembly.best_epoch(first)
    files = [directory / "last.ckpt" for directory in directories]
    resume = Resume(files, best, [config_hash(config) for config in configs])
    if first.force:
        resume.remove()
    logs = RunLogs([assembly.loggers(c, d) for c, d in zip(configs, directories, strict=True)])
    trainer = assembly.trainer(first, epochs, [best, resume, logs, *assembly.displays(first)])
    fit(learner, trainer)
    trained = []
    for k, net in enumerate(nets):
        if best.best[k].weights:
            net.load_state_dict(best.best[k].weights)
        samples = len(table) * trainer.current_epoch
        trained.append(
            Trained(
                net.eval(),
                best.best[k],
                trainer.current_epoch,
                learner.seconds,
                samples,
                learner.diverged[k],
                resume,
            )
        )
    return trained


def new_student(config: Config, data: ImageDataModule) -> nn.Sequential:
    """The untrained student with the initial weights that its seed decides.

    Raises:
        InputError: if the network does not fit the images or the classes.
    """
    layers = assembly.student_layers(config, len(data.classes))
    return build(layers, data.input_shape, len(data.classes), config.seed)
