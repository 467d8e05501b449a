"""What a finished run was trained with: its images, its teacher."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from noisy_kd.data import ImageDataModule
from noisy_kd.runs import load_config
from noisy_kd.training import assembly, run
from noisy_kd.training.student import Teaching


def load_data(directory: str | Path) -> ImageDataModule:
    """The images of a run, split and preprocessed as they were for it.

    Raises:
        InputError: if the files are not there any more.
    """
    return assembly.data_module(load_config(directory))


def teacher_test_logits(directory: str | Path, data: ImageDataModule) -> Tensor | None:
    """The logits of the run's teacher on the test images, [N, C]; None for a method without one.

    They come from the store; a teacher that is not there any more is trained again.
    """
    taught = _teaching(directory, data)
    method = assembly.method(load_config(directory))
    return None if taught is None else method.clean_target(taught.test_logits)


def load_teacher(directory: str | Path, data: ImageDataModule) -> nn.Sequential | None:
    """The (first) teacher of a run, from the store or trained again; None for a method without."""
    taught = _teaching(directory, data)
    return None if taught is None else taught.teacher


def _teaching(directory: str | Path, data: ImageDataModule) -> Teaching | None:
    config = load_config(directory)
    assembly.quiet_libraries()
    numerics = assembly.numerics(config)
    data.to(numerics.device)
    return run.teaching(config, data, numerics, Path(directory) / "teacher")
