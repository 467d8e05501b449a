"""A sweep's cells as a table beside the paper's, in text, Markdown, HTML or CSV."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from noisy_kd.report.cells import ALIASES, NOISE, Block, Cell
from noisy_kd.report.statistics import paired, spread
from noisy_kd.report.sweeps import Sweep, Value
from noisy_kd.runs import Result


@dataclass
class Table:
    """A title, headings, rows of text, and lines below."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


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
    "data.label_noise": "wrong labels",
    "model@student": "student",
    "model@teacher": "teacher",
}
MEASURES = ["error %", "± s.d.", "n", "improvement", "to baseline [95 %]", "p"]
TRAINING = ("data.batch_size", "trainer.max_epochs")
"""Axes that are tuned, besides those of ``optimizer``."""
OTHERS = 3  # so many of a note's list are named
PAPER = ["paper %", "paper impr.", "difference"]
NOTE = (
    "Test error in percent, mean over n seeds; improvement is relative to the baseline, logit "
    "regression; the difference to the baseline (points) is paired over seeds, p by the paired "
    "t-test."
)


def table(sweep: Sweep, block: Block) -> Table:
    """All cells of a block, each beside its baseline and the paper's number."""
    axes = list(block.cells[0].key)
    seeds = block.seeds
    rows = [_row(sweep, block, cell) for cell in block.cells]
    title = f"{sweep.name}: {sweep.title}"
    title += f" ({words(block.settings)})" if block.settings else ""
    beside = sweep.paper and block.is_papers
    heads = [SHORT.get(axis, axis) for axis in axes] + MEASURES + (PAPER if beside else [])
    notes = [_what(block), NOTE] if seeds else []
    if not any(cell.done for cell in block.baselines.values()) and seeds:
        notes.append("The baseline is missing: the same runs with method=logit_regression.")
    for what, found in (
        ("Taught by another teacher than its baseline", _otherwise_taught(block)),
        ("Outside this grid are runs that KEY=VALUE,... shows", [*map(words, block.outside)]),
        (
            "Left out are runs with other settings, which KEY=VALUE shows",
            [*map(words, block.others)],
        ),
    ):
        if found:
            more = [f"and {len(found) - OTHERS} more"] if len(found) > OTHERS else []
            notes.append(f"{what}: {'; '.join(found[:OTHERS] + more)}.")
    return Table(title, heads, rows, notes + _gaps(block))


def plain_table(found: Sequence[tuple[str, Result | None]]) -> Table:
    """Runs that belong to no sweep's grid: a row each."""
    rows = []
    for name, result in found:
        errors = [(result or {}).get(key) for key in ("val_error", "test_error")]
        shown = ["" if error is None else f"{100 * error:.2f}" for error in errors]
        rows.append([name, *shown, "missing" if result is None else result["status"]])
    return Table("The runs", ["run", "validation error %", "test error %", "status"], rows)


def words(settings: Mapping[str, Value]) -> str:
    """Settings as one would type them."""
    named = {known: key for key, known in ALIASES.items()}
    return " ".join(f"{named.get(key, key)}={text(one)}" for key, one in settings.items())


def _what(block: Block) -> str:
    """Data, teacher and its test error, students, and length of the runs."""
    members = [run for cell in block.cells for run in cell.runs.values()]
    runs = members + [run for cell in block.baselines.values() for run in cell.done.values()]
    first, same = runs[0], ("dataset", "teacher")
    taught = [run for run in runs if all(run[key] == first[key] for key in same)]
    errors = [e for run in taught if (e := run.get("teacher_test_error")) is not None]
    ends = dict.fromkeys(f"{100 * end:.2f}" for end in (min(errors), max(errors))) if errors else {}
    teacher = first["teacher"] + (f" ({' to '.join(ends)} % test error)" if ends else "")
    done = [(cell.key, run["student"]) for cell in block.cells for run in cell.runs.values()]
    students = ", ".join(dict.fromkeys(str(key.get("student.layers", name)) for key, name in done))
    lengths = sorted({run["settings"]["max_epochs"] for run in members})
    epochs = ", ".join(f"{length:g}" for length in lengths)
    return f"{first['dataset']}, {teacher} -> {students}, {epochs} epochs."


def _otherwise_taught(block: Block) -> list[str]:
    """The cells whose teacher makes another number of errors than that of their baseline."""
    found = []
    for cell in block.cells:
        baseline = block.baseline_of(cell)
        beside = {} if baseline is None else baseline.done
        for seed, run in cell.done.items():
            other = beside.get(seed, next(iter(beside.values()), run))
            errors = [one.get("teacher_test_errors") for one in (run, other)]
            if run["teacher"] == other["teacher"] and errors[0] != errors[1] and None not in errors:
                found.append(f"{_where(cell)} ({errors[0]} test errors, not {errors[1]})")
                break
    return found


