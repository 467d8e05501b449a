"""noisy-kd evaluate RUN_DIR ... [--on clean,noise,...]: a student beyond its error.

Writes ``evaluation.json`` beside each run's ``result.json``. What is there already is kept; --again
computes it anew.
"""

import argparse
import sys
from pathlib import Path

from noisy_kd.cli.errors import run_command
from noisy_kd.errors import InputError
from noisy_kd.evaluation.evaluate import KINDS, evaluate, in_words


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="noisy-kd evaluate", description="A student beyond its clean error."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="finished runs")
    parser.add_argument("--on", default=",".join(KINDS), help=f"of {','.join(KINDS)} (all)")
    parser.add_argument("--limit", type=int, help="only so many test images (the first)")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    options = parser.parse_args()
    kinds = options.on.split(",")
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"--on {kind}: choose {', '.join(KINDS)}.")
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit {options.limit}: at least 1.")
    refused = []
    for directory in options.runs:
        try:
            found = evaluate(directory, kinds, options.limit, options.again)
        except InputError as error:
            refused.append(str(error))
            print(f"{directory}: skipped, {error}")
        else:
            print(f"{directory}\n{in_words(found)}")
    if refused:
        raise InputError(f"{len(refused)} of {len(options.runs)} runs skipped.")


if __name__ == "__main__":
    sys.exit(run_command(main))
