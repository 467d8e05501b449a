"""The runs of a sweep as a pandas DataFrame, and the cells of its table.

A *cell* is a combination of settings: the axes of the sweep, and every other setting that differs
among its runs, but the seed. The baseline of a cell is logit regression with the same other
settings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to import

from noisy_kd import runs
from noisy_kd.config import ADAM
from noisy_kd.errors import InputError
from noisy_kd.model import notation
from noisy_kd.report.sweeps import Sweep, Value, canonical, split
from noisy_kd.runs import Result

NAN = float("nan")
NOISE = ("method.alpha", "method.sigma")
REGULARISERS = ("student.dropout", "optimizer.weight_decay")
"""Axes whose value 0 is the baseline's."""

ERRORS = ("test_error", "val_error", "teacher_test_error")
BASE = "baseline's "
"""Before the name of a run's error: that of the baseline with the same seed."""

PLACE = {  # keys that decide no number, and so are in no result
    *("data.root", "data.download", "store", "force", "devices", "max_stack", "callbacks"),
    *("logger", "trainer", "trainer.accelerator", "trainer.devices", "callbacks.progress"),
}
CONTENT = "sha256:"
"""Before the digest of a checkpoint, which might else read as a number."""

IMPLIED = {  # settings that differ because an axis differs
    "model@student": ("student.layers", "student._target_"),
    "model@teacher": ("teacher.layers", "teacher._target_"),
    "method": ("model@teacher", "teacher.layers"),
    "method.teachers": ("model@teacher", "teacher.layers"),
    "data.batch_size": ("teacher.batch_size",),
}


NO_VIEWS: dict[str, Any] = {"data.augment": "none", "data.views": 1}
OWN_VIEWS: dict[str, dict[str, Any]] = {"cifar10": {"data.augment": "mirror", "data.views": 2}}
"""Views of data sets, where a run names no others."""

LATER: dict[str, dict[str, Any]] = {
    "student.layers": {"student.batch_norm": "false", "student.init": "he"},
    "teacher.max_epochs": {
        "teacher.label_smoothing": 0.0,
        "teacher.optimizer._target_": ADAM["_target_"],
    },
}
"""Settings that results do not name at their defaults, where they have the first key."""

NETWORKS = ("model@student", "model@teacher")
"""Columns that stand for the layers, which would fill a table."""


def read(folder: Path, directories: Iterable[str]) -> list[Result]:
    """Return the results of runs below a folder, with their directories."""
    results = [(folder / name, runs.read_result(folder / name)) for name in directories]
    return [
        result | {"directory": str(place)}
        for place, result in results
        if result and _is_whole(result)
    ]


def _is_whole(result: Result) -> bool:
    """Return whether a result has what tables need: one of another program has not."""
    keys = {"settings", "status", "method", "student", "teacher"}
    return keys <= result.keys() and isinstance(result["settings"], dict)


def frame(results: Iterable[Result]) -> pd.DataFrame:
    """Return one row per run: its settings by their keys, and its numbers.

    Errors are in percent. ``baseline`` says whether the run is logit regression, by name or because
    its noise is zero. ``result`` is what the run has written.
    """
    rows = []
    for result in results:
        settings = result["settings"]
        row = _flat(settings)
        row["data"] = row.pop("data.name")
        row = OWN_VIEWS.get(row["data"], NO_VIEWS) | row
        for key, unnamed in LATER.items():
            row = unnamed | row if key in row else row
        row["method"] = row.pop("method._target_").rpartition(".")[2]
        row |= {"model@student": result["student"], "model@teacher": result["teacher"]}
        if row["method"] == "two_teachers":
            row["method.teachers"] = result["teacher"]
        if checkpoint := settings.get("teacher", {}).get("checkpoint"):
            row["teacher.checkpoint"] = CONTENT + checkpoint
        row |= {"seed": settings["seed"], "status": result["status"], "result": result}
        row["baseline"] = result["method"] == "logit_regression"
        row |= {key: NAN if result.get(key) is None else 100 * result[key] for key in ERRORS}
        rows.append(row)
    return pd.DataFrame(rows)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        is_inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if is_inner else {prefix + key: canonical(value)}
    return flat