def _where(cell: Cell) -> str:
    return ", ".join(f"{SHORT.get(axis, axis)} {text(one)}" for axis, one in cell.key.items())


def best_table(sweep: Sweep, block: Block) -> Table | None:
    """[NT] Table 6: each student's baseline and its noisy teacher at the best sigma.

    The best is chosen by the validation error; the error shown is the test error.
    """
    rows = []
    for name, cell, baseline in best_cells(sweep, block):
        own, clean = spread(cell.errors()), spread(baseline.errors())
        assert own is not None and clean is not None
        pair = paired(cell.errors(), baseline.errors())
        size = next(iter(cell.done.values()))["compression"]
        paper = [sweep.paper[kind].get(name) for kind in ("compression", "baseline", "best")]
        rows.append(
            [
                *(name, f"{size:.2f}", f"{clean.mean:.2f}", text(cell.key["method.sigma"])),
                *(f"{own.mean:.2f}", _pair(pair)[0], *(text(one) for one in paper)),
            ]
        )
    if not rows:
        return None
    heads = ["student", "compression", "logit regression %", "best σ", "noisy teacher %"]
    heads += ["to baseline [95 %]", "paper: compression", "logit regr. %", "noisy teacher %"]
    return Table(f"{sweep.name}: the best σ by validation error", heads, rows)


def best_cells(sweep: Sweep, block: Block) -> list[tuple[str, Cell, Cell]]:
    """(student, its cell of the lowest mean validation error with noise, its baseline)."""
    found = []
    for name in sweep.axes.get("model@student", []) if "best" in sweep.paper else []:
        cells = [
            cell
            for cell in block.cells
            if cell.key["model@student"] == name and cell.key["method.sigma"] != 0 and cell.done
        ]
        baseline = block.baseline_of(Cell({"model@student": name}))
        if cells and baseline is not None and baseline.done:
            best = min(cells, key=lambda cell: _mean(cell.errors("val_error")))
            found.append((str(name), best, baseline))
    return found


def tuned_table(block: Block) -> Table | None:
    """With and without noise, each with the training settings that suit it best.

    Both are chosen by the mean validation error; the errors shown are test errors.
    """
    axes = [axis for axis in block.cells[0].key if axis not in NOISE]
    tuned = all(axis in TRAINING or axis.startswith("optimizer.") for axis in axes)
    if not axes or not tuned or len(axes) == len(block.cells[0].key):
        return None
    done = [cell for cell in block.cells if cell.errors("val_error")]
    plain = [{run["method"] for run in cell.done.values()} == {"logit_regression"} for cell in done]
    clean = [cell for cell, is_plain in zip(done, plain, strict=True) if is_plain]
    noisy = [cell for cell, is_plain in zip(done, plain, strict=True) if not is_plain]
    if not clean or not noisy:
        return None
    best = [min(cells, key=lambda c: _mean(c.errors("val_error"))) for cells in (clean, noisy)]
    rows = []
    for name, cell in zip(("without noise", "with noise"), best, strict=True):
        own = spread(cell.errors())
        assert own is not None
        row = [name, *map(text, cell.key.values()), f"{_mean(cell.errors('val_error')):.2f}"]
        row += [f"{own.mean:.2f}", "" if own.deviation is None else f"{own.deviation:.2f}"]
        pair = ["", ""] if cell is best[0] else _pair(paired(cell.errors(), best[0].errors()))
        rows.append([*row, str(own.n), *pair])
    heads = ["", *(SHORT.get(axis, axis) for axis in block.cells[0].key), "val. error %"]
    heads += [*MEASURES[:3], "difference [95 %]", "p"]
    return Table("Each at the settings of its lowest validation error", heads, rows)


def _mean(values: dict[int, float]) -> float:
    found = spread(values)
    return float("inf") if found is None else found.mean


def _row(sweep: Sweep, block: Block, cell: Cell) -> list[str]:
    own, baseline = spread(cell.errors()), block.baseline_of(cell)
    clean = baseline.errors() if baseline is not None else {}
    row = [text(one) for one in cell.key.values()]
    if own is None:
        kinds = [kind for kind in ("diverged", "failed") if cell.count(kind)]
        row += [" and ".join(kinds) or "missing", "", "", "", "", ""]
    else:
        row += [f"{own.mean:.2f}", "" if own.deviation is None else f"{own.deviation:.2f}"]
        row += [str(own.n)]
        if block.is_baseline(cell):
            row += ["baseline", "", ""]
        else:
            row += [_improvement(cell.errors(), clean), *_pair(paired(cell.errors(), clean))]
    if sweep.paper and block.is_papers:
        row += _paper(sweep, cell, None if own is None else own.mean)
    return row


