"""A sweep's cells as tables beside the paper's numbers, in text, Markdown, HTML or CSV."""

from __future__ import annotations

import html
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from noisy_kd import runs
from noisy_kd.report import frame, sweeps
from noisy_kd.report.frame import paired, settings_of, text
from noisy_kd.report.sweeps import Sweep, Value
from noisy_kd.runs import Result


@dataclass
class Table:
    """A title, headings, rows of text, lines below, and the numbers where there are more."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    numbers: pd.DataFrame | None = None


SHORT = {
    "method.sigma": "σ",
    "method.alpha": "α",
    "method.temperature": "τ",
    "method.teachers": "teachers",
    "student.dropout": "dropout",
    "student.layers": "student",
    "optimizer.weight_decay": "weight decay",
    "optimizer.lr": "learning rate",
    "optimizer.schedule": "schedule",
    "optimizer.averaging": "averaging",
    "trainer.max_epochs": "epochs",
    "data.batch_size": "batch",
    "data.subset": "images",
    "data.views": "views",
    "data.augment": "augment",
    "data.label_noise": "label noise",
    "model@student": "student",
    "model@teacher": "teacher",
}
DIFFERENCE = ["difference", "low", "high"]
TRAINING = ("data.batch_size", "trainer.max_epochs")
"""Axes that are tuned, besides those of ``optimizer``."""
NOTE = (
    "Test error in percent, mean ± standard deviation over n seeds. Improvement: relative to the "
    "baseline, logit regression. Difference: to the baseline, in points, paired over seeds; p: "
    "paired t-test, and adjusted for the cells of the table (Holm)."
)
COST_NOTE = (
    "Multiplications of one image, without biases; ratios are the teacher's to the student's. On "
    "disk: float32 weights. Latency: median milliseconds of a batch on one CPU thread in torch, as "
    "noisy-kd export measures it."
)


def report(
    sweep: Sweep,
    results: Sequence[Result],
    chosen: Mapping[str, Sequence[Value]] | None = None,
    missing: int = 0,
) -> list[Table]:
    """Return the tables of those runs of a sweep that have the chosen settings.

    ``missing``: how many runs that the launcher has recorded have no result.
    """
    chosen = chosen or {}
    table = frame.select(frame.frame(results), chosen)
    hidden = {*sweep.axes, "data", "seed"}
    shown = [f"{k}={text(v[0])}" for k, v in chosen.items() if len(v) == 1 and k not in hidden]
    title = f"{sweep.name}: {sweep.title}" + (f" ({' '.join(shown)})" if shown else "")
    if table.empty:
        how = "-m KEY=VALUE,..." if sweep.name == sweeps.CUSTOM else f"-cn {sweep.name}"
        return [Table(title, [], [], [f"No runs: noisy-kd train {how}."])]
    summary = frame.cells(sweep, table)
    first = _cells(title, summary, table, sweep.name != sweeps.CUSTOM)
    if missing:
        first.notes.append(f"{missing} runs of this sweep have no result yet.")
    return [
        *filter(None, [first, _best(sweep, summary), _tuned(sweep, summary), _cost(sweep, table)])
    ]


def overview(folder: Path) -> Table:
    """Return the list of the sweeps: what each is, and how many of its runs are done."""
    rows = []
    for name in (*sweeps.names(), sweeps.CUSTOM):
        recorded = sweeps.recorded(folder, name)
        done = sum(result["status"] == "done" for result in frame.read(folder, recorded))
        count = f"{done} of {len(recorded)}" if recorded else "0"
        rows.append([name, sweeps.read(name).title, count])
    is_empty = all(count == "0" for _, _, count in rows)
    notes = ["[NT]: Sau & Balasubramanian 2016."]
    notes += ["No sweep has been run: noisy-kd train -cn quick."] if is_empty else []
    return Table(f"Sweeps, and their runs in {folder}", ["sweep", "what", "runs done"], rows, notes)


def _cells(title: str, summary: pd.DataFrame, table: pd.DataFrame, is_grid: bool) -> Table:
    """Return all cells, each beside its baseline and the paper's number."""
    settings, has_baseline = settings_of(summary), summary["is_baseline"].any()
    has_paper = summary["paper"].notna().any()
    heads = [*map(short, settings), "error %", "n"]
    heads += ["improvement", "difference [95 %]", "p", "p (Holm)"] if has_baseline else []
    heads += ["paper %", "paper impr."] if has_paper else []
    rows = []
    for _, cell in summary.iterrows():
        row = [*(text(cell[key]) for key in settings), *_error(cell)]
        if has_baseline:
            gain = number("{:+.1f} %", cell["improvement"])
            row += ["baseline" if cell["is_baseline"] else gain, interval(*cell[DIFFERENCE])]
            row += [_p(cell["p"]), _p(cell["holm"])]
        if has_paper:
            gain = number("{:+.1f} %", cell["paper_improvement"])
            row += [number("{:.2f}", cell["paper"]), gain]
        rows.append(row)
    notes = [_what(table), NOTE, *_gaps(summary, settings, is_grid)]
    if not has_baseline:
        notes.append("No baseline: the same runs with method=logit_regression.")
    return Table(title, heads, rows, notes, summary.drop(columns="runs"))


