"""The runs of a sweep, found among all results by what they are, and put into its cells.

A run belongs to a sweep by its settings, not by its name or by who started it: so cells that two
sweeps share are trained once and stand in both tables. A *plain* run is logit regression: the
method of that name, or the zero-noise end of another one, whose numbers are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noisy_kd.report.sweeps import (
    Sweep,
    Value,
    canonical,
    defaults_of,
    own_data_keys,
    usual_settings,
)
from noisy_kd.runs import OMITTED_AT_DEFAULT, WITHOUT_TEACHER, Result

NOISE = ("method.alpha", "method.sigma")
ZERO = ("student.dropout", "optimizer.weight_decay")
PLAIN_AT_ZERO = ("noisy_teacher", "noisy_student", "random_sigma", "logit_noise_additive")
"""Methods that are logit regression where their noise is none."""
SEVERAL_TEACHERS = "two_teachers"
ALIASES = {"trainer.max_epochs": "max_epochs", "callbacks.best.patience": "patience"}
"""Keys of the command line that results call otherwise."""
NOWHERE = object()
CONTENT = "sha256:"
"""Before the digest of a checkpoint, which might else read as a number."""


@dataclass
class Cell:
    """The runs of one combination of the axes' values, by seed."""

    key: dict[str, Value]
    runs: dict[int, Result] = field(default_factory=dict)

    def add(self, run: Result) -> None:
        """Take in a run; of two with one seed a finished one, else the first."""
        seed = run["settings"]["seed"]
        if seed not in self.runs or (run["status"] == "done") > (seed in self.done):
            self.runs[seed] = run

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
        settings: those in which it differs from other blocks, and from the sweep's own.
        cells: in the order of the grid; a cell without runs is missing.
        baselines: logit regression with the same settings, by the axes that matter to it.
        is_papers: whether data, networks and noise are those of the paper's numbers.
        others: of runs that are left out, the settings in which they differ from the sweep's.
        outside: of runs that are outside the grid, their values of the axes.
    """

    settings: dict[str, Value]
    cells: list[Cell]
    baselines: dict[tuple[Value, ...], Cell]
    is_papers: bool = True
    others: list[dict[str, Value]] = field(default_factory=list)
    outside: list[dict[str, Value]] = field(default_factory=list)

    def baseline_of(self, cell: Cell) -> Cell | None:
        """Logit regression beside this cell."""
        return self.baselines.get(_shared_axes(cell.key))

    def is_baseline(self, cell: Cell) -> bool:
        """Whether the cell is its own baseline."""
        baseline = self.baseline_of(cell)
        return baseline is not None and cell.runs == baseline.runs

    @property
    def seeds(self) -> list[int]:
        """All seeds that were run."""
        return sorted({seed for cell in self.cells for seed in cell.runs})


def blocks(
    sweep: Sweep,
    results: Iterable[Result],
    chosen: Mapping[str, list[Value]] | None = None,
    own: bool = False,
) -> list[Block]:
    """The sweep's cells, one block for each set of other settings; one without runs if none fits.

    If the runs with the sweep's own settings fill as many cells as those with any others, the
    others are left out, and told; so are, in any case, runs on data that the sweep's file excludes.

    Args:
        sweep: whose.
        results: any results.
        chosen: settings that the runs must have, as the sweep's command line gave them.
        own: the results are those of this sweep's own jobs: whatever they are belongs to it.
    """
    chosen = dict(chosen or {})
    if not own:
        chosen.setdefault("data", [sweep.dataset])
    runs = [run for run in results if "settings" in run and _has(run, chosen)]
    methods = chosen.get("method") or list(sweep.methods)
    axes = _axes(sweep, chosen, runs if own else [])
    plain = [run for run in runs if run["method"] == "logit_regression"]
    noisy = [run for run in runs if run not in plain and method_of(run) in methods]
    if own:
        noisy = [run for run in runs if run not in plain]
    cores = _cores(noisy, axes) or _cores(plain, axes)
    others: list[dict[str, Value]] = []
    if not own:
        cores, others = _own_cores(sweep, cores, noisy + plain, axes, chosen)
    found = []
    for core in cores:
        told = _unusual(sweep, core, noisy + plain, axes, {})
        beside = [run for run in plain if _belongs(run, core, axes)]
        members = [run for run in noisy if _belongs(run, core, axes)]
        for variant in _variants(sweep, members, axes, chosen):
            settings = {key: one for key, one in core.items() if _differs(key, one, cores)}
            settings |= told | variant.settings | _chosen_keys(sweep, variant.runs, axes, chosen)
            cells = _filled(_grid(axes), variant.runs, beside, methods, axes)
            papers = _is_papers(sweep, chosen, (variant.runs or beside)[0])
            block = Block(settings, cells, _baselines(axes, beside), papers)
            block.outside = _outside(variant.runs, axes)
            found.append(block)
    empty = [Block({}, _grid(axes), {}, _is_papers(sweep, chosen, None))]
    others += [block.settings for block in found if not block.seeds and block.settings]
    found = [block for block in found if block.seeds] or empty
    found[-1].others = others
    return found


def value(run: Result, key: str) -> Any:
    """A run's value of a key of the command line; ``NOWHERE`` if it has none."""
    named = {"data": "dataset", "model@student": "student", "model@teacher": "teacher"}
    named |= {"method.teachers": "teacher"}
    if key in named:
        return canonical(run[named[key]])
    if key == "method":
        return method_of(run)
    found = _settings(run).get(ALIASES.get(key, key), NOWHERE)
    return found if found is NOWHERE else canonical(found)


