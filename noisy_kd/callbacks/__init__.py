"""Lightning callbacks: choice of the epoch, resuming, curves, progress."""

from noisy_kd.callbacks.best import BestEpoch
from noisy_kd.callbacks.logs import RunLogs, WeightHistograms
from noisy_kd.callbacks.progress import EpochBar, Progress
from noisy_kd.callbacks.resume import Resume

__all__ = ["BestEpoch", "EpochBar", "Progress", "Resume", "RunLogs", "WeightHistograms"]