def short(key: str) -> str:
    """Return the short name of a setting."""
    return SHORT.get(key, key)


def place(cell: pd.Series[Any], settings: Sequence[str]) -> str:
    """Return the settings of a cell with their short names."""
    return ", ".join(f"{short(key)} {text(cell[key])}" for key in settings)


def _error(cell: pd.Series[Any]) -> list[str]:
    """Return the mean error with its standard deviation, and n; without runs their status."""
    status = " and ".join(sorted(set(cell["runs"]["status"])))
    error = number("{:.2f}", cell["mean"]) + number(" ± {:.2f}", cell["deviation"])
    return [error or status, str(cell["n"])]


def number(form: str, *values: float) -> str:
    """Return values in a form of ``str.format``; empty for NaN."""
    return "" if pd.isna(values[0]) else form.format(*values)


def interval(mean: float, low: float, high: float, form: str = "+.2f") -> str:
    """Return a difference with its confidence interval."""
    ends = "" if pd.isna(low) else f" [{low:{form}}, {high:{form}}]"
    return "" if pd.isna(mean) else f"{mean:{form}}{ends}"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else number("{:.3f}", p)


def _what(table: pd.DataFrame) -> str:
    """Return data, teachers with their test errors, students, and epochs of the runs."""
    teachers = []
    for name, errors in table.groupby("model@teacher", sort=False)["teacher_test_error"]:
        ends = dict.fromkeys(f"{end:.2f}" for end in (errors.min(), errors.max()) if end == end)
        teachers.append(f"{name} ({' to '.join(ends)} % test error)" if ends else str(name))
    data, students = (", ".join(table[key].unique()) for key in ("data", "model@student"))
    epochs = ", ".join(map(text, sorted(table["trainer.max_epochs"].unique())))
    return f"{data}, {', '.join(teachers)} -> {students}, {epochs} epochs."


def _gaps(summary: pd.DataFrame, settings: list[str], is_grid: bool) -> list[str]:
    """Return a line for runs that diverged, have failed, or are missing in a grid."""
    seeds = sorted({seed for members in summary["runs"] for seed in members["seed"]})
    places: dict[str, list[str]] = {"diverged": [], "failed": []}
    if is_grid:
        places["missing"] = []
    for _, cell in summary.iterrows():
        by_seed = dict(zip(cell["runs"]["seed"], cell["runs"]["status"], strict=True))
        for status, cells in places.items():
            bad = [str(seed) for seed in seeds if by_seed.get(seed, "missing") == status]
            if bad:
                cells.append(f"{place(cell, settings)} (seed {', '.join(bad)})")
    return [f"{status.title()}: {'; '.join(cells)}." for status, cells in places.items() if cells]


def _best(sweep: Sweep, summary: pd.DataFrame) -> Table | None:
    """[NT] Table 6: each student's baseline, and its noisy teacher at the best sigma."""
    rows = []
    for _, best in best_cells(summary).iterrows() if "best" in sweep.paper else ():
        row = [best["model@student"], f"{best['compression']:.2f}", f"{best['baseline']:.2f}"]
        row += [text(best.get("method.sigma")), f"{best['mean']:.2f}", interval(*best[DIFFERENCE])]
        paper = (sweep.paper[key].get(row[0]) for key in ("compression", "baseline", "best"))
        rows.append([*row, *map(text, paper)])
    heads = ["student", "compression", "logit regression %", "best σ", "noisy teacher %"]
    heads += ["difference [95 %]", "paper: compression", "logit regr. %", "noisy teacher %"]
    return Table(f"{sweep.name}: the best σ by validation error", heads, rows) if rows else None


def _best_first(cells: pd.DataFrame) -> pd.DataFrame:
    """Return cells by their validation errors; those with fewer seeds behind all others."""
    return cells.sort_values(["n", "val_error"], ascending=[False, True], kind="stable")


def best_cells(summary: pd.DataFrame) -> pd.DataFrame:
    """Return each student's noisy cell of the lowest validation error, of those with most seeds.

    With ``compression``, and ``baseline``, the error of logit regression.
    """
    best = _best_first(summary[summary["difference"].notna()])
    best = best.drop_duplicates("model@student").sort_index()
    best["compression"] = [runs["result"].iloc[0]["compression"] for runs in best["runs"]]
    plain = summary[summary["is_baseline"]].groupby("model@student")["mean"].first()
    return best.assign(baseline=best["model@student"].map(plain))


