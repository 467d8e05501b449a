"""The runs of a sweep as a pandas DataFrame, and the cells of its table.

A *cell* is a combination of settings: the axes of the sweep, and every other setting that differs
among its runs, but the seed. The baseline of a cell is logit regression with the same other
settings.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from noisy_kd import runs
from noisy_kd.errors import InputError
from noisy_kd.model import notation
from noisy_kd.report.statistics import holm, paired, spread
from noisy_kd.report.sweeps import Sweep, Value, canonical, split
from noisy_kd.runs import Result

NOISE = ("method.alpha", "method.sigma")
REGULARISERS = ("student.dropout", "optimizer.weight_decay")
"""Axes whose value 0 is the baseline's."""

PLACE = {  # keys that decide no number, and so are in no result
    *("data.root", "data.download", "store", "force", "devices", "max_stack", "callbacks"),
    *("logger", "trainer", "trainer.accelerator", "trainer.devices", "callbacks.progress"),
}
CONTENT = "sha256:"
"""Before the digest of a checkpoint, which might else read as a number."""

IMPLIED = {  # settings that differ because an axis differs
    "model@student": ("student.layers", "student._target_"),
    "model@teacher": ("teacher.layers", "teacher._target_"),
    "method": ("teacher.layers",),
    "method.teachers": ("teacher.layers",),
    "data.batch_size": ("teacher.batch_size",),
}


def frame(results: Iterable[Result]) -> pd.DataFrame:
    """Return one row per run: its settings by their keys, and its numbers.

    Errors are in percent. ``baseline`` says whether the run is logit regression, by name or because
    its noise is zero. ``result`` is what the run has written.
    """
    rows = []
    for result in results:
        if "settings" not in result:
            continue
        flat = _flat(result["settings"])
        row: dict[str, Any] = {key: canonical(value) for key, value in flat.items()}
        row["data"] = row.pop("data.name")
        row["method"] = str(row.pop("method._target_")).rpartition(".")[2]
        row |= {"model@student": result["student"], "model@teacher": result["teacher"]}
        if row["method"] == "two_teachers":
            row["method.teachers"] = result["teacher"]
        if row.get("teacher.checkpoint", "null") != "null":
            row["teacher.checkpoint"] = CONTENT + str(result["settings"]["teacher"]["checkpoint"])
        row["seed"], row["status"] = int(result["settings"]["seed"]), result["status"]
        row["baseline"], row["result"] = result["method"] == "logit_regression", result
        for key in ("test_error", "val_error", "teacher_test_error"):
            value = result.get(key)
            row[key] = float("nan") if value is None else 100 * value
        rows.append(row)
    return pd.DataFrame(rows)


def filters(words: Sequence[str]) -> dict[str, list[Value]]:
    """Return KEY=VALUE,... words as key -> values; keys that decide no number are left out."""
    pairs = [word.partition("=") for word in words if not word.startswith("hydra")]
    chosen = {key.lstrip("+"): split(values) for key, _, values in pairs}
    chosen = {key: values for key, values in chosen.items() if key not in PLACE}
    if chosen.get("precision") == ["auto"]:  # results have what it was resolved to
        del chosen["precision"]
    for net in ("student", "teacher"):
        if layers := chosen.get(f"{net}.layers"):
            parsed = [notation.notation(notation.parse(str(one))) for one in layers]
            chosen[f"{net}.layers"] = [*parsed]
    if files := chosen.get("teacher.checkpoint"):
        chosen["teacher.checkpoint"] = [_by_content(str(file)) for file in files]
    return chosen


def select(table: pd.DataFrame, chosen: Mapping[str, list[Value]]) -> pd.DataFrame:
    """Return the runs that have the chosen settings; baselines need not have a method's.

    Raises:
        InputError: for a key or a value that no run has.
    """
    for key, values in chosen.items():
        if table.empty:
            break
        if key not in table:
            raise InputError(f"{key} is not a setting of any run.")
        fits = table[key].isin(values)
        if not fits.any():
            known = ", ".join(sorted({text(one) for one in table[key].dropna()}))
            raise InputError(f"no run has {key}={text(values[0])}; there are: {known}.")
        free = table["baseline"] if key.startswith("method") else False
        free |= table[key].isna() & key.startswith("teacher.")  # a method without a teacher
        table = table[fits | free]
    return table


