"""noisy-kd evaluate RUN_DIR ... [--on clean,noise,...]: a student beyond its clean error.

Writes ``evaluation.json`` beside each run's ``result.json``. What is there already is kept; --again
computes it anew.
"""

import argparse
from pathlib import Path

from noisy_kd.cli.arguments import add_allow
from noisy_kd.errors import InputError
from noisy_kd.evaluation import KINDS


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="noisy-kd evaluate", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="finished runs")
    parser.add_argument("--on", default=",".join(KINDS), help=f"some of {','.join(KINDS)} (all)")
    parser.add_argument("--limit", type=int, help="use so many test images, of all classes")
    parser.add_argument("--again", action="store_true", help="measure again what is there already")
    add_allow(parser)
    options = parser.parse_args()
    kinds = options.on.split(",")
    if unknown := set(kinds) - set(KINDS):
        raise InputError(f"--on {','.join(sorted(unknown))}: choose {', '.join(KINDS)}.")
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit {options.limit}: at least 1.")
    from noisy_kd.evaluation.evaluate import evaluate, in_words

    skipped = 0
    for directory in options.runs:
        try:
            evaluation = evaluate(directory, kinds, options.limit, options.again, options.allow)
            print(f"{directory}\n{in_words(evaluation)}")
        except InputError as error:
            skipped += 1
            why = str(error).removeprefix(f"{directory} ")
            print(f"{directory}: skipped, {why}")
    if skipped:
        raise InputError(f"{skipped} of {len(options.runs)} runs skipped.")
