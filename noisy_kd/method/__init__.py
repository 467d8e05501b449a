"""Methods of distillation: noise, losses, and the compositions that bear the papers' names."""

from noisy_kd.method.losses import logit_regression
from noisy_kd.method.method import Method
from noisy_kd.method.noise import LogitNoise

__all__ = ["LogitNoise", "Method", "logit_regression"]
