"""noisy-kd report [SWEEP ... | robustness] [KEY=VALUE ...]: results beside the paper's.

Without a sweep it lists those there are and how many of their runs are done. KEY=VALUE,... selects
runs by their settings, as in `noisy-kd train -cn SWEEP KEY=VALUE`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from noisy_kd.cli.errors import printing, run_command
from noisy_kd.errors import InputError
from noisy_kd.report import frame, keep, robustness, sweeps, tables
from noisy_kd.report.sweeps import Sweep, Value
from noisy_kd.runs import Result

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
    parser.add_argument("--add", action="store_true", help="with --keep: to the runs kept before")
    parser.add_argument("--replace", action="store_true", help="with --keep: drop those runs")
    options = parser.parse_intermixed_args()
    names = [word for word in options.what if "=" not in word]
    chosen = frame.filters([word for word in options.what if "=" in word])
    asked = [sweeps.read(name) for name in names if name != "robustness"]
    _check(options, names, asked)
    evaluated = robustness.evaluated(options.results) if "robustness" in names else []
    results = {sweep.name: _recorded(sweep.name, options.results) for sweep in asked}
    if not names:
        every = {
            name: _recorded(name, options.results) for name in (*sweeps.names(), sweeps.CUSTOM)
        }
        made = [tables.overview(options.results)]
    else:
        made = robustness.tables(evaluated, chosen)
        if "robustness" in names and not made:
            raise InputError("no such run was evaluated: noisy-kd evaluate RUN_DIR ...")
        for sweep in asked:
            found = results[sweep.name]
            missing = len(sweeps.recorded(options.results, sweep.name)) - len(found)
            made += tables.report(sweep, found, chosen, missing)
    written = []  # before anything is printed: the reader may stop early
    if options.plot is not None:
        written.append(_plot(asked[0], results[asked[0].name], chosen, options.plot))
    if options.keep is not None:
        found = evaluated or results.get(names[0], [])
        flags = (options.add, options.replace)
        keep.keep(options.keep, names[0], found, chosen, Path("results"), *flags)
        written.append(f"kept: results/{options.keep}.jsonl")
    with printing():
        for table in made:
            if options.format == "text":
                tables.show(table)
            else:
                print(FORMATS[options.format](table))
        print(*written, sep="\n", end="\n" if written else "")


def _check(options: argparse.Namespace, names: Sequence[str], asked: Sequence[Sweep]) -> None:
    if not options.results.is_dir() and options.results != RUNS:
        raise InputError(f"there is no folder {options.results}: --results names that of the runs.")
    if options.plot is not None and len(asked) != 1:
        raise InputError("--plot draws one sweep: name one.")
    if options.plot is not None and options.plot.suffix not in (".png", ".svg"):
        raise InputError(f"--plot {options.plot}: choose a name that ends in .png or .svg.")
    if (options.add or options.replace) and options.keep is None:
        raise InputError("--add and --replace are for kept runs: add --keep NAME.")
    if options.add and options.replace:
        raise InputError("--add or --replace: choose one.")
    if options.keep is not None and len(names) != 1:
        raise InputError("--keep keeps one sweep, or robustness: name one.")


def _recorded(name: str, folder: Path) -> list[Result]:
    return frame.read(folder, sweeps.recorded(folder, name))


def _plot(
    sweep: Sweep, results: Sequence[Result], chosen: Mapping[str, list[Value]], file: Path
) -> str:
    from noisy_kd.report.plots import draw

    draw(sweep, frame.cells(sweep, frame.select(frame.frame(results), chosen)), file)
    return f"drawn: {file}"


if __name__ == "__main__":
    sys.exit(run_command(main))
