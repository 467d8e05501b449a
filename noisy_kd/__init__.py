"""noisy-kd: small students from large frozen teachers, with noisy teachers.

The public names are imported when they are used: ``import noisy_kd`` loads neither torch nor
Lightning. ``__init__.pyi`` shows them to type checkers.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "noisy_kd.data.datamodules": (
        "CIFAR10DataModule",
        "DigitsDataModule",
        "ImageFolderDataModule",
        "MNISTDataModule",
        "SVHNDataModule",
    ),
    "noisy_kd.data.views": ("Views",),
    "noisy_kd.method.method": ("Method",),
    "noisy_kd.method.methods": (
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
    "noisy_kd.runs": ("load_preprocessing", "load_student"),
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
