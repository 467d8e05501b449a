"""Evaluated runs side by side: one row for each method, mean and spread over the seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisy_kd import runs
from noisy_kd.report import cells
from noisy_kd.report.statistics import Paired, paired, spread
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
    made: list[Table] = []
    for grey, members in sorted(kinds.items(), reverse=True):
        made += filter(None, [_table(members, grey), _against(members, grey)])
    return made


def fits(run: Result, chosen: Mapping[str, list[Value]]) -> bool:
    """Whether it is a finished run of these settings."""
    return run["status"] == "done" and all(
        cells.value(run, key) in (*values, cells.NOWHERE) for key, values in chosen.items()
    )


def _table(found: list[Result], grey: bool) -> Table:
    groups = _groups(found)
    protocols = [cells.protocol(members[0]) for members in groups]
    every = [measures(members, grey) for members in groups]
    shown = [head for head in every[0] if any(one[head] for one in every)]
    rows = []
    for members, own, values in zip(groups, protocols, every, strict=True):
        first = members[0]
        row = [first["dataset"], str(first["evaluation"]["images"]), first["student"]]
        row += [_label(first, own, protocols), str(len(members))]
        rows.append([*row, *(_mean(values[head]) for head in shown)])
    heads = ["data", "images", "student", "method", "n", *shown]
    return Table("Robustness and calibration", heads, sorted(rows), [NOTE])


def _against(found: list[Result], grey: bool) -> Table | None:
    """Every method's differences to Hinton's, where the paper of these methods starts from."""
    groups = _groups(found)
    protocols = [cells.protocol(members[0]) for members in groups]
    rows = []
    for members, own in zip(groups, protocols, strict=True):
        beside = [
            others
            for others, other in zip(groups, protocols, strict=True)
            if others[0]["method"] == "hinton"
            and others is not members
            and _rest(other) == _rest(own)
            and others[0]["evaluation"]["images"] == members[0]["evaluation"]["images"]
        ]
        if len(beside) == 1:  # with several temperatures there is no one to compare with
            values, base = measures(members, grey), measures(beside[0], grey)
            pairs = [paired(values[head], base[head]) for head in values]
            rows.append([_label(members[0], own, protocols), *(_interval(pair) for pair in pairs)])
    heads = ["method", *measures(found, grey)]
    kept = [k for k in range(len(heads)) if any(row[k] for row in rows)]
    title = "Differences to method=hinton, paired over the seeds [95 %]"
    shown = [[row[k] for k in kept] for row in sorted(rows)]
    return Table(title, [heads[k] for k in kept], shown) if rows else None


def _groups(found: list[Result]) -> list[list[Result]]:
    """Runs that differ in their seed alone."""
    groups: dict[str, list[Result]] = {}
    for run in found:
        kind = [cells.protocol(run), run["method"], run["evaluation"]["images"]]
        groups.setdefault(json.dumps(kind), []).append(run)
    return list(groups.values())


def _rest(protocol: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in protocol.items() if not key.startswith(("method", "teacher"))}


def _interval(pair: Paired | None) -> str:
    if pair is None or pair.low is None or pair.high is None:
        return "" if pair is None else f"{pair.mean:+.3g}"
    return f"{pair.mean:+.3g} [{pair.low:+.3g}, {pair.high:+.3g}]"


def _label(run: Result, own: Mapping[str, Any], protocols: list[dict[str, Any]]) -> str:
    """The method, its noise, and whatever differs between runs of one method, data and student."""
    alike = ("method._target_", "data.name", "student.layers")
    same = [p for p in protocols if all(p[key] == own[key] for key in alike)]
    shown = {key for key in own if any(p.get(key) != own[key] for p in same)}
    shown |= {"method.alpha", "method.sigma"} & set(own)
    words = [f"{key.removeprefix('method.')} {text(own[key])}" for key in sorted(shown)]
    return " ".join([run["method"], *([f"({', '.join(words)})"] if words else [])])


def measures(members: list[Result], grey: bool) -> dict[str, dict[int, float]]:
    """What was measured: heading -> seed -> value."""
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
    found = {}
    for head, (kind, key, factor) in wanted.items():
        values = {seed: e.get(kind, {}).get(key) for seed, e in evaluations}
        found[head] = {s: factor * v for s, v in values.items() if v is not None}
    found["AUROC"] = {
        seed: sum(e["ood"].values()) / len(e["ood"]) for seed, e in evaluations if e.get("ood")
    }
    return found


def _mean(values: dict[int, float]) -> str:
    one = spread(values)
    if one is None:
        return ""
    return f"{one.mean:.3g}" + ("" if one.deviation is None else f" ± {one.deviation:.2g}")
