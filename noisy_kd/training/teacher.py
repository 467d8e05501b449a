"""Stage 1: the teacher, trained once with cross-entropy, or loaded from a checkpoint."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noisy_kd.config import Config
from noisy_kd.data import ImageDataModule, loader
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.method import methods
from noisy_kd.method.noise import RandomLabels, RandomShift
from noisy_kd.model.layers import folded, with_batch_norm
from noisy_kd.model.network import architecture, draws_globally
from noisy_kd.runs import store
from noisy_kd.training import build
from noisy_kd.training.callbacks import BestEpoch, Resume, RunLogs
from noisy_kd.training.callbacks.logs import close
from noisy_kd.training.distiller import Distiller
from noisy_kd.training.fit import fit
from noisy_kd.training.numerics import Numerics
from noisy_kd.training.samples import TrainingSamples
from noisy_kd.training.stack import StudentStack

log = logging.getLogger(__name__)


TRAINING = (
    *("max_epochs", "lr", "weight_decay", "schedule", "subset", "batch_size", "shift"),
    *("batch_norm", "seed"),
)
"""Settings of the teacher's training."""


@dataclass(frozen=True)
class TeacherTraining:
    """A teacher, and how it is trained if no checkpoint holds it.

    Args:
        config: of the run; its teacher, data and precision decide the teacher.
        net: the untrained teacher.
        name: what it is called.
        data: the images, on the device.
        numerics: how networks are computed.
        label_noise: of the labels it is trained on, in a method that has it.
    """

    config: Config
    net: nn.Module
    name: str
    data: ImageDataModule
    numerics: Numerics
    label_noise: RandomLabels | None

    def trained(self, logs: Path) -> nn.Module:
        """Return the frozen teacher: from a checkpoint, from the store, or trained for the store.

        Its training writes its curves into the folder ``logs``.

        Raises:
            InputError: if the network does not fit the checkpoint.
            TrainingError: if its loss is no longer finite.
        """
        if self.config.teacher.checkpoint is not None:
            weights = read_checkpoint(Path(self.config.teacher.checkpoint), self.net)
        else:
            weights = self._from_store(logs)
        self.net.load_state_dict(weights)
        return frozen(self.net).to(self.numerics.device)

    def _from_store(self, logs: Path) -> dict[str, Tensor]:
        origin = "from the store"

        def make(work: Path) -> dict[str, Any]:
            nonlocal origin
            origin = "trained"
            log.info("Training the teacher %s: the store has none of these settings.", self.name)
            return self._train(work, logs)

        folder = Path(self.config.store)
        weights, facts = store.get_or_make(folder, "teacher", self.made_by(), make)
        log.info("Teacher %s, %s: %s.", self.name, origin, store.in_words(facts))
        return weights

    def made_by(self) -> dict[str, Any]:
        """Return everything that decides the teacher's weights."""
        teacher, data, numerics = self.config.teacher, self.data, self.numerics
        noise = {} if self.label_noise is None else {"random_labels": self.label_noise.rate}
        return {
            **{key: getattr(teacher, key) for key in TRAINING},
            "layers": architecture(self.net),
            "arguments": teacher.arguments,
            "data": data.name,
            "images": data.digest,
            "views": data.views,
            "val_size": len(data.val_rows),
            "data_seed": data.seed,
            "precision": numerics.precision,
            "fast": numerics.fast,
            "deterministic": self.config.deterministic,
            "device": numerics.device.type,
            **noise,
        }

    def _train(self, work: Path, logs: Path) -> dict[str, Any]:
        config, teacher, net = self.config, self.config.teacher, self.net
        normalised = teacher.batch_norm and type(net) is nn.Sequential and not draws_globally(net)
        if normalised:
            net = with_batch_norm(net)  # type: ignore[arg-type]
        stack = self._stack(net)
        best = BestEpoch()
        resume = Resume([work / "last.ckpt"], best, [work.name])
        loggers = build.loggers(config, logs, prefix="teacher")
        curves = RunLogs([logs / "metrics.csv"], [loggers])
        callbacks = [best, resume, curves, *build.callbacks(config)]
        trainer = build.trainer(config, teacher.max_epochs, callbacks, one_device=True)
        held_out = self.data.validation_set()
        fit(stack, trainer, loader(held_out, 1000) if len(held_out) else None)
        close(loggers)
        if stack.diverged[0]:
            shutil.rmtree(work)
            advice = f"try a smaller teacher.lr than {teacher.lr:g}"
            raise TrainingError(f"the teacher's loss is no longer finite: {advice}.")
        chosen, seconds = best.best[0], round(stack.seconds_trained, 1)
        facts = {"val_error": chosen.val_error, "epoch": chosen.epoch, "seconds": seconds}
        net.load_state_dict(chosen.weights)
        weights = (folded(net) if normalised else net).state_dict()  # type: ignore[arg-type]
        return {"tensors": {name: value.cpu() for name, value in weights.items()}, "facts": facts}

    def _stack(self, net: nn.Module) -> StudentStack:
        """The supervised training of the net on the teacher's own terms."""
        teacher = self.config.teacher
        shift = RandomShift(teacher.shift) if teacher.shift else None
        method = replace(methods.supervised(), labels=self.label_noise, input=shift)
        rates = (teacher.lr, teacher.weight_decay)
        adam = build.optimizer("torch.optim.Adam", *rates, self.numerics)
        distiller = Distiller(
            net, method=method, optimizer=adam, schedule=teacher.schedule, seed=teacher.seed
        )
        dataset = self.data.training_set(teacher.subset, "teacher.subset")
        samples = TrainingSamples(dataset, teacher.batch_size)
        return StudentStack([distiller], samples, self.numerics)


