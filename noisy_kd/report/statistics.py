"""Mean, spread, and the comparison paired over seeds."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import numpy as np
from scipy.special import stdtr, stdtrit

NAN = float("nan")


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (n - 1; NaN for a single value)."""
    if not values:
        return NAN, NAN
    return fmean(values), stdev(values) if len(values) > 1 else NAN


def paired(
    values: Mapping[int, float], baseline: Mapping[int, float]
) -> tuple[float, float, float, float]:
    """Compare ``values`` with ``baseline`` over the seeds that both have.

    Returns:
        The mean difference, the ends of its 95 % confidence interval (Student's t), and p of the
        two-sided paired t-test; NaN where there are too few pairs, or no spread to judge by.
    """
    seeds = sorted(values.keys() & baseline.keys())
    differences = [values[seed] - baseline[seed] for seed in seeds]
    n = len(differences)
    mean, deviation = spread(differences)
    error = deviation / math.sqrt(max(n, 1))
    if n < 2 or error <= 1e-9 * max(1.0, abs(mean)):  # equal but for rounding
        return mean, NAN, NAN, NAN
    half = error * float(stdtrit(n - 1, 0.975))
    return mean, mean - half, mean + half, 2 * float(stdtr(n - 1, -abs(mean) / error))


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm 1979); NaN stays NaN and does not count."""
    values = np.asarray(p, dtype=float)
    order = [k for k in np.argsort(values) if not np.isnan(values[k])]
    adjusted, highest = np.full(len(values), NAN), 0.0
    for rank, k in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * values[k]))
        adjusted[k] = highest
    return [float(value) for value in adjusted]