def method_of(run: Result) -> str:
    """The configured method's name."""
    return str(run["settings"]["method"]["_target_"]).rpartition(".")[2]


def _settings(run: Result) -> dict[str, Any]:
    """A result's settings, flat, with those of the teacher that it leaves out.

    :func:`noisy_kd.identity.identity` leaves out the student's batch size, and later settings at
    their default.
    """
    flat = _flat(run["settings"])
    if "teacher.max_epochs" in flat:
        flat.setdefault("teacher.batch_size", flat["data.batch_size"])
        flat = {f"teacher.{key}": one for key, one in OMITTED_AT_DEFAULT.items()} | flat
    if flat.get("teacher.checkpoint"):
        flat["teacher.checkpoint"] = CONTENT + flat["teacher.checkpoint"]
    return flat


def protocol(run: Result, axes: Iterable[str] = ()) -> dict[str, Any]:
    """All settings but the axes and the seed, flat."""
    hidden = {"seed", *axes}
    hidden |= {"student.layers"} if "model@student" in axes else set()
    hidden |= {"teacher.layers"} if {"model@teacher", "method.teachers"} & set(axes) else set()
    hidden |= {known for key, known in ALIASES.items() if key in axes}
    hidden |= {"teacher.batch_size"} if "data.batch_size" in axes else set()
    flat = _settings(run)
    return {key: canonical(one) for key, one in sorted(flat.items()) if key not in hidden}


@dataclass
class _Variant:
    """Runs of a block that agree in every setting of their methods, and what tells them apart."""

    settings: dict[str, Value]
    runs: list[Result]


def _has(run: Result, chosen: Mapping[str, list[Value]]) -> bool:
    """Whether the run has the chosen settings; plain runs need not have a method's."""
    for key, values in chosen.items():
        found = value(run, key)
        plain = run["method"] == "logit_regression" and key.startswith("method")
        if not plain and found is not NOWHERE and found not in values:
            return False
    return True


def _axes(
    sweep: Sweep, chosen: Mapping[str, list[Value]], own: list[Result]
) -> dict[str, list[Value]]:
    grid = {key: values for key, values in sweep.axes.items() if len(values) > 1}
    grid |= {key: values for key, values in chosen.items() if len(values) > 1 or key in grid}
    grid.pop("seed", None)
    for key in grid if own else ():
        met = {value(run, key) for run in own} - {NOWHERE}
        grid[key] = [one for one in grid[key] if one in met]
        grid[key] += sorted(met - set(grid[key]), key=str)
    return grid