def _improvement(errors: dict[int, float], clean: dict[int, float]) -> str:
    """Relative, over the seeds that both have: (baseline - error) / baseline."""
    seeds = errors.keys() & clean.keys()
    base = sum(clean[seed] for seed in seeds)
    return f"{100 * (base - sum(errors[s] for s in seeds)) / base:+.1f} %" if base else ""


def _pair(pair: object) -> list[str]:
    from noisy_kd.report.statistics import Paired

    if not isinstance(pair, Paired):
        return ["", ""]
    if pair.low is None or pair.high is None or pair.p is None:
        return [f"{pair.mean:+.2f}", ""]
    p = "<0.001" if pair.p < 0.001 else f"{pair.p:.3f}"
    return [f"{pair.mean:+.2f} [{pair.low:+.2f}, {pair.high:+.2f}]", p]


def printed(sweep: Sweep, cell: Cell) -> float | None:
    """The paper's number for a cell, in percent; None if it prints none."""
    errors = {str(key): value for key, value in sweep.paper.get("error", {}).items()}
    baseline = sweep.paper.get("baseline")
    keys = [one for axis, one in cell.key.items() if axis != "model@student"]
    name = cell.key.get("model@student")
    if len(keys) != 1:
        return None
    if keys[0] in (0.0, "logit_regression", sweep.axes.get("method.teachers", [NotImplemented])[0]):
        found = baseline.get(name) if isinstance(baseline, dict) else baseline
    else:
        found = errors.get(str(keys[0]))
    return None if found is None else float(found)


def _paper(sweep: Sweep, cell: Cell, measured: float | None) -> list[str]:
    number, baseline = printed(sweep, cell), sweep.paper.get("baseline")
    if number is None:
        return ["", "", ""]
    change = ""
    if isinstance(baseline, float | int) and number != baseline:
        change = f"{100 * (baseline - number) / baseline:+.1f} %"
    difference = "" if measured is None else f"{measured - number:+.2f}"
    return [f"{number:.2f}", change, difference]


def _gaps(block: Block) -> list[str]:
    seeds, notes = block.seeds, []
    for cell in block.cells:
        where = _where(cell)
        for kind in ("diverged", "failed"):
            if cell.count(kind):
                bad = [str(s) for s, run in cell.runs.items() if run["status"] == kind]
                notes.append(f"{where}: {kind} with seed {', '.join(bad)}.")
        missing = [str(seed) for seed in seeds if seed not in cell.runs]
        if missing and cell.runs:
            notes.append(f"{where}: missing with seed {', '.join(missing)}.")
    return notes


def text(value: Value | None) -> str:
    """A value as people write it."""
    return "" if value is None else f"{value:g}" if isinstance(value, float | int) else str(value)


def as_markdown(table: Table) -> str:
    """GitHub's tables."""
    lines = [f"### {table.title}", "", _bar(table.heads), _bar(["---"] * len(table.heads))]
    lines += [_bar(row) for row in table.rows]
    return "\n".join([*lines, "", *(f"{note}  " for note in table.notes)])


def as_html(table: Table) -> str:
    """One HTML table, without a page around it."""
    head = "".join(f"<th>{html.escape(one)}</th>" for one in table.heads)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(one)}</td>" for one in row) + "</tr>"
        for row in table.rows
    )
    notes = "\n".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    caption = f"<caption>{html.escape(table.title)}</caption>"
    return f"<table>\n{caption}\n<tr>{head}</tr>\n{rows}\n</table>\n{notes}"


def as_csv(table: Table) -> str:
    """Headings and rows; the last column says which table it is."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*table.heads, "table"])
    writer.writerows([*row, table.title] for row in table.rows)
    return out.getvalue().rstrip()


def show(table: Table) -> None:
    """Print it on the terminal."""
    from rich.console import Console
    from rich.table import Table as RichTable

    shown = RichTable(title=table.title, title_justify="left")
    for i, head in enumerate(table.heads):
        shown.add_column(head, justify="left" if i == 0 else "right")
    for row in table.rows:
        shown.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    with console.capture() as captured:  # rich would end the program if whoever reads stopped
        console.print(shown)
        for note in table.notes:
            console.print(note, style="dim", highlight=False)
    print(captured.get(), end="")


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
