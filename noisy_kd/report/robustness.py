"""Evaluated runs side by side: one row for each method, mean and spread over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from noisy_kd import runs
from noisy_kd.report import frame
from noisy_kd.report.frame import text
from noisy_kd.report.statistics import paired, spread
from noisy_kd.report.sweeps import Sweep
from noisy_kd.report.tables import Table, interval
from noisy_kd.runs import Result

STRENGTH = {True: ("0.2", "0.1"), False: ("0.1", "0.01569")}  # grey or not: noise, epsilon
NOTE = (
    "Mean ± standard deviation over n seeds. NLL: negative log-likelihood; ECE: expected "
    "calibration error, 15 bins; accuracies on the test set under Gaussian noise, common "
    "corruptions (mean of all severities), FGSM and PGD-20; AUROC: distinguishing other images by "
    "the maximum softmax."
)
EVERYTHING = Sweep("robustness", "", {"method": []})


def evaluated(folder: Path) -> list[Result]:
    """Return every finished run below a folder that was evaluated, with what was measured."""
    found = []
    for directory, result in runs.results(folder):
        for file in sorted(directory.glob("evaluation*.json")):
            evaluation = runs.read_json(file)
            if evaluation and "settings" in result:
                found.append({**result, "evaluation": evaluation})
    return found


def tables(results: Sequence[Result], chosen: Mapping[str, Sequence[Any]]) -> list[Table]:
    """Return tables for grey and for coloured images: a row for each set of settings."""
    table = frame.frame(result for result in results if result["status"] == "done")
    table = frame.select(table, {key: list(values) for key, values in chosen.items()})
    if table.empty:
        return []
    table["images"] = [result["evaluation"]["images"] for result in table["result"]]
    made = []
    for grey in (True, False):
        members = table[[(r["input_shape"][0] == 1) == grey for r in table["result"]]]
        if len(members):
            made += _tables(members, grey)
    return made


def _tables(table: pd.DataFrame, grey: bool) -> list[Table]:
    more = [key for key in frame.cell_columns(EVERYTHING, table) if key not in ("method", "images")]
    shown = [key for key in more if key not in ("data", "student.layers")]
    columns = ["data", "images", "model@student", "method", *more]
    groups: list[tuple[Any, pd.DataFrame]] = [
        *table.groupby(list(dict.fromkeys(columns)), dropna=False)
    ]
    every = [measures(members["result"], grey) for _, members in groups]
    heads = [head for head in every[0] if any(one[head] for one in every)]
    rows, differences = [], []
    for (_, members), own in zip(groups, every, strict=True):
        first = members.iloc[0]
        noise = {k: first[k] for k in (*frame.NOISE, *shown) if k in table and text(first[k])}
        if first["baseline"]:
            noise, name = (
                {k: v for k, v in noise.items() if k not in frame.NOISE},
                "logit_regression",
            )
        else:
            name = first["method"]
        given = ", ".join(f"{key.removeprefix('method.')} {text(v)}" for key, v in noise.items())
        label = f"{name} ({given})" if given else name
        row = [first["data"], text(first["images"]), first["model@student"], label]
        rows.append([*row, str(len(members)), *(_mean(own[head]) for head in heads)])
        base = _hinton(groups, every, first, more)
        if base is not None and base is not own:
            pairs = [paired(own[head], base[head]) for head in heads]
            differences.append([label, *(interval(*pair[:3], "+.3g") for pair in pairs)])
    heads_of = ["data", "images", "student", "method", "n", *heads]
    made = [Table("Robustness and calibration", heads_of, sorted(rows), [NOTE])]
    if differences:
        title = "Differences to method=hinton, paired over the seeds [95 %]"
        made.append(Table(title, ["method", *heads], sorted(differences)))
    return made


def _hinton(
    groups: list[tuple[Any, pd.DataFrame]],
    every: list[dict[str, dict[int, float]]],
    first: pd.Series[Any],
    more: list[str],
) -> dict[str, dict[int, float]] | None:
    """The measures of the one group of method=hinton with the same other settings."""
    same = ["data", "images", "model@student"]
    same += [key for key in more if not key.startswith(("method", "teacher"))]
    found = [
        own
        for (_, members), own in zip(groups, every, strict=True)
        if members.iloc[0]["method"] == "hinton"
        and all(text(members.iloc[0][key]) == text(first[key]) for key in same)
    ]
    return found[0] if len(found) == 1 else None


def measures(results: Sequence[Result], grey: bool) -> dict[str, dict[int, float]]:
    """Return what was measured: heading -> seed -> value."""
    evaluations = [(result["seed"], result["evaluation"]) for result in results]
    noise, epsilon = STRENGTH[grey]
    wanted = {
        "error %": ("clean", "error", 100),
        "agreement %": ("clean", "agreement", 100),
        "NLL": ("clean", "nll", 1),
        "ECE %": ("calibration", "ece", 100),
        f"noise {noise} %": ("noise", noise, 100),
        "corruptions %": ("corruptions", "mean", 100),
        f"FGSM {epsilon} %": ("fgsm", epsilon, 100),
        f"PGD {epsilon} %": ("pgd", epsilon, 100),
    }
    found = {}
    for head, (kind, key, factor) in wanted.items():
        values = {seed: e.get(kind, {}).get(key) for seed, e in evaluations}
        found[head] = {s: factor * v for s, v in values.items() if v is not None}
    found["AUROC"] = {
        seed: sum(e["ood"].values()) / len(e["ood"]) for seed, e in evaluations if e.get("ood")
    }
    return found


def _mean(values: Mapping[int, float]) -> str:
    mean, deviation = spread(list(values.values()))
    if not values:
        return ""
    return f"{mean:.3g}" + ("" if deviation != deviation else f" ± {deviation:.2g}")
