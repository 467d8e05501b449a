"""python -m noisy_kd.report [SWEEP ... | robustness] [KEY=VALUE ...]: results beside the paper's.

Without a sweep it lists those there are and how many of their runs are found. KEY=VALUE are the
settings that were given to the sweep, as in `python train.py -cn SWEEP KEY=VALUE`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from noisy_kd.errors import InputError, printing, run_command
from noisy_kd.report import cells, keep, robustness, sweeps, tables
from noisy_kd.report.cells import Block
from noisy_kd.report.page import RUNS, check_settings, overview, read, report, settings
from noisy_kd.report.sweeps import Sweep, Value
from noisy_kd.runs import Result

FORMATS = {"md": tables.as_markdown, "html": tables.as_html, "csv": tables.as_csv}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m noisy_kd.report",
        description="Measured results beside the paper's.",
        epilog="Without a sweep: the list of sweeps, and how many of their runs are found. "
        "robustness: what python -m noisy_kd.evaluation has found.",
    )
    parser.add_argument("what", nargs="*", metavar="SWEEP or KEY=VALUE")
    parser.add_argument("--results", type=Path, default=RUNS, help="folder of the runs")
    parser.add_argument("--format", choices=["text", *FORMATS], default="text")
    parser.add_argument("--plot", type=Path, help="draw the sweep into this .png or .svg file")
    parser.add_argument("--keep", metavar="NAME", help="keep the runs' numbers as results/NAME.*")
    parser.add_argument("--add", action="store_true", help="with --keep: to the runs kept before")
    parser.add_argument("--replace", action="store_true", help="with --keep: those runs, all")
    options = parser.parse_intermixed_args()
    names = [word for word in options.what if "=" not in word and word != "robustness"]
    chosen = settings([word for word in options.what if "=" in word])
    asked = [sweeps.read(name) for name in names]
    if options.plot is not None:
        _check_plot(asked, options.plot)
    if (options.add or options.replace) and options.keep is None:
        raise InputError("--add and --replace are for kept runs: say --keep NAME as well.")
    if options.add and options.replace:
        raise InputError("--add or --replace: choose one.")
    found = read(options.results)
    check_settings(chosen, found)
    if "robustness" in options.what:
        tables_of = robustness.tables(robustness.evaluated(options.results), chosen)
        if not tables_of:
            raise InputError("no such run was evaluated: python -m noisy_kd.evaluation RUN_DIR ...")
    elif not names:
        tables_of = [overview(found, options.results)]
    else:
        tables_of = [table for sweep in asked for table in report(sweep, found, chosen)]
    written = []  # before anything is printed: whoever reads may stop early
    if options.plot is not None:
        written.append(_plot(asked, found, chosen, options.plot))
    if options.keep is not None:
        written.append(_keep(options, chosen))
    with printing():
        for table in tables_of:
            if options.format == "text":
                tables.show(table)
            else:
                print(FORMATS[options.format](table))
        print(*written, sep="\n", end="\n" if written else "")


def _keep(options: argparse.Namespace, chosen: Mapping[str, list[Value]]) -> str:
    what = [word for word in options.what if "=" not in word]
    if len(what) != 1:
        raise InputError("--keep keeps one sweep, or robustness: name one.")
    folder, results = options.results, Path("results")
    found = robustness.evaluated(folder) if what[0] == "robustness" else read(folder)
    keep.keep(options.keep, what[0], found, chosen, results, options.add, options.replace)
    return f"kept: results/{options.keep}.jsonl"


def _check_plot(asked: list[Sweep], file: Path) -> None:
    if len(asked) != 1:
        raise InputError("--plot draws one sweep: name one.")
    if file.suffix not in (".png", ".svg"):
        raise InputError(f"--plot {file}: choose a name that ends in .png or .svg.")


def _plot(
    asked: list[Sweep], found: Sequence[Result], chosen: Mapping[str, list[Value]], file: Path
) -> str:
    from noisy_kd.report.plots import draw

    blocks: list[Block] = cells.blocks(asked[0], found, chosen)
    if len(blocks) > 1:
        told = "; ".join(tables.words(block.settings) for block in blocks)
        raise InputError(f"--plot: choose one of several sets of runs by KEY=VALUE: {told}.")
    draw(asked[0], blocks[0], file)
    return f"drawn: {file}"


if __name__ == "__main__":
    sys.exit(run_command(main))
