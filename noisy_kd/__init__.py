"""noisy-kd: small students from large frozen teachers, with noisy teachers.

The public names are imported when they are used: ``import noisy_kd`` loads neither torch nor
Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noisy_kd.data import (
        CIFAR10DataModule as CIFAR10DataModule,
    )
    from noisy_kd.data import (
        DigitsDataModule as DigitsDataModule,
    )
    from noisy_kd.data import (
        ImageFolderDataModule as ImageFolderDataModule,
    )
    from noisy_kd.data import (
        MNISTDataModule as MNISTDataModule,
    )
    from noisy_kd.data import (
        SVHNDataModule as SVHNDataModule,
    )
    from noisy_kd.method.methods import (
        Method as Method,
    )
    from noisy_kd.method.methods import (
        fickle_teacher as fickle_teacher,
    )
    from noisy_kd.method.methods import (
        fitnets as fitnets,
    )
    from noisy_kd.method.methods import (
        hinton as hinton,
    )
    from noisy_kd.method.methods import (
        logit_noise_additive as logit_noise_additive,
    )
    from noisy_kd.method.methods import (
        logit_regression as logit_regression,
    )
    from noisy_kd.method.methods import (
        messy_collaboration as messy_collaboration,
    )
    from noisy_kd.method.methods import (
        noisy_student as noisy_student,
    )
    from noisy_kd.method.methods import (
        noisy_teacher as noisy_teacher,
    )
    from noisy_kd.method.methods import (
        random_sigma as random_sigma,
    )
    from noisy_kd.method.methods import (
        soft_randomization as soft_randomization,
    )
    from noisy_kd.method.methods import (
        supervised as supervised,
    )
    from noisy_kd.method.methods import (
        two_teachers as two_teachers,
    )
    from noisy_kd.method.noise import LogitNoise as LogitNoise
    from noisy_kd.model.network import network as network
    from noisy_kd.runs.directory import load_preprocessing as load_preprocessing
    from noisy_kd.runs.directory import load_student as load_student
    from noisy_kd.training.callbacks import BestEpoch as BestEpoch
    from noisy_kd.training.distiller import Distiller as Distiller
    from noisy_kd.training.logits import CachedLogits as CachedLogits
    from noisy_kd.training.stack import StudentStack as StudentStack

__version__ = "0.2.0"

_HOMES = {
    "noisy_kd.data": (
        "CIFAR10DataModule",
        "DigitsDataModule",
        "ImageFolderDataModule",
        "MNISTDataModule",
        "SVHNDataModule",
    ),
    "noisy_kd.method.methods": (
        "Method",
        "fickle_teacher",
        "fitnets",
        "hinton",
        "logit_noise_additive",
        "logit_regression",
        "messy_collaboration",
        "noisy_student",
        "noisy_teacher",
        "random_sigma",
        "soft_randomization",
        "supervised",
        "two_teachers",
    ),
    "noisy_kd.method.noise": ("LogitNoise",),
    "noisy_kd.model.network": ("network",),
    "noisy_kd.runs.directory": ("load_preprocessing", "load_student"),
    "noisy_kd.training.callbacks": ("BestEpoch",),
    "noisy_kd.training.distiller": ("Distiller",),
    "noisy_kd.training.logits": ("CachedLogits",),
    "noisy_kd.training.stack": ("StudentStack",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF]


def __getattr__(name: str) -> Any:
    """Import a public name when it is used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module noisy_kd has no attribute {name}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return [*globals(), *_HOME_OF]
