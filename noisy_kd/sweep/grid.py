"""The grid of a sweep: which runs can be trained side by side, and how they share the devices."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisy_kd.config import Config

if TYPE_CHECKING:
    from noisy_kd.data import ImageDataModule

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
    """Runs that one process trains side by side.

    Args:
        configs: they differ only in :data:`STACKABLE` keys.
        directories: one for each.
        data: the images, or the file that holds them for several processes; None to read them.
    """

    configs: list[Config]
    directories: list[Path]
    data: ImageDataModule | Path | None = None

    def __len__(self) -> int:
        return len(self.configs)

    def split(self, count: int) -> list[Part]:
        """So many parts of nearly equal size, or as many as there are runs."""
        count = min(count, len(self))
        bounds = [len(self) * i // count for i in range(count + 1)]
        return [
            replace(self, configs=self.configs[a:b], directories=self.directories[a:b])
            for a, b in pairwise(bounds)
        ]


def groups(configs: Iterable[Config], directories: Iterable[Path]) -> list[Part]:
    """The runs in groups that differ only in stackable keys."""
    found: dict[str, Part] = {}
    for config, directory in zip(configs, directories, strict=True):
        part = found.setdefault(_unstackable(config), Part([], []))
        part.configs.append(config)
        part.directories.append(directory)
    return list(found.values())


def shared_out(groups: list[Part], devices: int) -> list[Part]:
    """The parts that are trained: the largest that keep all devices evenly busy.

    ``max_stack`` bounds their size. The largest come first.
    """
    most = max((len(group) for group in groups), default=1)
    runs, parts = sum(map(len, groups)), groups
    bound = max(EVEN * runs / devices, -(-runs // devices))
    for size in range(most, 0, -1):
        parts = [part for group in groups for part in group.split(-(-len(group) // size))]
        parts = [part for whole in parts for part in whole.split(_least_parts(whole))]
        parts.sort(key=len, reverse=True)
        if _busiest(parts, devices) <= bound:
            break
    return parts


def _least_parts(part: Part) -> int:
    return -(-len(part) // (part.configs[0].max_stack or len(part)))


def _busiest(parts: list[Part], devices: int) -> int:
    """How many runs the busiest device gets when each takes the next part as it comes free."""
    loads = [0] * devices
    for part in parts:
        loads[loads.index(min(loads))] += len(part)
    return max(loads)


def _unstackable(config: Config) -> str:
    """What all members of a stack share: everything but the stackable keys."""
    shared = asdict(config)
    for *parents, key in STACKABLE:
        node: Any = shared
        for parent in parents:
            node = node[parent]
        if key in node:
            node[key] = None
    return json.dumps(shared, sort_keys=True)
