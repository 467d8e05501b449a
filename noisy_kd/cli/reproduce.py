"""noisy-kd reproduce TABLE [KEY=VALUE] ...: train runs of a kept table again, and compare.

TABLE is a file results/TABLE.jsonl. KEY=VALUE,... selects runs by their settings, as in `noisy-kd
report`; where the runs and the data lie (store=, data.root=, trainer.accelerator=, precision=) is
passed on. A run agrees if its test error differs from the kept one by at most three standard
deviations of the difference of two seeds: of the kept seeds if there are three, else of two
networks with this error rate on test sets of this size. The exit code is 1 if one does not agree.
"""

import argparse
from pathlib import Path
from statistics import stdev

from noisy_kd import runs
from noisy_kd.cli.arguments import compose
from noisy_kd.data.files import locked
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.report import frame, keep
from noisy_kd.runs import Result
from noisy_kd.runs.identity import config_hash, overrides, run_name

KEPT = Path("results")
PASSED_ON = ("precision", "teacher.checkpoint")
"""Keys that decide numbers, but are given to the new run as well."""


def main() -> None:
    """Train what is asked for, and print a line for each run."""
    parser = argparse.ArgumentParser(prog="noisy-kd reproduce", description=__doc__)
    parser.add_argument("table", metavar="TABLE")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", default=[])
    options = parser.parse_args()
    known = sorted(file.stem for file in KEPT.glob("[!.]*.jsonl"))
    if options.table not in known:
        names = ", ".join(known) or f"none in {KEPT.absolute()}"
        raise InputError(f"there is no kept table {options.table}: choose {names}.")
    _, _, kept = keep.read(KEPT / f"{options.table}.jsonl")
    given = [s for s in options.settings if s.split("=")[0] in PASSED_ON or not frame.filters([s])]
    chosen = [s for s in options.settings if s not in given or s.startswith("teacher.checkpoint=")]
    differ, selected = 0, _selected(kept, chosen)
    print(
        f"{len(selected)} runs to reproduce; they took {sum(r['seconds'] for r in selected):.0f} s."
    )
    for result in selected:
        directory, error = _again(result, given)
        allowed, difference = tolerance(result, kept), error - result["test_error"]
        agrees = abs(difference) <= allowed
        differ += not agrees
        print(
            f"{directory}: kept {result['test_error']:.2%}, now {error:.2%}, difference "
            f"{100 * difference:+.2f} points, tolerance {100 * allowed:.2f}: "
            f"{'agrees' if agrees else 'DIFFERS'}",
            flush=True,
        )
    if differ:
        raise TrainingError(f"{differ} runs differ from the kept ones by more than the tolerance.")


def tolerance(result: Result, kept: list[Result]) -> float:
    """Return how far the test error of the same run may be from the kept one, as a fraction."""
    cell = [_without_seed(run) == _without_seed(result) for run in kept]
    errors = [run["test_error"] for run, is_member in zip(kept, cell, strict=True) if is_member]
    error = result["test_error"]
    binomial: float = (error * (1 - error) / result["test_size"]) ** 0.5
    return 3 * 2**0.5 * (stdev(errors) if len(errors) > 2 else binomial)


def _without_seed(run: Result) -> dict[str, object]:
    return {key: value for key, value in run["settings"].items() if key != "seed"}


def _selected(kept: list[Result], settings: list[str]) -> list[Result]:
    table = frame.frame(run for run in kept if run["status"] == "done")
    chosen = {}
    for key, values in frame.filters(settings).items():
        ends = [column for column in table if column.endswith(f".{key}")]  # sigma: method.sigma
        chosen[ends[0] if key not in table and len(ends) == 1 else key] = values
    table = frame.select(table, chosen)
    for key, values in chosen.items():  # of the baselines, too
        table = table[table[key].isin(values)]
    if table.empty:
        raise InputError(f"no kept run has {' '.join(settings)}: see noisy-kd report.")
    return list(table["result"])


def _again(result: Result, given: list[str]) -> tuple[Path, float]:
    """Train the same run below ``runs/reproduced`` unless it is there; return its test error."""
    settings = overrides(result["settings"])
    same = compose([*settings, *(text for text in given if not text.startswith("precision="))])
    if config_hash(same) != result["config_hash"]:
        needed = "teacher.checkpoint=FILE, data.root=FOLDER or an older version of noisy-kd"
        raise InputError(f"{run_name(same)} is not the kept run: it needs {needed}.")
    config = compose([*settings, *given])
    directory = Path("runs") / "reproduced" / run_name(config)
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / "run.lock"):
        done = runs.finished(directory, config_hash(config))
        if done is None:
            from noisy_kd.training import stages

            print(f"training {directory} (it took {result['seconds']:.0f} s before)", flush=True)
            (done,) = stages.run([config], [directory])
    if done["test_error"] is None:
        raise TrainingError(f"{directory}: the loss is no longer finite, and the kept run's was.")
    return directory, done["test_error"]
