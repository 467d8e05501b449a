"""Evaluated runs side by side: one row for each method, mean and spread over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from noisy_kd import runs
from noisy_kd.report import frame
from noisy_kd.report.frame import BASE, paired, spread, text
from noisy_kd.report.sweeps import Sweep, Value
from noisy_kd.report.tables import Table, interval, number
from noisy_kd.runs import Result

NOTE = (
    "Mean ± standard deviation over n seeds. NLL: negative log-likelihood; ECE: expected "
    "calibration error, 15 bins; accuracies on the test set under Gaussian noise, common "
    "corruptions (mean of all severities), FGSM and PGD-20; AUROC: distinguishing other images by "
    "the maximum softmax."
)
COLUMNS = ("data", "images", "model@student", "method")


def evaluated(folder: Path) -> list[Result]:
    """Return a result for each evaluation of a run below a folder, with what was measured."""
    return [
        result | {"evaluation": evaluation}
        for directory, result in runs.results(folder)
        for file in sorted(directory.glob("evaluation*.json"))
        if "images" in (evaluation := runs.read_json(file) or {})
    ]


def tables(results: Sequence[Result], chosen: Mapping[str, Sequence[Value]]) -> list[Table]:
    """Return tables for grey and for coloured images: a row for each set of settings."""
    table = frame.frame(result for result in results if result["status"] == "done")
    table = frame.select(table, chosen)
    if table.empty:
        return []
    table["images"] = [result["evaluation"]["images"] for result in table["result"]]
    table.loc[table["baseline"], "method"] = "logit_regression"
    table.loc[table["baseline"], table.columns.intersection(frame.NOISE)] = None
    channels = table["result"].map(lambda result: result["input_shape"][0])
    shown = []
    for count, members in table.groupby(channels):
        shown += _tables(members, ("0.2", "0.1") if count == 1 else ("0.1", "0.01569"))
    return shown


def _tables(table: pd.DataFrame, strengths: tuple[str, str]) -> list[Table]:
    """Return the means, and the differences to method=hinton, at a noise and an epsilon."""
    columns = frame.cell_columns(Sweep("robustness", "", {key: [] for key in COLUMNS}), table)
    measures = _measures(table, *strengths)
    heads = list(measures)
    shared = [key for key in columns if not key.startswith(("method", "teacher"))]
    table = table.join(measures)
    is_hinton = table["method"] == "hinton"
    if table[is_hinton].drop_duplicates(columns).duplicated(shared).any():
        is_hinton &= False  # of several temperatures, none is the baseline
    table = frame.with_baseline(table, is_hinton, shared, heads)
    rows, differences = [], []
    for _, members in table.groupby(columns, dropna=False):
        first = members.iloc[0]
        settings = dict.fromkeys([*frame.NOISE, *columns[len(COLUMNS) :]])
        given = {key.removeprefix("method."): text(first.get(key)) for key in settings}
        listed = ", ".join(f"{key} {value}" for key, value in given.items() if value)
        label = f"{first['method']} ({listed})" if listed else first["method"]
        row = [*(text(first[key]) for key in COLUMNS[:-1]), label, str(len(members))]
        compared = [label]
        for head in heads:
            errors, base = (frame.errors_by_seed(members, key) for key in (head, BASE + head))
            mean, deviation = spread(errors.values())
            row.append(number("{:.3g}", mean) + number(" ± {:.2g}", deviation))
            compared.append(interval(*paired(errors, base)[:3], "+.3g"))
        rows.append(row)
        if first["method"] != "hinton" and any(compared[1:]):
            differences.append(compared)
    heads_of_rows = ["data", "images", "student", "method", "n", *heads]
    shown = [Table("Robustness and calibration", heads_of_rows, sorted(rows), [NOTE])]
    if differences:
        title = "Differences to method=hinton, paired over the seeds [95 %]"
        shown.append(Table(title, ["method", *heads], sorted(differences)))
    return shown


def _measures(table: pd.DataFrame, noise: str, epsilon: str) -> pd.DataFrame:
    """Return what was measured of each run: a column for each measure that any of them has."""
    evaluations = pd.json_normalize(table["result"].str["evaluation"].tolist())
    wanted = {
        "error %": ("clean.error", 100),
        "agreement %": ("clean.agreement", 100),
        "NLL": ("clean.nll", 1),
        "ECE %": ("calibration.ece", 100),
        f"noise {noise} %": (f"noise.{noise}", 100),
        "corruptions %": ("corruptions.mean", 100),
        f"FGSM {epsilon} %": (f"fgsm.{epsilon}", 100),
        f"PGD {epsilon} %": (f"pgd.{epsilon}", 100),
    }
    measures = {
        head: factor * evaluations[key].astype(float)
        for head, (key, factor) in wanted.items()
        if key in evaluations
    }
    measures["AUROC"] = evaluations.filter(regex=r"^ood\.").mean(axis=1)
    return pd.DataFrame(measures).set_index(table.index).dropna(axis=1, how="all")
