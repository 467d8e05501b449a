"""What a finished run was trained with: settings, images, teacher. Nothing is trained here."""

from pathlib import Path

from omegaconf import OmegaConf
from torch import Tensor, nn
from yaml import YAMLError

from noisy_kd import config
from noisy_kd.config import Config
from noisy_kd.data import files
from noisy_kd.data.datamodules import ImageDataModule
from noisy_kd.errors import DamagedError, InputError
from noisy_kd.runs import TEACHER_LOGITS, read_result
from noisy_kd.training import build


def load_config(directory: str | Path) -> Config:
    """The settings of a run.

    Raises:
        InputError: if the directory does not hold them.
    """
    file = Path(directory) / "config.yaml"
    if not file.exists():
        raise InputError(f"{directory} holds no config.yaml: name a finished run's directory.")
    try:
        content = OmegaConf.create(files.read_yaml(file))
    except YAMLError as error:
        raise DamagedError(f"{file} is damaged ({' '.join(str(error).split())}).") from error
    return config.read(content)  # type: ignore[arg-type]


def load_data(directory: str | Path) -> ImageDataModule:
    """The images of a run, split and preprocessed as they were for it.

    Raises:
        InputError: if the files are not there any more, or have changed.
    """
    config, result = load_config(directory), read_result(Path(directory)) or {}
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
    logits: Tensor = files.read_tensors(file)
    return logits


def untrained_teacher(directory: str | Path, data: ImageDataModule) -> nn.Module | None:
    """Return the network of the run's (first) teacher; None for a method without one."""
    settings = load_config(directory)
    if not build.method(settings).has_teacher:
        return None
    return build.teachers(settings, data)[0].eval().requires_grad_(False)
