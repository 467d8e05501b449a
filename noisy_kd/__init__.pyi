"""The public names, for type checkers; they are imported when they are used."""

__version__: str

from noisy_kd.data.datamodules import CIFAR10DataModule as CIFAR10DataModule
from noisy_kd.data.datamodules import DigitsDataModule as DigitsDataModule
from noisy_kd.data.datamodules import ImageFolderDataModule as ImageFolderDataModule
from noisy_kd.data.datamodules import MNISTDataModule as MNISTDataModule
from noisy_kd.data.datamodules import SVHNDataModule as SVHNDataModule
from noisy_kd.data.views import Views as Views
from noisy_kd.method.method import Method as Method
from noisy_kd.method.methods import fickle_teacher as fickle_teacher
from noisy_kd.method.methods import fitnets as fitnets
from noisy_kd.method.methods import hinton as hinton
from noisy_kd.method.methods import logit_noise_additive as logit_noise_additive
from noisy_kd.method.methods import logit_regression as logit_regression
from noisy_kd.method.methods import messy_collaboration as messy_collaboration
from noisy_kd.method.methods import noisy_student as noisy_student
from noisy_kd.method.methods import noisy_teacher as noisy_teacher
from noisy_kd.method.methods import random_sigma as random_sigma
from noisy_kd.method.methods import soft_randomization as soft_randomization
from noisy_kd.method.methods import supervised as supervised
from noisy_kd.method.methods import two_teachers as two_teachers
from noisy_kd.method.noise import LogitNoise as LogitNoise
from noisy_kd.model.network import network as network
from noisy_kd.runs import load_preprocessing as load_preprocessing
from noisy_kd.runs import load_student as load_student
from noisy_kd.training.callbacks import BestEpoch as BestEpoch
from noisy_kd.training.distiller import Distiller as Distiller
from noisy_kd.training.logits import CachedLogits as CachedLogits
from noisy_kd.training.stack import StudentStack as StudentStack
