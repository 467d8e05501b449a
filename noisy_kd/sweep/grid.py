"""The grid of a sweep: which runs can be trained side by side, and how they share the devices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import reduce
from itertools import pairwise
from operator import getitem
from pathlib import Path

from noisy_kd.config import Config

STACKABLE = (
    ("method", "alpha"),
    ("method", "sigma"),
    ("seed",),
    ("student", "dropout"),
    ("optimizer", "lr"),
    ("optimizer", "weight_decay"),
)
"""What may differ between the runs of a stack."""

EVEN = 1.15  # the busiest device may have this many times the mean


@dataclass(frozen=True)
class Part:
    """Runs that one process trains side by side; they differ only in :data:`STACKABLE` keys."""

    configs: list[Config] = field(default_factory=list)
    directories: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.configs)

    def __iter__(self) -> Iterator[tuple[Config, Path]]:
        return zip(self.configs, self.directories, strict=True)

    def add(self, config: Config, directory: Path) -> None:
        """Add a run."""
        self.configs.append(config)
        self.directories.append(directory)

    def split(self, count: int) -> list[Part]:
        """Return so many parts of nearly equal size, or as many as there are runs."""
        count = min(count, len(self))
        bounds = [-(-len(self) * i // count) for i in range(count + 1)]
        return [Part(self.configs[a:b], self.directories[a:b]) for a, b in pairwise(bounds)]


def groups(configs: Iterable[Config], directories: Iterable[Path]) -> list[Part]:
    """Return the runs in groups that differ only in stackable keys."""
    groups: dict[str, Part] = {}
    for config, directory in zip(configs, directories, strict=True):
        shared = asdict(config)
        for *parents, key in STACKABLE:
            node = reduce(getitem, parents, shared)
            node |= {key: None} if key in node else {}
        groups.setdefault(json.dumps(shared, sort_keys=True), Part()).add(config, directory)
    return list(groups.values())


def shared_out(groups: list[Part], devices: int) -> list[Part]:
    """Return the largest parts that keep all devices evenly busy, the largest first.

    ``max_stack`` limits their size.
    """
    largest = max((len(group) for group in groups), default=1)
    runs, parts = sum(map(len, groups)), groups
    bound = max(EVEN * runs / devices, -(-runs // devices))
    for size in range(largest, 0, -1):
        parts = []
        for group in groups:
            most = min(size, group.configs[0].max_stack or size)
            parts += group.split(-(-len(group) // most))
        parts.sort(key=len, reverse=True)
        if _busiest(parts, devices) <= bound:
            break
    return parts


def _busiest(parts: list[Part], devices: int) -> int:
    """Return how many runs the busiest device gets when each takes the next part in turn."""
    loads = [0] * devices
    for part in parts:
        loads[loads.index(min(loads))] += len(part)
    return max(loads)
