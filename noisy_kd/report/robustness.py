"""Evaluated runs side by side: one row for each method, mean and spread over the seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from noisy_kd import runs
from noisy_kd.report import cells
from noisy_kd.report.statistics import spread
from noisy_kd.report.sweeps import Value
from noisy_kd.report.tables import Table, text
from noisy_kd.runs import Result

STRENGTH = {True: ("0.2", "0.1"), False: ("0.1", "0.01569")}  # grey or not: noise, epsilon
NOTE = (
    "Mean ± standard deviation over n seeds. NLL: negative log-likelihood; ECE: expected "
    "calibration error, 15 bins; accuracies on the test set under Gaussian noise, common "
    "corruptions (mean of all severities), FGSM and PGD-20; AUROC: telling other images by the "
    "maximum softmax."
)


def evaluated(folder: Path) -> list[Result]:
    """Every finished run below a folder that was evaluated, with what was found."""
    found = []
    for directory, result in runs.results(folder):
        for file in sorted(directory.glob("evaluation*.json")):
            evaluation = runs.read_json(file)
            if evaluation and "settings" in result:
                found.append({**result, "evaluation": evaluation})
    return found


def tables(found: list[Result], chosen: Mapping[str, list[Value]]) -> list[Table]:
    """One table for grey and one for coloured images: a row for each set of settings."""
    runs = [run for run in found if fits(run, chosen)]
    kinds = {run["input_shape"][0] == 1: [] for run in runs}  # type: dict[bool, list[Result]]
    for run in runs:
        kinds[run["input_shape"][0] == 1].append(run)
    return [_table(members, grey) for grey, members in sorted(kinds.items(), reverse=True)]


def fits(run: Result, chosen: Mapping[str, list[Value]]) -> bool:
    """Whether it is a finished run of these settings."""
    return run["status"] == "done" and all(
        cells.value(run, key) in (*values, cells.NOWHERE) for key, values in chosen.items()
    )


def _table(found: list[Result], grey: bool) -> Table:
    groups: dict[str, list[Result]] = {}
    for run in found:
        kind = [cells.protocol(run), run["method"], run["evaluation"]["images"]]
        groups.setdefault(json.dumps(kind), []).append(run)
    protocols = [json.loads(key)[0] for key in groups]
    heads, rows = [], []
    for own, members in zip(protocols, groups.values(), strict=True):
        first, measured = members[0], dict(_columns(members, grey))
        heads = ["data", "images", "student", "method", "n", *measured]
        row = [first["dataset"], str(first["evaluation"]["images"]), first["student"]]
        rows.append([*row, _label(first, own, protocols), str(len(members)), *measured.values()])
    return Table("Robustness and calibration", heads, sorted(rows), [NOTE])


def _label(run: Result, own: Mapping[str, Any], protocols: list[dict[str, Any]]) -> str:
    """The method, its noise, and whatever differs between runs of the same method."""
    target = "method._target_"
    same = [p for p in protocols if p[target] == own[target]]
    shown = {key for key in own if any(p.get(key) != own[key] for p in same)}
    shown |= {"method.alpha", "method.sigma"} & set(own)
    words = [f"{key.removeprefix('method.')} {text(own[key])}" for key in sorted(shown)]
    return " ".join([run["method"], *([f"({', '.join(words)})"] if words else [])])


def _columns(members: list[Result], grey: bool) -> Iterator[tuple[str, str]]:
    evaluations = [(run["seed"], run["evaluation"]) for run in members]
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
    for head, (kind, key, factor) in wanted.items():
        values = {seed: e.get(kind, {}).get(key) for seed, e in evaluations}
        yield head, _mean({s: factor * v for s, v in values.items() if v is not None})
    aurocs = {
        seed: sum(e["ood"].values()) / len(e["ood"]) for seed, e in evaluations if e.get("ood")
    }
    yield "AUROC", _mean(aurocs)


def _mean(values: dict[int, float]) -> str:
    one = spread(values)
    if one is None:
        return ""
    return f"{one.mean:.3g}" + ("" if one.deviation is None else f" ± {one.deviation:.2g}")