def frozen(net: nn.Module) -> nn.Module:
    """The net in eval mode, none of its weights open to gradients."""
    return net.eval().requires_grad_(False)


def read_checkpoint(file: Path, net: nn.Module) -> dict[str, Tensor]:
    """The weights in a state dict or a Lightning checkpoint, for this net.

    A common prefix of the names (``model.``, ``net.``) is taken off. Nothing is unpickled but
    tensors and plain values.

    Raises:
        InputError: if the file cannot be read safely or belongs to another architecture.
    """
    try:
        content: Any = torch.load(file, weights_only=True, map_location="cpu")
        content = content.get("state_dict", content)
        weights = {str(name): value for name, value in content.items()}
    except Exception as error:  # torch raises many kinds; all mean an unusable file
        raise InputError(
            f"teacher.checkpoint={file} cannot be read as a state dict or a Lightning checkpoint "
            f"({type(error).__name__}): save it by torch.save(net.state_dict(), FILE)."
        ) from error
    others = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if others:
        raise InputError(
            f"teacher.checkpoint={file} holds not only tensors ({', '.join(others[:3])}): "
            "save the state dict alone, torch.save(net.state_dict(), FILE)."
        )
    expected = net.state_dict()
    first = next(iter(expected))
    prefix = next((name[: -len(first)] for name in weights if name.endswith(first)), "")
    found = {name: weights.get(prefix + name) for name in expected}
    for name, value in found.items():
        if value is None or value.shape != expected[name].shape:
            there = "nothing" if value is None else tuple(value.shape)
            raise InputError(
                f"teacher.checkpoint={file} is of another architecture than the teacher: {name} "
                f"should be {tuple(expected[name].shape)}, the file has {there}."
            )
        if not value.isfinite().all():
            raise InputError(f"teacher.checkpoint={file}: {name} holds values that are not finite.")
    # Beside a network in the paper's notation, with numbers for names, a file may hold others.
    pattern = re.escape(prefix) + (r"\d+\." if type(net) is nn.Sequential else "")
    extra = [
        name for name in weights if re.match(pattern, name) and name[len(prefix) :] not in expected
    ]
    if extra:
        raise InputError(
            f"teacher.checkpoint={file} is of another architecture than the teacher, which has no "
            f"{extra[0]}."
        )
    return found  # type: ignore[return-value]
