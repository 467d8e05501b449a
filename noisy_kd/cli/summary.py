"""The table that a run ends with."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from noisy_kd.runs import Result

PRECISIONS = {"32": "float32", "bf16": "bfloat16"}


def print_closing(
    result: Result, baseline: Result | None, directory: Path, baselines_command: str
) -> None:
    """The closing table: teacher and student, how good and how large, and against the baseline."""
    table = Table(title=f"{result['dataset']}, {result['method']}, seed {result['seed']}")
    table.add_column("")
    for name in ("teacher", "student"):
        table.add_column(f"{name} {result[name]}", justify="right", overflow="fold")
    size = result["test_size"]
    table.add_row(
        "test error",
        _error(result["teacher_test_error"], result["teacher_test_errors"], size),
        _error(result["test_error"], result["test_errors"], size),
    )
    val_errors = [result.get("teacher_val_error"), result["val_error"]]
    if any(error is not None for error in val_errors):
        table.add_row("validation error", *("" if e is None else f"{e:.2%}" for e in val_errors))
    table.add_row("parameters", f"{result['teacher_parameters']:,}", f"{result['parameters']:,}")
    table.add_row(
        "multiplications",
        f"{result['teacher_multiplications']:,}",
        f"{result['multiplications']:,}",
    )
    table.add_row("compression (mult.)", "", f"{result['compression']:.2f}x")
    table.add_row("baseline*", "", _against(result, baseline))
    console = Console()
    console.print(table)
    missing = baseline is None and result["method"] != "logit_regression"
    how = f": {baselines_command}" if missing else ""
    console.print(f"* logit regression with the same settings{how}", style="dim", soft_wrap=True)
    speed = f"{result['samples_per_second']:,.0f} samples/s"
    console.print(
        f"best epoch {result['best_epoch']} of {result['epochs']}, {result['seconds']:.1f} s, "
        f"{speed}, {PRECISIONS[result['precision']]}\n{directory}",
        highlight=False,
        soft_wrap=True,
    )


def _error(error: float | None, errors: int | None, size: int) -> str:
    return "-" if error is None else f"{error:.2%} ({errors:,} of {size:,})"


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
