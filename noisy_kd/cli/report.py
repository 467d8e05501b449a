"""noisy-kd report [SWEEP ... | robustness] [KEY=VALUE ...]: results beside the paper's.

Without a sweep it lists those there are and how many of their runs are done. KEY=VALUE,... selects
runs by their settings, as in `noisy-kd train -cn SWEEP KEY=VALUE`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from noisy_kd.errors import InputError
from noisy_kd.report import frame, keep, robustness, sweeps, tables

FORMATS = {"md": tables.as_markdown, "html": tables.as_html, "csv": tables.as_csv}
RUNS = Path("runs")


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(prog="noisy-kd report", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="SWEEP or KEY=VALUE")
    parser.add_argument("--results", type=Path, default=RUNS, help="folder of the runs")
    parser.add_argument("--format", choices=["text", *FORMATS], default="text")
    parser.add_argument("--plot", type=Path, help="draw the sweep into this .png or .svg file")
    parser.add_argument("--keep", metavar="NAME", help="keep the runs' numbers as results/NAME.*")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--add", action="store_true", help="with --keep: to the runs that NAME holds")
    how.add_argument("--replace", action="store_true", help="with --keep: in place of those runs")
    options = parser.parse_intermixed_args()
    names = [word for word in options.what if "=" not in word]
    chosen = frame.filters([word for word in options.what if "=" in word])
    _check(options, names)
    shown = [] if names else [tables.overview(options.results)]
    written = []  # before anything is printed: the reader may stop early
    for name in names:
        if name == "robustness":
            results = robustness.evaluated(options.results)
            new = robustness.tables(results, chosen)
            if not new:
                raise InputError("no such run was evaluated yet: noisy-kd evaluate RUN_DIR ...")
        else:
            sweep, recorded = sweeps.read(name), sweeps.recorded(options.results, name)
            results = frame.read(options.results, recorded)
            new = tables.report(sweep, results, chosen, len(recorded) - len(results))
        shown += new
        if options.plot is not None and not results:
            raise InputError(f"--plot {options.plot}: there are no runs of {name} to draw.")
        if options.plot is not None:
            from noisy_kd.report import plots

            cells = frame.cells(sweep, frame.select(frame.frame(results), chosen))
            plots.draw(sweep, cells, options.plot)
            written.append(f"drawn: {options.plot}")
        if options.keep is not None:
            folder = Path("results")
            keep.keep_results(
                options.keep, name, results, chosen, folder, options.add, options.replace
            )
            written.append(f"kept: results/{options.keep}.jsonl")
    if options.format == "csv":
        shown = [table for table in shown if table.numbers is not None] or shown[:1]
    if options.format == "html":
        print('<!DOCTYPE html>\n<meta charset="utf-8">')
    for table in shown:
        if options.format == "text":
            tables.print_table(table)
        else:
            print(FORMATS[options.format](table), end="\n\n" if options.format == "md" else "\n")
    print(*written, sep="\n", end="\n" * bool(written))


def _check(options: argparse.Namespace, names: Sequence[str]) -> None:
    if not options.results.is_dir() and options.results != RUNS:
        raise InputError(
            f"--results {options.results}: there is no such folder; name that of the runs."
        )
    if not names and len(options.what):
        raise InputError(f"{' '.join(options.what)} needs a sweep: noisy-kd report lists them.")
    if options.plot is not None and (len(names) != 1 or names == ["robustness"]):
        raise InputError("--plot draws one sweep: name one.")
    if (options.add or options.replace) and options.keep is None:
        raise InputError("--add and --replace are for kept runs: add --keep NAME.")
    if options.keep is not None and len(names) != 1:
        raise InputError("--keep keeps one sweep, or robustness: name one.")
