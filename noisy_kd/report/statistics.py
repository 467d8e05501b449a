"""Mean, spread and the paired comparison over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Spread:
    """Of n values: mean and standard deviation (n - 1; None for a single value)."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class Paired:
    """Differences between runs of one seed, which share batches and draws.

    Args:
        mean: of the differences.
        low: end of the 95 % confidence interval of the mean (Student's t), None for one pair.
        high: its other end.
        p: of the two-sided paired t-test, None for one pair.
        n: pairs.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def spread(values: Mapping[int, float]) -> Spread | None:
    """Of values by seed; None without any."""
    found = list(values.values())
    if not found:
        return None
    return Spread(fmean(found), stdev(found) if len(found) > 1 else None, len(found))


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Paired | None:
    """``values`` against ``baseline`` over the seeds that both have; None without any."""
    seeds = values.keys() & baseline.keys()
    differences = [values[seed] - baseline[seed] for seed in sorted(seeds)]
    n = len(differences)
    if n == 0:
        return None
    mean = fmean(differences)
    if n == 1:
        return Paired(mean, None, None, None, n)
    from scipy.special import stdtr, stdtrit

    error = stdev(differences) / math.sqrt(n)
    if error <= 1e-9 * max(1.0, abs(mean)):  # equal but for rounding: no spread to judge by
        return Paired(mean, None, None, None, n)
    half = error * float(stdtrit(n - 1, 0.975))
    return Paired(mean, mean - half, mean + half, 2 * float(stdtr(n - 1, -abs(mean) / error)), n)
