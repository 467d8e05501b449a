"""What a student costs beside its teacher ([NT] section 5.5): counted, and measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from noisy_kd import runs
from noisy_kd.report.cells import Block
from noisy_kd.report.sweeps import Sweep
from noisy_kd.report.tables import Table, text
from noisy_kd.runs import Result

NOTE = (
    "Multiplications of one image, without biases; ratios are the teacher's to the student's. On "
    "disk: float32 weights. Latency: median milliseconds of a batch on one CPU thread in torch, as "
    "python -m noisy_kd.export RUN_DIR measures it (one run of a student is enough)."
)
HEADS = ["network", "multiplications", "ratio", "paper", "parameters", "ratio", "on disk"]


def table(sweep: Sweep, block: Block) -> Table | None:
    """The teacher and each student of a sweep whose paper prints compression ratios."""
    paper = sweep.paper.get("compression")
    found = {run["student"]: run for cell in block.cells for run in cell.done.values()}
    if paper is None or not found:
        return None
    first = next(iter(found.values()))
    rows = [
        [
            *(first["teacher"], f"{first['teacher_multiplications']:,}", "", ""),
            *(f"{first['teacher_parameters']:,}", "", _megabytes(first["teacher_parameters"])),
            *["", ""],
        ]
    ]
    for name, run in found.items():
        latency = _latency([one for c in block.cells for one in c.done.values()], name)
        ratio = run["teacher_parameters"] / run["parameters"]
        rows.append(
            [
                *(name, f"{run['multiplications']:,}", f"{run['compression']:.2f}"),
                *(text(paper.get(name)), f"{run['parameters']:,}", f"{ratio:.2f}"),
                *(_megabytes(run["parameters"]), _ratio(latency, 1), _ratio(latency, 64)),
            ]
        )
    heads = [*HEADS, "latency of 1: ms (ratio)", "of 64"]
    return Table(f"{sweep.name}: compression in real terms", heads, rows, [NOTE])


def _megabytes(parameters: int) -> str:
    return f"{4 * parameters / 1e6:.1f} MB"


def _latency(found: list[Result], student: str) -> Mapping[str, float]:
    """The first measurement beside a run of this student."""
    for run in found:
        if run["student"] == student and latency_of(run):
            return latency_of(run)["latency"]
    return {}


def latency_of(run: Result) -> dict[str, Mapping[str, float]]:
    """``{"latency": ...}`` of a run for which it was measured."""
    measured = run.get("latency")
    if measured is None and "directory" in run:
        measured = runs.read_json(Path(run["directory"]) / "latency.json")
    return {"latency": measured} if measured else {}


def _ratio(latency: Mapping[str, float], batch: int) -> str:
    student = latency.get(f"student, torch, batch {batch}")
    teacher = latency.get(f"teacher, torch, batch {batch}")
    if not student or not teacher:
        return "-"
    return f"{student:.2f} ({teacher / student:.1f})"
