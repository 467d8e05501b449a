"""The runs of a sweep, found among all results by what they are, and put into its cells.

A run belongs to a sweep by its settings, not by its name or by who started it: so cells that two
sweeps share are trained once and stand in both tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noisy_kd.report.sweeps import Sweep, Value, canonical, noise_of
from noisy_kd.runs import Result

NOISE = ("method.alpha", "method.sigma", "method.temperature", "method.rate")
ZERO = ("student.dropout", "optimizer.weight_decay")
READINGS = {  # of the paper: the first, unless the sweep varies them
    "method.alpha_selects": "samples",
    "method.selection": "bernoulli",
    "method.noise_per": "sample",
    "method.resample": "step",
}
NOWHERE = object()


@dataclass
class Cell:
    """The runs of one combination of the axes' values, by seed."""

    key: dict[str, Value]
    runs: dict[int, Result] = field(default_factory=dict)

    @property
    def done(self) -> dict[int, Result]:
        """The runs that have a test error."""
        return {seed: run for seed, run in self.runs.items() if run["status"] == "done"}

    def errors(self, name: str = "test_error") -> dict[int, float]:
        """Seed -> error in percent."""
        found = {seed: run[name] for seed, run in self.done.items()}
        return {seed: 100 * error for seed, error in found.items() if error is not None}

    def count(self, status: str) -> int:
        """How many runs ended so."""
        return sum(run["status"] == status for run in self.runs.values())


@dataclass
class Block:
    """The cells of runs that share all settings but the axes and the seed.

    Args:
        settings: those in which it differs from other blocks.
        cells: in the order of the grid; a cell without runs is missing.
        baseline: logit regression with the same settings, by the axes that matter to it.
    """

    settings: dict[str, Value]
    cells: list[Cell]
    baseline: dict[tuple[Value, ...], Cell]

    def baseline_of(self, cell: Cell) -> Cell | None:
        """Logit regression beside this cell."""
        return self.baseline.get(_baseline_key(cell.key))

    @property
    def seeds(self) -> list[int]:
        """All seeds that were run."""
        return sorted({seed for cell in self.cells for seed in cell.runs})


def blocks(
    sweep: Sweep, results: Iterable[Result], chosen: Mapping[str, list[Value]] | None = None
) -> list[Block]:
    """The sweep's cells, one block for each set of other settings; one without runs if none fits.

    Args:
        sweep: whose.
        results: any results.
        chosen: further settings that the runs must have, as the sweep's command line gave them.
    """
    chosen = {"data": [sweep.dataset], **(chosen or {})}
    methods = chosen.get("method", sweep.methods)
    wanted = sweep.axes | chosen
    axes = {
        key: values
        for key, values in wanted.items()
        if key != "seed" and (len(values) > 1 or len(sweep.axes.get(key, [])) > 1)
    }
    defaults = READINGS | noise_of(str(chosen["data"][0]))
    wanted = {key: [one] for key, one in defaults.items()} | wanted
    runs = [run for run in results if "settings" in run and _fits(run, wanted, axes)]
    protocols: dict[str, list[Result]] = {}
    for run in runs:
        if _method(run) in methods and (not _is_alone(run) or methods == ("supervised",)):
            protocols.setdefault(json.dumps(protocol(run, axes)), []).append(run)
    if not protocols:
        return [Block({}, _cells(axes, []), {})]
    shared = [dict(json.loads(text)) for text in protocols]
    found = []
    for settings, members in zip(shared, protocols.values(), strict=True):
        differs = {
            key: value
            for key, value in settings.items()
            if any(other.get(key, NOWHERE) != value for other in shared)
        }
        alone = [run for run in runs if _is_alone(run) and _method(run) in methods]
        members += _beside(settings, alone, axes, ("method.", "teacher."))
        plain = [run for run in runs if run["method"] == "logit_regression"]
        plain = _beside(settings, plain, axes, ("method.",))
        found.append(Block(differs, _cells(axes, members), _baselines(axes, plain)))
    return found


