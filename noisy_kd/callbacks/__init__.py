"""Lightning callbacks: choice of the epoch, resuming, curves."""

from noisy_kd.callbacks.best import BestEpoch
from noisy_kd.callbacks.logs import RunLogs
from noisy_kd.callbacks.resume import Resume

__all__ = ["BestEpoch", "Resume", "RunLogs"]
