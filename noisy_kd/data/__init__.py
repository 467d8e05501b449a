"""Images: sources, preprocessing, LightningDataModules."""

from noisy_kd.data.datamodules import CIFAR10DataModule as CIFAR10DataModule
from noisy_kd.data.datamodules import DigitsDataModule as DigitsDataModule
from noisy_kd.data.datamodules import ImageDataModule as ImageDataModule
from noisy_kd.data.datamodules import ImageFolderDataModule as ImageFolderDataModule
from noisy_kd.data.datamodules import MNISTDataModule as MNISTDataModule
from noisy_kd.data.datamodules import SVHNDataModule as SVHNDataModule
from noisy_kd.data.dataset import EpochOrder as EpochOrder
from noisy_kd.data.dataset import ImageDataset as ImageDataset
from noisy_kd.data.dataset import WithColumns as WithColumns
from noisy_kd.data.dataset import keyed_generator as keyed_generator
from noisy_kd.data.dataset import loader as loader
