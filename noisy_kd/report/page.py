"""What a report consists of: results that were found, settings that were asked for, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from noisy_kd import runs
from noisy_kd.errors import InputError
from noisy_kd.model import notation
from noisy_kd.report import cells, cost, sweeps, tables
from noisy_kd.report.sweeps import Sweep, Value
from noisy_kd.report.tables import Table
from noisy_kd.runs import Result

RUNS = Path("runs")
NO_SETTING = {  # what decides no number, and so is in no result
    *("data.root", "data.download", "store", "force", "devices", "max_stack", "callbacks"),
    *("logger", "trainer", "trainer.accelerator", "trainer.devices", "callbacks.progress"),
}


def read(folder: Path) -> list[Result]:
    """All results below a folder, one directory deep; none if the default one is not there.

    Raises:
        InputError: if there is no such folder.
    """
    if not folder.is_dir() and folder != RUNS:
        raise InputError(f"there is no folder {folder}: --results names the folder of the runs.")
    return [result | {"directory": str(place)} for place, result in runs.results(folder)]


def settings(words: Sequence[str]) -> dict[str, list[Value]]:
    """KEY=VALUE words as lists of values; Hydra's own keys are left out."""
    pairs = [word.partition("=") for word in words if not word.startswith("hydra")]
    found = {key.lstrip("+"): sweeps.split(values) for key, _, values in pairs}
    found = {key: values for key, values in found.items() if key not in NO_SETTING}
    for net in ("teacher", "student"):  # networks by their import path
        if found.get(f"model@{net}") in (["torchvision"], ["module"]):
            del found[f"model@{net}"]
        names = found.pop(f"{net}.name", [])
        if names:
            found[f"{net}.layers"] = [f"torchvision.models.{name}" for name in names]
        if f"{net}._target_" in found:
            found[f"{net}.layers"] = found.pop(f"{net}._target_")
    for key in ("student.layers", "teacher.layers"):
        if key in found:
            layers = [notation.notation(notation.parse(str(one))) for one in found[key]]
            found[key] = list(layers)
    if files := found.get("teacher.checkpoint"):
        found["teacher.checkpoint"] = [_by_content(str(one)) for one in files]
    return found


def _by_content(checkpoint: str) -> str:
    """A checkpoint as tables name it, ``sha256:...``, from its file or as it is."""
    named = checkpoint == "null" or checkpoint.startswith(cells.CONTENT)
    return checkpoint if named else cells.CONTENT + runs.file_digest(checkpoint)


def check_settings(chosen: Mapping[str, list[Value]], found: Sequence[Result]) -> None:
    """Refuse a setting that no run has: the table would be empty, or not what was asked for.

    Raises:
        InputError: with the values that there are.
    """
    runs_ = [run for run in found if "settings" in run]
    for key, values in chosen.items() if runs_ else ():
        there = {cells.value(run, key) for run in runs_} - {cells.NOWHERE}
        if not there:
            raise InputError(f"{key} is not a setting of any run.")
        if not there & set(values):
            told = ", ".join(sorted(tables.text(one) for one in there))
            raise InputError(f"no run has {key}={tables.text(values[0])}; there are: {told}.")


def report(
    sweep: Sweep,
    found: Sequence[Result],
    chosen: Mapping[str, list[Value]] | None = None,
    own: bool = False,
) -> list[Table]:
    """The tables of a sweep: one for each set of other settings; see :func:`cells.blocks`."""
    made = []
    for block in cells.blocks(sweep, found, chosen, own):
        made.append(tables.table(sweep, block))
        more = tables.best_table(sweep, block), tables.tuned_table(block), cost.table(sweep, block)
        made += filter(None, more)
    return made


def overview(found: Sequence[Result], folder: Path) -> Table:
    """Which sweeps there are, and how many of their cells have runs."""
    rows = []
    for name in sweeps.names():
        sweep = sweeps.read(name)
        blocks = cells.blocks(sweep, found)
        filled = [sum(bool(cell.done) for cell in block.cells) for block in blocks]
        best = filled.index(max(filled))
        others = len(blocks) - 1 + len(blocks[-1].others)
        more = f", and {others} with other settings" if others else ""
        own = blocks[best].cells
        done = sum(len(cell.done) for cell in own)
        rows.append([name, sweep.title, f"{filled[best]} of {len(own)}{more}", str(done)])
    return Table(f"Sweeps, and their runs in {folder}", ["sweep", "what", "cells", "runs"], rows)