def cell_columns(sweep: Sweep, table: pd.DataFrame) -> list[str]:
    """Return the settings that tell cells apart: the axes, then what differs besides."""
    axes = [key for key in sweep.axes if key in table]
    hidden = {"seed", "status", "baseline", "result", "data.content", "model@student"}
    hidden |= {"model@teacher", "test_error", "val_error", "teacher_test_error", *axes}
    hidden |= {key for axis in axes for key in IMPLIED.get(axis, ())}
    more = []
    for key in table.columns.difference(hidden, sort=False):
        if key == "method" or key.startswith("method."):  # of a baseline they decide nothing
            values = table[~table["baseline"]].groupby("method")[key].nunique()
            differs = len(values) > 1 if key == "method" else bool((values > 1).any())
        else:  # a method without a teacher lacks the keys of one
            differs = table[key].nunique(dropna=key.startswith("teacher.")) > 1
        if differs:
            more.append(key)
    return [*axes, *more]


def cells(sweep: Sweep, table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell, in the order of the grid, beside its baseline and the paper.

    Columns: the settings; ``mean``, ``deviation`` and ``n`` of the test error; ``val_error``; of
    the difference to the baseline ``difference``, ``low``, ``high``, ``p`` and ``holm``; the
    relative ``improvement``; ``is_baseline``; ``paper``, ``paper_improvement``; ``runs``.
    """
    columns = cell_columns(sweep, table)
    table = table.copy()
    if "method" in sweep.axes and "logit_regression" in sweep.axes["method"]:
        table.loc[table["baseline"], "method"] = "logit_regression"
    for key in {*NOISE, *REGULARISERS} & set(columns):
        table[key] = table[key].fillna(0.0)
    table.loc[table["baseline"], [key for key in NOISE if key in columns]] = 0.0
    shared = [key for key in columns if not key.startswith("method") and key not in REGULARISERS]
    baselines = _baselines(sweep, table, columns, shared)
    is_papers = _is_papers(sweep, table)
    rows = []
    for cell, runs_of in _groups(table, columns):
        base = baselines.get(tuple(cell[name] for name in shared), {})
        errors = errors_by_seed(runs_of)
        mean, deviation = spread(list(errors.values()))
        difference, low, high, p = paired(errors, base)
        both = errors.keys() & base.keys()
        clean, own = sum(base[seed] for seed in both), sum(errors[seed] for seed in both)
        is_baseline = bool(errors) and all(base.get(s) == e for s, e in errors.items())
        is_baseline = is_baseline and bool(runs_of["baseline"].all())
        rows.append(
            {
                **cell,
                "mean": mean,
                "deviation": deviation,
                "n": len(errors),
                "val_error": spread([*errors_by_seed(runs_of, "val_error").values()])[0],
                "difference": float("nan") if is_baseline else difference,
                "low": low,
                "high": high,
                "p": float("nan") if is_baseline else p,
                "improvement": 100 * (clean - own) / clean if clean and not is_baseline else None,
                "is_baseline": is_baseline,
                **_paper(sweep, cell if is_papers else {}),
                "runs": runs_of,
            }
        )
    summary = pd.DataFrame(rows)
    summary["holm"] = holm(summary["p"]) if len(summary) else []
    return summary


def settings_of(summary: pd.DataFrame) -> list[str]:
    """Return the columns of cells that are settings."""
    return list(summary.columns[: summary.columns.get_loc("mean")])


def text(value: Any) -> str:
    """Return a value as people write it."""
    if value is None or value != value:
        return ""
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def words(settings: Mapping[str, Any]) -> str:
    """Return settings as one would type them."""
    return " ".join(f"{key}={text(one)}" for key, one in settings.items())


def _groups(table: pd.DataFrame, columns: list[str]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The runs of each cell, sorted by the columns: numbers by value, names by first appearance."""
    if not columns:
        return [({}, table)]
    ranks = {}
    for key in columns:
        known = list(dict.fromkeys(table[key]))
        if all(isinstance(one, float) for one in known):
            known.sort()
        ranks[key] = {text(one): rank for rank, one in enumerate(known)}
    groups = [
        (dict(zip(columns, key, strict=True)), members)
        for key, members in table.groupby(columns, dropna=False, sort=False)
    ]
    return sorted(groups, key=lambda group: [ranks[key][text(v)] for key, v in group[0].items()])


def errors_by_seed(members: pd.DataFrame, name: str = "test_error") -> dict[int, float]:
    """Return seed -> error in percent, of the runs that are done."""
    done = members[(members["status"] == "done") & members[name].notna()]
    return dict(zip(done["seed"], done[name], strict=True))


def _baselines(
    sweep: Sweep, table: pd.DataFrame, columns: list[str], shared: list[str]
) -> dict[tuple[Value, ...], dict[int, float]]:
    """Logit regression's errors by seed, by the settings that a baseline shares with its cells."""
    plain = table[table["baseline"]]
    for key in set(REGULARISERS) & set(columns):
        plain = plain[plain[key] == 0.0]
    if "method.teachers" in sweep.axes:  # of several teachers, the first is the baseline's
        plain = plain[plain["method.teachers"] == sweep.axes["method.teachers"][0]]
    return {
        tuple(key[name] for name in shared): errors_by_seed(members)
        for key, members in _groups(plain, shared)
    }


def _is_papers(sweep: Sweep, table: pd.DataFrame) -> bool:
    """Whether all runs have the data, the networks and the alpha of the paper's numbers."""
    implied = {"method": "model@teacher", "method.teachers": "model@teacher"}
    free = {*sweep.axes, *(implied[axis] for axis in sweep.axes if axis in implied)}
    noisy = table[~table["baseline"]]
    return all(
        (noisy if key == "method.alpha" else table)[key].dropna().isin([value]).all()
        for key, value in sweep.usual.items()
        if key in table and key not in free
    )


def _paper(sweep: Sweep, key: Mapping[str, Any]) -> dict[str, float | None]:
    """The paper's error for a cell, and its improvement over the paper's baseline, in percent."""
    errors = {text(canonical(k)): value for k, value in sweep.paper.get("error", {}).items()}
    baseline, student = sweep.paper.get("baseline"), key.get("model@student")
    if isinstance(baseline, dict):
        baseline = baseline.get(student)
    axes = [key[axis] for axis in sweep.axes if axis in key and axis != "model@student"]
    if baseline is None or len(axes) != 1:
        return {"paper": None, "paper_improvement": None}
    first = sweep.axes.get("method.teachers", [None])[0]
    if axes[0] in (0.0, "logit_regression", first):
        return {"paper": baseline, "paper_improvement": None}
    error = errors.get(text(axes[0]))
    gain = None if error is None else 100 * (baseline - error) / baseline
    return {"paper": error, "paper_improvement": gain}


def _by_content(checkpoint: str) -> str:
    named = checkpoint == "null" or checkpoint.startswith(CONTENT)
    return checkpoint if named else CONTENT + runs.file_digest(checkpoint)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in settings.items():
        flat |= (
            _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {prefix + key: inner}
        )
    return flat


def read(folder: Path, directories: Iterable[str] | None = None) -> list[Result]:
    """Return the results of runs, with their directories."""
    if directories is None:
        return [result | {"directory": str(place)} for place, result in runs.results(folder)]
    results = [(folder / name, runs.read_result(folder / name)) for name in directories]
    return [result | {"directory": str(place)} for place, result in results if result]
