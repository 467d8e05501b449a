"""Lightning callbacks: choice of the epoch, resuming, curves, progress."""

from noisy_kd.training.callbacks.best import BestEpoch
from noisy_kd.training.callbacks.logs import RunLogs, WeightHistograms
from noisy_kd.training.callbacks.progress import EpochBar, Refresh
from noisy_kd.training.callbacks.resume import Resume

__all__ = ["BestEpoch", "EpochBar", "Refresh", "Resume", "RunLogs", "WeightHistograms"]