def _core(run: Result, axes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings beside the method."""
    return {k: v for k, v in protocol(run, axes).items() if not k.startswith("method.")}


def _cores(runs: list[Result], axes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The distinct settings beside the method; those of runs with one teacher, if there are any."""
    usual = [r for r in runs if method_of(r) not in (*WITHOUT_TEACHER, SEVERAL_TEACHERS)]
    found = {json.dumps(_core(run, axes)): _core(run, axes) for run in usual or runs}
    return list(found.values())


def _own_cores(
    sweep: Sweep,
    cores: list[dict[str, Any]],
    runs: list[Result],
    axes: Mapping[str, list[Value]],
    chosen: Mapping[str, list[Value]],
) -> tuple[list[dict[str, Any]], list[dict[str, Value]]]:
    """Which cores to show, and how the others differ from the sweep's own settings.

    Those with the sweep's own settings, if they fill enough cells; none on other data.
    """
    unusual = [_unusual(sweep, core, runs, axes, chosen) for core in cores]
    fitting = [k for k, one in enumerate(unusual) if not own_data_keys(sweep.name) & one.keys()]
    sizes = [
        len({_place(run, axes) for run in runs if _belongs(run, core, axes)} - {""})
        for core in cores
    ]
    usual = [k for k in fitting if not unusual[k]]
    enough = usual and max(sizes[k] for k in usual) >= max(sizes[k] for k in fitting)
    shown = usual if enough else fitting
    others = [one for k, one in enumerate(unusual) if k not in shown and sizes[k]]
    return [cores[k] for k in shown], others


def _unusual(
    sweep: Sweep,
    core: Mapping[str, Any],
    runs: list[Result],
    axes: Mapping[str, Any],
    chosen: Mapping[str, list[Value]],
) -> dict[str, Value]:
    """The settings in which runs differ from the sweep's own, but for axes and chosen ones."""
    run = next(run for run in runs if _core(run, axes) == core)
    usual = usual_settings(sweep.name, str(run["dataset"]))
    fixed = {*axes, *chosen, *(known for key, known in ALIASES.items() if key in chosen)}
    found = {k: v for k, v in core.items() if k not in fixed and usual.get(k, v) != v}
    for net in ("student",) if method_of(run) == SEVERAL_TEACHERS else ("student", "teacher"):
        given = {f"model@{net}", f"{net}.layers", "method.teachers"} & fixed
        known = usual.get(f"model@{net}", canonical(run[net]))
        if not given and canonical(run[net]) != known and f"{net}.layers" in core:
            found[f"model@{net}"] = canonical(run[net])
    return found


def _place(run: Result, axes: Mapping[str, list[Value]]) -> str:
    """The cell of a run; an empty text if it is not on the grid."""
    found = {axis: value(run, axis) for axis in axes}
    inside = all(one is NOWHERE or one in axes[axis] for axis, one in found.items())
    return json.dumps([str(one) for one in found.values()]) if inside else ""


def _outside(runs: list[Result], axes: Mapping[str, list[Value]]) -> list[dict[str, Value]]:
    """The axes' values of runs that are in no cell for a number that is not on the grid."""
    away = [{axis: value(run, axis) for axis in axes} for run in runs if not _place(run, axes)]
    found = [{axis: one for axis, one in key.items() if one is not NOWHERE} for key in away]
    found = [
        key
        for key in found
        if all(isinstance(one, float) or one in axes[axis] for axis, one in key.items())
    ]
    return [one for k, one in enumerate(found) if one not in found[:k]]


def _belongs(run: Result, core: Mapping[str, Any], axes: Mapping[str, Any]) -> bool:
    """Whether the run shares the settings; one without or with several teachers, the others."""
    own = _core(run, axes)
    if method_of(run) in WITHOUT_TEACHER:
        return _without(own, "teacher.") == _without(core, "teacher.")
    teachers = own.get("teacher.layers")
    if method_of(run) == SEVERAL_TEACHERS and isinstance(teachers, str) and "+" in teachers:
        first = teachers.partition("+")[0]
        same = core.get("teacher.layers", first) in (first, teachers)
        return same and _without(own, "teacher.layers") == _without(core, "teacher.layers")
    return own == core


def _without(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key: one for key, one in settings.items() if not key.startswith(prefix)}


def _variants(
    sweep: Sweep,
    members: list[Result],
    axes: Mapping[str, Any],
    chosen: Mapping[str, list[Value]],
) -> list[_Variant]:
    """The members as one set, if each method occurs with one set of keys or with its defaults."""
    by_method: dict[str, dict[str, list[Result]]] = {}
    for run in members:
        keys = _method_keys(run, axes)
        by_method.setdefault(method_of(run), {}).setdefault(json.dumps(keys), []).append(run)
    kept: list[Result] = []
    apart: list[_Variant] = []
    for name, variants in by_method.items():
        usual = _defaults(sweep, name, axes, chosen)
        match = [
            runs
            for text, runs in variants.items()
            if all(usual.get(key, one) == one for key, one in json.loads(text).items())
        ]
        if len(variants) == 1 or match:
            kept += (match or list(variants.values()))[0]
        else:
            all_keys = [json.loads(text) for text in variants]
            for keys, runs in zip(all_keys, variants.values(), strict=True):
                told = {key: one for key, one in keys.items() if _differs(key, one, all_keys)}
                apart.append(_Variant(told, runs))
    return ([_Variant({}, kept)] if kept or not apart else []) + apart


def _chosen_keys(
    sweep: Sweep, members: list[Result], axes: Mapping[str, Any], chosen: Mapping[str, list[Value]]
) -> dict[str, Value]:
    """The keys of the method that were chosen otherwise than the sweep has them."""
    single = {k: one[0] for k, one in chosen.items() if k.startswith("method.") and len(one) == 1}
    methods = {method_of(run) for run in members}
    usual = [_defaults(sweep, name, axes, {}) for name in methods]
    return {
        key: one
        for key, one in single.items()
        if key not in axes and any(one != keys.get(key, one) for keys in usual)
    }


def _method_keys(run: Result, axes: Mapping[str, Any]) -> dict[str, Any]:
    flat = protocol(run, axes)
    return {k: v for k, v in flat.items() if k.startswith("method.") and k != "method._target_"}


def _defaults(
    sweep: Sweep, method: str, axes: Mapping[str, Any], chosen: Mapping[str, list[Value]]
) -> dict[str, Value]:
    """What the sweep's file, its data set's and the method's say, unless it was chosen."""
    dataset = str(chosen.get("data", [sweep.dataset])[0])
    single = {key: one[0] for key, one in (sweep.axes | dict(chosen)).items() if len(one) == 1}
    usual = defaults_of(method, dataset) | single
    return {key: one for key, one in usual.items() if key not in axes}


def _differs(key: str, one: Any, others: list[dict[str, Any]]) -> bool:
    return any(other.get(key, NOWHERE) != one for other in others)


def _grid(axes: Mapping[str, list[Value]]) -> list[Cell]:
    keys: list[dict[str, Value]] = [{}]
    for axis, values in axes.items():
        keys = [{**key, axis: one} for key in keys for one in values]
    return [Cell(key) for key in keys]


def _filled(
    cells: list[Cell],
    members: list[Result],
    plain: list[Result],
    methods: list[Value],
    axes: Mapping[str, Any],
) -> list[Cell]:
    for cell in cells:
        only = methods[0] if len(methods) == 1 else ""
        is_plain = _is_plain(cell.key, str(cell.key.get("method", only)), plain)
        for run in plain if is_plain else members:
            apart = {"method", *NOISE} if is_plain else set()
            if all(value(run, axis) == one for axis, one in cell.key.items() if axis not in apart):
                cell.add(run)
    return cells


def _is_plain(key: Mapping[str, Value], method: str, plain: list[Result]) -> bool:
    """Whether a cell is logit regression: without noise not every method is."""
    if method == "logit_regression":
        return True
    if any(key.get(axis) == 0.0 for axis in NOISE):
        return method in ("", *PLAIN_AT_ZERO) or any(method_of(run) == method for run in plain)
    return "method.teachers" in key and "+" not in str(key["method.teachers"])


def _baselines(axes: Mapping[str, Any], plain: list[Result]) -> dict[tuple[Value, ...], Cell]:
    found: dict[tuple[Value, ...], Cell] = {}
    teachers = axes.get("method.teachers", [None])[0]  # of several, the first is the baseline's
    for run in plain:
        key = {axis: value(run, axis) for axis in axes}
        if any(key.get(axis, 0.0) != 0.0 for axis in ZERO):
            continue
        if teachers is None or key["method.teachers"] == teachers:
            found.setdefault(_shared_axes(key), Cell(key)).add(run)
    return found


def _shared_axes(key: Mapping[str, Value]) -> tuple[Value, ...]:
    """The axes that a baseline shares with its cells: all but noise, regularisers, method."""
    return tuple(
        one for axis, one in key.items() if not axis.startswith("method") and axis not in ZERO
    )


def _is_papers(sweep: Sweep, chosen: Mapping[str, list[Value]], run: Result | None) -> bool:
    """Whether the paper's numbers may stand beside: its data and networks, its noise."""
    if any(key.startswith("method.") and key not in sweep.axes for key in chosen):
        return False
    if run is None:
        return chosen.get("data", [sweep.dataset]) == [sweep.dataset]
    usual = defaults_of("noisy_teacher", sweep.dataset)
    student = "model@student" in sweep.axes or run["student"] == usual["model@student"]
    taught = {"model@teacher", "method.teachers", "method"} & set(sweep.axes)
    teacher = bool(taught) or run["teacher"] == usual["model@teacher"]
    noise = usual.get("method.alpha") if "method.alpha" not in sweep.axes else None
    alpha = value(run, "method.alpha")
    same_noise = noise is None or alpha in (NOWHERE, noise) or run["method"] == "logit_regression"
    return run["dataset"] == sweep.dataset and student and teacher and same_noise


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in settings.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat
