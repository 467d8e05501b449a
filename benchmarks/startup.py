"""python -m benchmarks.startup: seconds to --help, to the end of a tiny run, of the report.

The tiny run is one epoch on the digits with a teacher that is in the store: all of it is start-up.
The report reads 60 results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from noisy_kd.report.sweeps import record

COMMAND = [sys.executable, "-m", "noisy_kd"]
TINY = ["train", "trainer.max_epochs=1", "callbacks=quiet", "logger=csv", "force=true"]
SIGMAS = (0, 0.1, 0.3, 0.5, 0.7, 0.9)


def main() -> None:
    """Measure and print medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*COMMAND, *TINY], cwd=folder, capture_output=True, check=True)
        sixty(Path(folder) / "runs")
        commands = {
            "noisy-kd --help": ["--help"],
            "noisy-kd train --help": ["train", "--help"],
            "noisy-kd train, one epoch of the digits": TINY,
            "noisy-kd report, 60 runs": ["report", "quick"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run([*COMMAND, *command], cwd=folder, capture_output=True, check=True)
                times[name].append(time.perf_counter() - start)
    for name, values in times.items():
        between = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{statistics.median(values):6.2f} s  {name}  ({between})")


def sixty(runs: Path) -> None:
    """Write sixty results like the one there is, ten seeds of six noise levels, as a sweep."""
    (file,) = runs.glob("*/result.json")
    result, jobs = json.loads(file.read_text()), []
    for seed in range(10):
        for sigma in SIGMAS:
            result["settings"]["seed"], result["settings"]["method"]["sigma"] = seed, sigma
            result["seed"], result["sigma"] = seed, sigma
            place = runs / f"{seed}-{sigma}"
            place.mkdir()
            (place / "result.json").write_text(json.dumps(result))
            jobs.append((place.name, [f"seed={seed}", f"method.sigma={sigma}"]))
    record(runs, "quick", jobs)


if __name__ == "__main__":
    main()