def _tuned(sweep: Sweep, summary: pd.DataFrame) -> Table | None:
    """Return the cells without and with noise that have the lowest validation errors."""
    settings = settings_of(summary)
    others = [key for key in settings if key not in frame.NOISE]
    tuned = all(key in TRAINING or key.startswith("optimizer.") for key in others)
    tuned = tuned and {*others} <= sweep.axes.keys()
    best = _best_first(summary.dropna(subset="val_error"))
    plain = best["runs"].map(lambda members: members["baseline"].all()).astype(bool)
    if not others or not tuned or plain.nunique() < 2:
        return None
    clean, noisy = best[plain].iloc[0], best[~plain].iloc[0]
    mean, low, high, p = paired(*(frame.errors_by_seed(c["runs"]) for c in (noisy, clean)))
    compared = [interval(mean, low, high), _p(p)]
    rows = []
    for name, cell, own in (("without noise", clean, ["", ""]), ("with noise", noisy, compared)):
        shown = [text(cell[key]) for key in settings]
        rows.append([name, *shown, f"{cell['val_error']:.2f}", *_error(cell), *own])
    heads = ["", *map(short, settings), "val. error %", "error %", "n", "difference [95 %]", "p"]
    return Table("Each at the settings of its lowest validation error", heads, rows)


def _cost(sweep: Sweep, table: pd.DataFrame) -> Table | None:
    """Return what students cost beside their teacher ([NT] section 5.5): counted, and measured."""
    done = [result for result in table["result"] if result["status"] == "done"]
    if "compression" not in sweep.paper or not done:
        return None
    students = {run["student"]: run for run in done}
    latencies = {run["student"]: times for run in done if (times := latency_of(run))}
    first, *_ = students.values()
    whole = first["teacher_parameters"]
    counts = [f"{first['teacher_multiplications']:,}", "", "", f"{whole:,}"]
    rows = [[first["teacher"], *counts, "", f"{4 * whole / 1e6:.1f} MB", "", ""]]
    for name, run in students.items():
        printed, own = text(sweep.paper["compression"].get(name)), run["parameters"]
        row = [name, f"{run['multiplications']:,}", f"{run['compression']:.2f}", printed]
        row += [f"{own:,}", f"{whole / own:.2f}", f"{4 * own / 1e6:.1f} MB"]
        rows.append([*row, *(_latency(latencies.get(name, {}), batch) for batch in (1, 64))])
    heads = ["network", "multiplications", "ratio", "paper", "parameters", "ratio", "on disk"]
    heads += ["latency of 1: ms (ratio)", "of 64"]
    return Table(f"{sweep.name}: compression in real terms", heads, rows, [COST_NOTE])


def latency_of(result: Result) -> dict[str, float]:
    """Return the latencies measured beside a run; empty without."""
    if "directory" in result:
        result = {"latency": runs.read_json(Path(result["directory"]) / "latency.json")}
    return result.get("latency") or {}


def _latency(latency: Mapping[str, float], batch: int) -> str:
    times = [latency.get(f"{role}, torch, batch {batch}") for role in ("student", "teacher")]
    return f"{times[0]:.2f} ({times[1] / times[0]:.1f})" if times[0] and times[1] else "-"


def as_markdown(table: Table) -> str:
    """Return a table of GitHub's Markdown."""

    cells = [[cell.replace("|", "\\|") for cell in row] for row in (table.heads, *table.rows)]
    head, *rows = (f"| {' | '.join(row)} |" for row in cells)
    grid = [head, "| --- " * len(table.heads) + "|", *rows, ""] if rows else []
    return "\n".join([f"### {table.title}", "", *grid, *(f"{note}  " for note in table.notes)])


def as_html(table: Table) -> str:
    """Return an HTML table, without a page around it."""
    rows = pd.DataFrame(table.rows, columns=table.heads).to_html(index=False, border=0)
    notes = "\n".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    return f"<h3>{html.escape(table.title)}</h3>\n{rows}\n{notes}"


def as_csv(table: Table) -> str:
    """Return the numbers, or headings and rows."""
    content = pd.DataFrame(table.rows, columns=table.heads)
    numbers = content if table.numbers is None else table.numbers
    return str(numbers.to_csv(index=False, float_format="%.6g")).rstrip()


def print_table(table: Table) -> None:
    """Print a table on the terminal, 100 columns wide elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": 0, "pad_edge": False}
    shown = RichTable(**style)
    for i, head in enumerate(table.heads):
        is_text = i == 0 or any(len(row[i]) > 40 for row in table.rows)
        shown.add_column(head, justify="left" if is_text else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    console = Console(
        width=None if sys.stdout and sys.stdout.isatty() else 100, markup=False, highlight=False
    )
    with console.capture() as captured:  # rich would end the program if the reader stopped
        console.print(table.title, style="italic")
        console.print(shown)
        for note in table.notes:
            console.print(note, style="dim")
    print(captured.get(), end="")


def add_to_tensorboard(tables: Sequence[Table], directory: Path) -> None:
    """Write tables as the only TensorBoard run in a directory."""
    from torch.utils.tensorboard import SummaryWriter

    for old in directory.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(directory)) as writer:
        writer.add_text("report", "\n\n".join(map(as_markdown, tables)))