def _is_alone(run: Result) -> bool:
    """Whether the run has no teacher, so that no teacher's settings tell it from others."""
    return _method(run) == "supervised"


def _beside(
    settings: Mapping[str, Any],
    runs: list[Result],
    axes: Mapping[str, Any],
    apart: tuple[str, ...],
) -> list[Result]:
    """Those runs that share these settings but for the groups ``apart``."""
    own = {key: value for key, value in settings.items() if not key.startswith(apart)}
    return [
        run
        for run in runs
        if {k: v for k, v in protocol(run, axes) if not k.startswith(apart)} == own
    ]


def value(run: Result, key: str) -> Any:
    """A run's value of a key of the command line; ``NOWHERE`` if it has none."""
    named = {"data": "dataset", "model@student": "student", "model@teacher": "teacher"}
    named |= {"method.teachers": "teacher"}
    if key in named:
        return canonical(run[named[key]])
    if key == "method":
        return _method(run)
    flat = _flat(run["settings"])
    flat["trainer.max_epochs"] = flat.get("max_epochs", NOWHERE)
    found = flat.get(key, NOWHERE)
    return found if found is NOWHERE else canonical(found)


def _fits(run: Result, wanted: Mapping[str, list[Value]], axes: Mapping[str, Any]) -> bool:
    for key, values in wanted.items():
        found = value(run, key)
        plain = run["method"] == "logit_regression" and key.startswith("method")
        other_noise = key == "method.sigma" and value(run, "method.alpha") is NOWHERE
        if plain or other_noise or key in axes:
            continue
        if found is not NOWHERE and found not in values:
            return False
    return True


def _method(run: Result) -> str:
    return str(run["settings"]["method"]["_target_"]).rpartition(".")[2]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in settings.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat


def protocol(run: Result, axes: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """All settings but the axes and the seed, in order."""
    hidden = {"seed", "method._target_", *axes}
    hidden |= {"student.layers"} if "model@student" in axes else set()
    several = {"model@teacher", "method.teachers", "method"}  # or other teachers
    hidden |= {"teacher.layers"} if several & set(axes) else set()
    if "trainer.max_epochs" in axes:
        hidden.add("max_epochs")
    flat = _flat(run["settings"])
    if "method" in axes:  # each has keys of its own
        hidden |= {key for key in flat if key.startswith("method.")}
    return sorted((key, canonical(one)) for key, one in flat.items() if key not in hidden)


def _cells(axes: Mapping[str, list[Value]], members: list[Result]) -> list[Cell]:
    grid: list[dict[str, Value]] = [{}]
    for key, values in axes.items():
        grid = [{**cell, key: one} for cell in grid for one in values]
    cells = {tuple(key.values()): Cell(key) for key in grid}
    for run in members:
        found = {key: value(run, key) for key in axes}
        if all(one in axes[key] for key, one in found.items()):
            cells[tuple(found.values())].runs.setdefault(run["settings"]["seed"], run)
    return list(cells.values())


def _baselines(axes: Mapping[str, Any], plain: list[Result]) -> dict[tuple[Value, ...], Cell]:
    found: dict[tuple[Value, ...], Cell] = {}
    for run in plain:
        key = {axis: value(run, axis) for axis in axes}
        teachers = axes.get("method.teachers", [None])  # of several, the first is the baseline's
        if any(key.get(axis, 0.0) != 0.0 for axis in ZERO):
            continue
        if key.get("method.teachers", teachers[0]) != teachers[0]:
            continue
        where = _baseline_key(key)
        found.setdefault(where, Cell(key)).runs.setdefault(run["settings"]["seed"], run)
    return found


def _baseline_key(key: Mapping[str, Value]) -> tuple[Value, ...]:
    """The axes that a baseline shares with its cells: all but noise, regularisers, method."""
    apart = {"method", "method.teachers", *NOISE, *ZERO}
    return tuple(one for axis, one in key.items() if axis not in apart)
