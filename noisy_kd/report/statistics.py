"""Mean, spread, and the comparison paired over seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean, stdev

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to import

NAN = float("nan")


def spread(values: Collection[float]) -> tuple[float, float]:
    """Return mean and standard deviation (n - 1); NaN for too few values."""
    mean = fmean(values) if values else NAN
    return mean, stdev(values) if len(values) > 1 else NAN


def paired(
    values: Mapping[int, float], baseline: Mapping[int, float]
) -> tuple[float, float, float, float]:
    """Compare ``values`` with ``baseline`` over the seeds that both have.

    Returns:
        The mean difference, the ends of its 95 % confidence interval (Student's t), and p of the
        two-sided paired t-test; NaN where there are too few pairs, or no spread.
    """
    seeds = sorted(values.keys() & baseline.keys())
    mean, deviation = spread([values[seed] - baseline[seed] for seed in seeds])
    n = len(seeds)
    if n < 2 or deviation / n**0.5 <= 1e-9 * max(1.0, abs(mean)):  # equal but for rounding
        return mean, NAN, NAN, NAN
    error = deviation / n**0.5
    half = error * float(stdtrit(n - 1, 0.975))
    return mean, mean - half, mean + half, 2 * float(stdtr(n - 1, -abs(mean) / error))


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm 1979); NaN stays NaN and does not count."""
    values = pd.Series(p, dtype=float).dropna().sort_values()
    adjusted = (values * np.arange(len(values), 0, -1)).clip(upper=1.0).cummax()
    return adjusted.reindex(range(len(p))).tolist()
