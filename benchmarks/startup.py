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

ROUNDS = 5
TRAIN = [sys.executable, str(Path(__file__).resolve().parent.parent / "train.py")]
REPORT = [sys.executable, "-m", "noisy_kd.report", "quick"]


def main() -> None:
    """Measure and print medians."""
    argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tiny = [*TRAIN, "trainer.max_epochs=1", "callbacks=quiet", "logger=csv", "force=true"]
        subprocess.run(tiny, cwd=folder, capture_output=True, check=True)
        sixty(Path(folder))
        commands = {
            "python train.py --help": [*TRAIN, "--help"],
            "python train.py, one epoch of the digits": tiny,
            "python -m noisy_kd.report, 60 runs": REPORT,
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, cwd=folder, capture_output=True, check=True)
                times[name].append(time.perf_counter() - start)
    for name, values in times.items():
        between = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{statistics.median(values):6.2f} s  {name}  ({between})")


def sixty(folder: Path) -> None:
    """Sixty results like the one there is: ten seeds of six noise levels."""
    (file,) = (folder / "runs").glob("*/result.json")
    result = json.loads(file.read_text())
    for seed in range(10):
        for sigma in (0, 0.1, 0.3, 0.5, 0.7, 0.9):
            result["settings"]["seed"], result["settings"]["method"]["sigma"] = seed, sigma
            result["seed"], result["sigma"] = seed, sigma
            place = folder / "runs" / f"{seed}-{sigma}"
            place.mkdir()
            (place / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
