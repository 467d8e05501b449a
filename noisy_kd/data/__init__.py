"""Images: sources, preprocessing, LightningDataModules."""

from noisy_kd.data.module import (
    Cifar10,
    Digits,
    Folder,
    ImageDataModule,
    ImageTable,
    Mnist,
    Svhn,
    generator_key,
    keyed_generator,
    loader,
)

__all__ = [
    "Cifar10",
    "Digits",
    "Folder",
    "ImageDataModule",
    "ImageTable",
    "Mnist",
    "Svhn",
    "generator_key",
    "keyed_generator",
    "loader",
]
