"""Stage 1: the teacher, trained once with cross-entropy, or loaded from one's own checkpoint."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noisy_kd.callbacks import BestEpoch, Resume, RunLogs
from noisy_kd.callbacks.logs import close
from noisy_kd.config import Config, Teacher, network_name
from noisy_kd.data import ImageDataModule
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.method import family
from noisy_kd.method.noise import RandomShift
from noisy_kd.model.batch_norm import folded, with_batch_norm
from noisy_kd.model.network import build, notation_of
from noisy_kd.runs import OMITTED_AT_DEFAULT
from noisy_kd.training import assembly, store
from noisy_kd.training.hardware import Numerics
from noisy_kd.training.learner import Learner, Member, fit

log = logging.getLogger(__name__)


def trained_teacher(
    config: Config,
    data: ImageDataModule,
    numerics: Numerics,
    logs: Path,
    layers: str | None = None,
) -> nn.Sequential:
    """The frozen teacher: from ``teacher.checkpoint``, from the store, or trained for the store.

    Args:
        config: of the run; its teacher, data and precision decide the teacher.
        data: the images.
        numerics: how nets are computed.
        logs: where the curves of its training go.
        layers: of one of several teachers; None for ``teacher.layers``.

    Returns:
        The teacher on the device, in eval mode, without gradients.

    Raises:
        InputError: if the network does not fit the data or the checkpoint.
    """
    fitting = assembly.layers_for(layers or config.teacher.layers, len(data.classes))
    net = build(fitting, data.input_shape, len(data.classes), config.teacher.seed)
    if config.teacher.checkpoint is not None:
        weights = read_checkpoint(Path(config.teacher.checkpoint), net)
    else:
        name = network_name(layers or config.teacher.layers)
        weights = _from_store(config, data, numerics, net, logs, name)
    net.load_state_dict(weights)
    return frozen(net).to(numerics.device)


def frozen(net: nn.Sequential) -> nn.Sequential:
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
    inner = net[0] if isinstance(net, nn.Sequential) else net
    whole = hasattr(inner, "import_path")  # not of the notation: the file has it without "0."
    expected = (inner if whole else net).state_dict()
    first = next(iter(expected))
    prefix = next((name[: -len(first)] for name in weights if name.endswith(first)), "")
    found = {name: weights.get(prefix + name) for name in expected}
    for name, value in found.items():
        if value is None or value.shape != expected[name].shape:
            there = "nothing" if value is None else tuple(value.shape)
            raise InputError(
                f"teacher.checkpoint={file} is of another architecture than teacher.layers: "
                f"{name} should be {tuple(expected[name].shape)}, the file has {there}."
            )
        if not value.isfinite().all():
            raise InputError(f"teacher.checkpoint={file}: {name} holds values that are not finite.")
    pattern = re.escape(prefix) + ("" if whole else r"\d+\.")
    extra = [
        name for name in weights if re.match(pattern, name) and name[len(prefix) :] not in expected
    ]
    if extra:
        raise InputError(
            f"teacher.checkpoint={file} is of another architecture than teacher.layers, which has "
            f"no {extra[0]}."
        )
    return {f"0.{name}" if whole else name: one for name, one in found.items()}  # type: ignore[misc]


def _from_store(
    config: Config,
    data: ImageDataModule,
    numerics: Numerics,
    net: nn.Sequential,
    logs: Path,
    name: str,
) -> dict[str, Tensor]:
    made_by = _made_by(config.teacher, net, data, numerics, config.deterministic)
    messy = assembly.method(config).teacher_labels
    if messy is not None:
        made_by["random_labels"] = messy.rate

    origin = "from the store"

    def make(work: Path) -> dict[str, Any]:
        nonlocal origin
        origin = "trained"
        log.info("Training the teacher %s: the store has none of these settings.", name)
        return _train(config, data, numerics, net, work, logs)

    weights, facts = store.get_or_make(Path(config.store), "teacher", made_by, make)
    log.info("Teacher %s, %s: %s.", name, origin, store.told(facts))
    return weights


def _made_by(
    teacher: Teacher,
    net: nn.Sequential,
    data: ImageDataModule,
    numerics: Numerics,
    deterministic: bool = False,
) -> dict[str, Any]:
    """Everything that decides the teacher's weights."""
    return {
        **{
            key: getattr(teacher, key)
            for key, usual in OMITTED_AT_DEFAULT.items()
            if getattr(teacher, key) != usual
        },
        "layers": notation_of(net),
        "data": data.name,
        "images": data.digest,
        "views": data.views,
        "val_size": len(data.val_rows),
        "data_seed": data.seed,
        "subset": teacher.subset,
        "batch_size": teacher.batch_size,
        "max_epochs": teacher.max_epochs,
        "lr": teacher.lr,
        "weight_decay": teacher.weight_decay,
        "schedule": teacher.schedule,
        "seed": teacher.seed,
        "precision": numerics.precision,
        "fast": numerics.fast,
        "deterministic": deterministic,
        "device": numerics.device.type,
    }


def _train(
    config: Config,
    data: ImageDataModule,
    numerics: Numerics,
    net: nn.Sequential,
    work: Path,
    logs: Path,
) -> dict[str, Any]:
    teacher = config.teacher
    if teacher.batch_norm:
        net = with_batch_norm(net)
    learner = _learner(config, data, numerics, net)
    best = BestEpoch()
    resume = Resume([work / "last.ckpt"], best, [work.name])
    loggers = assembly.loggers(config, logs, prefix="teacher")
    callbacks = [best, resume, RunLogs([loggers]), *assembly.displays(config)]
    trainer = assembly.trainer(config, teacher.max_epochs, callbacks, one_device=True)
    fit(learner, trainer)
    close(loggers)
    if learner.diverged[0]:
        shutil.rmtree(work)
        raise TrainingError(
            f"the teacher's loss is no longer finite: try a smaller teacher.lr than {teacher.lr:g}."
        )
    chosen = best.best[0]
    facts = {
        "val_error": chosen.val_error,
        "epoch": chosen.epoch,
        "seconds": round(learner.seconds_trained, 1),
    }
    net.load_state_dict(chosen.weights)
    weights = folded(net).state_dict()
    return {"tensors": {k: v.cpu() for k, v in weights.items()}, "facts": facts}


def _learner(
    config: Config, data: ImageDataModule, numerics: Numerics, net: nn.Sequential
) -> Learner:
    """The supervised training of the net on the teacher's own terms."""
    teacher = config.teacher
    method = replace(
        family.supervised(),
        labels=assembly.method(config).teacher_labels,
        input=RandomShift(teacher.shift) if teacher.shift else None,
    )
    optimizer = assembly.optimizer("torch.optim.Adam", teacher.lr, teacher.weight_decay, numerics)
    return Learner(
        [Member(net, method, teacher.seed, optimizer, teacher.schedule)],
        data.training_table(teacher.subset, "teacher.subset"),
        data.validation_table(),
        None,
        teacher.batch_size,
        teacher.max_epochs,
        numerics,
    )