def filters(overrides: Sequence[str]) -> dict[str, list[Value]]:
    """Return KEY=VALUE,... as key -> values; keys that decide no number are left out."""
    chosen = {}
    for override in overrides:
        key, _, values = override.lstrip("+").partition("=")
        if key in PLACE or key.startswith("hydra") or override == "precision=auto":
            continue  # results have the precision that auto was resolved to
        chosen[key] = split(values)
        if key in ("student.layers", "teacher.layers"):
            chosen[key] = [notation.notation(notation.parse(str(v))) for v in chosen[key]]
        elif key == "teacher.checkpoint":
            for k, file in enumerate(map(str, split(values))):
                if file != "null" and not file.startswith(CONTENT):
                    chosen[key][k] = CONTENT + runs.file_digest(file)
    return chosen


def select(table: pd.DataFrame, chosen: Mapping[str, Sequence[Value]]) -> pd.DataFrame:
    """Return the runs that have the chosen settings; baselines need not have a method's.

    Raises:
        InputError: for a key or a value that no run has.
    """
    for key, values in chosen.items() if len(table) else ():
        if key not in table:
            raise InputError(f"{key} is not a setting of any run.")
        fits = table[key].isin(values)
        if not fits.any():
            known = ", ".join(sorted(map(text, table[key].dropna().unique())))
            raise InputError(f"no run has {key}={text(values[0])}; there are: {known}.")
        if key.startswith("method"):
            fits |= table["baseline"]
        if key.startswith("teacher."):
            fits |= table[key].isna()  # a method without a teacher
        table = table[fits]
    return table


def cell_columns(sweep: Sweep, table: pd.DataFrame) -> list[str]:
    """Return the settings that distinguish cells: the axes, then what else differs."""
    axes = [key for key in sweep.axes if key in table]
    hidden = {"seed", "status", "baseline", "result", *ERRORS, *axes}
    hidden |= {*NETWORKS}
    hidden |= {
        key
        for axis in axes
        for key in IMPLIED.get(axis, ())
        if key in table and table.groupby(axis)[key].nunique(dropna=False).max() == 1
    }
    more = []
    noisy = table[~table["baseline"]]
    taught = table[~table["method"].isin(runs.WITHOUT_TEACHER)]
    for key in table.columns.difference(hidden, sort=False):
        if key == "method":
            count = noisy[key].nunique()
        elif key.startswith("method."):  # of a baseline they decide nothing, but its noise of 0
            own = key in NOISE and sweep.axes.keys().isdisjoint(NOISE)
            count = (table if own else noisy).groupby("method")[key].nunique().max()
        elif key.startswith("teacher."):
            count = taught[key].nunique(dropna=False)
        else:  # images without crops lack their keys
            count = table[key].nunique(dropna=key.startswith("augment."))
        if count > 1:
            more.append(next((name for name in NETWORKS if key in IMPLIED[name]), key))
    return list(dict.fromkeys([*axes, *more]))


