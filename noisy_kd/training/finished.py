"""What a finished run was trained with: settings, images, teacher. Nothing is trained here."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer
from yaml import YAMLError

from noisy_kd import config
from noisy_kd.config import Config
from noisy_kd.data import files
from noisy_kd.data.datamodules import ImageDataModule
from noisy_kd.errors import DamagedError, InputError
from noisy_kd.method import Method
from noisy_kd.model.targets import check_allowed, weights_only
from noisy_kd.runs import TEACHER_LOGITS, read_result, read_tensors
from noisy_kd.training import build

EXPECTED = {
    "data": ImageDataModule,
    "method": Method,
    "optimizer": Optimizer,
    "trainer": Trainer,
    "callbacks": Callback,
    "logger": Logger,
}
"""What the import paths of a configuration lead to, by their group; else networks."""


def load_config(directory: str | Path, allow: Sequence[str] = ()) -> Config:
    """Return the settings of a run, which may be somebody else's.

    ``allow`` as in :func:`noisy_kd.load_student`.

    Raises:
        InputError: if the directory does not hold them, or they name code that is not allowed.
    """
    file = Path(directory) / "config.yaml"
    if not file.exists():
        raise InputError(f"{directory} holds no config.yaml: name a finished run's directory.")
    try:
        content = OmegaConf.create(files.read_yaml(file))
    except DamagedError:
        raise
    except (OSError, ValueError, YAMLError) as error:
        why = " ".join(str(error).split())[:120]
        raise DamagedError(f"{file} is damaged: {why}.") from error
    if not isinstance(content, DictConfig):
        raise DamagedError(f"{file} is damaged: it is no mapping.")
    settings = config.read(content)
    for key, target in config.targets(settings).items():
        group = "optimizer" if ".optimizer." in key else key.partition(".")[0]
        check_allowed(target, EXPECTED.get(group, nn.Module), allow)
    return settings


def load_data(directory: str | Path, allow: Sequence[str] = ()) -> ImageDataModule:
    """The images of a run, split and preprocessed as they were for it.

    Raises:
        InputError: if the files are not there any more, or have changed.
    """
    config, result = load_config(directory, allow), read_result(Path(directory)) or {}
    here = os.environ.get("NOISY_KD_DATA")
    if config.data.root is not None and here and not os.path.exists(config.data.root):
        config.data.root = here  # the images have moved
    data = build.data_module(config)
    now = ([data.digest, data.test_digest], list(data.classes), len(data.test_images))
    then = tuple(result.get(key) for key in ("images", "classes", "test_size"))
    if any(known is not None and known != new for known, new in zip(then, now, strict=True)):
        raise InputError(
            f"data.root={config.data.root} does not hold the images that {directory} was trained "
            "and tested on: restore them, or train again."
        )
    return data


def teacher_test_logits(directory: str | Path) -> Tensor | None:
    """The logits of the run's teacher on the test images, [N, C], as the run has kept them.

    None for a method without a teacher, and for a run of a version that did not keep them.
    """
    file = Path(directory) / TEACHER_LOGITS
    if not file.exists():
        return None
    logits = read_tensors(file)
    if not isinstance(logits, Tensor):
        raise InputError(f"{file} holds no tensor: force=true makes the run again.")
    return logits


def untrained_teacher(
    directory: str | Path, data: ImageDataModule, allow: Sequence[str] = ()
) -> nn.Module | None:
    """Return the network of the run's (first) teacher; None for a method without one."""
    settings = load_config(directory, allow)
    if not build.method(settings).has_teacher:
        return None
    with nullcontext() if allow else weights_only():
        teacher = build.teachers(settings, data)[0]
    return teacher.eval().requires_grad_(False)
