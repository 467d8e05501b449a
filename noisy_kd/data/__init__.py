"""Images: sources, preprocessing, LightningDataModules."""

from noisy_kd.data.datamodules import (
    CIFAR10DataModule,
    DigitsDataModule,
    ImageDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    SVHNDataModule,
)
from noisy_kd.data.dataset import (
    EpochOrder,
    ImageDataset,
    WithColumns,
    generator_key,
    keyed_generator,
    loader,
)

__all__ = [
    "CIFAR10DataModule",
    "DigitsDataModule",
    "EpochOrder",
    "ImageDataModule",
    "ImageDataset",
    "ImageFolderDataModule",
    "MNISTDataModule",
    "SVHNDataModule",
    "WithColumns",
    "generator_key",
    "keyed_generator",
    "loader",
]