def cells(sweep: Sweep, table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell, in the order of the grid, beside its baseline and the paper.

    Columns: the settings; ``mean``, ``deviation`` and ``n`` of the test error; ``val_error``; of
    the difference to the baseline ``difference``, ``low``, ``high``, ``p`` and ``holm``; the
    relative ``improvement``; ``is_baseline``; ``paper``, ``paper_improvement``; ``runs``.
    """
    if table.empty:
        return table
    columns = cell_columns(sweep, table)
    filled = table.fillna(dict.fromkeys([*NOISE, *REGULARISERS], 0.0))
    filled.loc[filled["baseline"], filled.columns.intersection(NOISE)] = 0.0
    if "logit_regression" in sweep.axes.get("method", ()):
        filled.loc[filled["baseline"], "method"] = "logit_regression"
    filled["plain"] = filled["baseline"]
    shared = [key for key in columns if not key.startswith("method") and key not in REGULARISERS]
    for key in set(REGULARISERS) & set(columns):
        usual: Any = 0.0
        if key not in sweep.axes:  # what all runs of a cell have is nothing to compare with
            groups = filled.groupby([*shared, "baseline"], dropna=False)[key]
            usual = groups.transform("min")
        filled["plain"] &= filled[key] == usual
    if "method.teachers" in sweep.axes:  # of several teachers, the first is the baseline's
        filled["plain"] &= filled["method.teachers"] == sweep.axes["method.teachers"][0]
    filled = with_baseline(filled, filled["plain"], shared, ["test_error"])
    rows = []
    for _, members in filled.groupby([*(_rank(filled[key]) for key in columns), ~filled["plain"]]):
        errors = errors_by_seed(members)
        is_baseline = bool(errors) and members["plain"].iloc[0]
        base = {} if is_baseline else errors_by_seed(members, BASE + "test_error")
        mean, deviation = spread(errors.values())
        cell = members[columns].iloc[0].to_dict()
        cell |= {"mean": mean, "deviation": deviation, "n": len(errors)}
        cell["val_error"] = spread(errors_by_seed(members, "val_error").values())[0]
        difference, low, high, p = paired(errors, base)
        cell |= {"difference": difference, "low": low, "high": high, "p": p}
        clean = spread([base[seed] for seed in errors.keys() & base.keys()])[0]
        cell["improvement"] = 100 * (0.0 - difference) / clean if clean else NAN
        rows.append(cell | {"is_baseline": is_baseline, "runs": members})
    summary = pd.DataFrame(rows)
    summary["holm"] = holm(summary["p"])
    return summary.assign(**_paper(sweep, table, summary))


def _rank(column: pd.Series[Any]) -> Any:
    """Return each value's place: numbers in ascending order, names as they first appear."""
    is_number = pd.api.types.is_numeric_dtype(column)
    return pd.factorize(column, sort=is_number, use_na_sentinel=False)[0]


def with_baseline(
    table: pd.DataFrame, plain: pd.Series[bool], shared: Sequence[str], names: Sequence[str]
) -> pd.DataFrame:
    """Return runs with the errors of the plain run of the same seed and shared settings."""
    keys = [*shared, "seed"]
    errors = table[plain].groupby(keys, dropna=False)[names].last()
    return table.join(errors.add_prefix(BASE), on=keys)


def settings_of(summary: pd.DataFrame) -> list[str]:
    """Return the columns of cells that are settings."""
    return list(summary.columns[: summary.columns.get_loc("mean")])


def errors_by_seed(members: pd.DataFrame, name: str = "test_error") -> dict[int, float]:
    """Return seed -> error in percent, of the runs that are done."""
    done = members[members["status"] == "done"].dropna(subset=name)
    return dict(zip(done["seed"], done[name], strict=True))


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
    pairs = [values[seed] - baseline[seed] for seed in values.keys() & baseline.keys()]
    mean, deviation = spread(pairs)
    freedom, error = len(pairs) - 1, deviation / max(len(pairs), 1) ** 0.5
    if not error > 1e-9 * max(1.0, abs(mean)):  # too few pairs, or equal but for rounding
        return mean, NAN, NAN, NAN
    half = error * float(stdtrit(freedom, 0.975))
    return mean, mean - half, mean + half, 2 * float(stdtr(freedom, -abs(mean) / error))


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm 1979); NaN stays NaN and does not count."""
    values = pd.Series(p, dtype=float).dropna().sort_values()
    adjusted = (values * np.arange(len(values), 0, -1)).clip(upper=1.0).cummax()
    return list(adjusted.reindex(range(len(p))))


def text(value: Any) -> str:
    """Return a setting as a user writes it."""
    if value is None or value != value:
        return ""
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def _paper(sweep: Sweep, table: pd.DataFrame, summary: pd.DataFrame) -> dict[str, Any]:
    """Return the paper's errors, and their improvement over its baseline, in percent.

    They are of the paper's data, networks and alpha.
    """
    free = {*sweep.axes, *(key for axis in sweep.axes for key in IMPLIED.get(axis, ()))}
    noisy = table[~table["baseline"]]
    is_papers = all(
        (noisy if key == "method.alpha" else table)[key].dropna().isin([value]).all()
        for key, value in sweep.usual.items()
        if key in table and key not in free
    )
    axes = [key for key in sweep.axes if key in summary and key != "model@student"]
    if not is_papers or len(axes) != 1 or "baseline" not in sweep.paper:
        return {"paper": NAN, "paper_improvement": NAN}
    values, baseline = summary[axes[0]], sweep.paper["baseline"]
    if isinstance(baseline, dict):
        baseline = summary["model@student"].map(baseline)
    first_teacher = sweep.axes.get("method.teachers", [])[:1]
    is_baseline = values.isin([0.0, "logit_regression", *first_teacher])
    errors = values.map(sweep.paper.get("error", {})).mask(is_baseline).astype(float)
    gain = 100 * (baseline - errors) / baseline
    return {"paper": errors.mask(is_baseline, baseline), "paper_improvement": gain}
