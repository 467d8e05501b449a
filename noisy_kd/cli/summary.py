"""The table that a run ends with."""

from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from noisy_kd.runs import Result

PRECISIONS = {"32": "float32", "bf16": "bfloat16"}


def print_closing(
    result: Result, baseline: Result | None, directory: Path, baselines_command: str
) -> None:
    """Print teacher and student, how good and how large, and against the baseline."""
    names = (f"{role} {result[role]}" for role in ("teacher", "student"))
    heads = [Column(name, justify="right", overflow="fold") for name in names]
    title = f"{result['dataset']}, {result['method']}, seed {result['seed']}"
    table = Table("", *heads, title=title)
    rows = {
        "test error": [_test_error(result, "teacher_"), _test_error(result, "")],
        "validation error": [
            "" if error is None else f"{error:.2%}"
            for error in (result.get("teacher_val_error"), result["val_error"])
        ],
        "parameters": [f"{result[f'{role}parameters']:,}" for role in ("teacher_", "")],
        "multiplications": [f"{result[f'{role}multiplications']:,}" for role in ("teacher_", "")],
        "compression (mult.)": ["", f"{result['compression']:.2f}x"],
        "baseline*": ["", _against(result, baseline)],
    }
    for name, cells in rows.items():
        if any(cells):
            table.add_row(name, *cells)
    console = Console(markup=False)
    console.print(table)
    if result["method"] != "logit_regression":
        how = f": {baselines_command}" if baseline is None else ""
        note = f"* logit regression with the same settings{how}"
        console.print(note, style="dim", soft_wrap=True)
    console.print(
        f"best epoch {result['best_epoch']} of {result['epochs']}, {result['seconds']:.1f} s, "
        f"{result['samples_per_second']:,.0f} samples/s, {PRECISIONS[result['precision']]}\n"
        f"{directory}",
        highlight=False,
        soft_wrap=True,
    )


def _test_error(result: Result, role: str) -> str:
    error, errors = result[f"{role}test_error"], result[f"{role}test_errors"]
    return "-" if error is None else f"{error:.2%} ({errors:,} of {result['test_size']:,})"


def _against(result: Result, baseline: Result | None) -> str:
    if result["method"] == "logit_regression":
        return "is this run"
    if baseline is None:
        return "not run yet"
    if result["test_error"] is None or not baseline["test_error"]:
        return f"{baseline['test_error']:.2%}"
    change = result["test_error"] / baseline["test_error"] - 1
    share = f"{abs(change):.1%} {'fewer' if change < 0 else 'more'}" if change else "as many"
    return f"{baseline['test_error']:.2%} (this run: {share} errors)"
