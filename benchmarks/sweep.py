"""python -m benchmarks.sweep: an 11-run sweep against one student alone, by the project's commands.

Table 1's eleven students, stacked and spread over the cores, and one of them alone on all cores, in
turn; the teacher is in the store. MNIST comes from NOISY_KD_DATA, or is random pixels in files of
its format. Once for the seconds of training alone, as result.json has them, and once for those of
the whole command, start-up included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.memory import TRAIN, write_mnist

LIKE = ["data=mnist", "callbacks=quiet", "logger=csv", "force=true", "teacher.max_epochs=1"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=50_000, help="in an epoch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = os.environ.get("NOISY_KD_DATA")
        if root is None:
            write_mnist(Path(folder))
        likes = [*LIKE, f"data.root={root or folder}", f"store={folder}/store"]
        likes += [f"data.subset={options.samples}", f"teacher.subset={options.samples}"]
        epochs = f"trainer.max_epochs={options.epochs}"
        run(folder, options.samples, *likes, "trainer.max_epochs=1")
        speeds: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(options.rounds):
            speeds["eleven"].append(run(folder, options.samples, "-cn", "table1", *likes, epochs))
            speeds["one"].append(run(folder, options.samples, *likes, "method.sigma=0.5", epochs))
    eleven, one = (
        [statistics.median(values) for values in zip(*speeds[name], strict=True)]
        for name in ("eleven", "one")
    )
    for name, (training, wall) in (("a sweep of 11", eleven), ("one alone", one)):
        print(f"{name}: {training:,.0f} samples/s in training, {wall:,.0f} with start-up")
    print(f"ratio: {eleven[0] / one[0]:.2f} in training, {eleven[1] / one[1]:.2f} with start-up")


def run(folder: str, count: int, *command: str) -> tuple[float, float]:
    """Samples/s, summed over students: while they trained, and over the command's time."""
    place = tempfile.mkdtemp(dir=folder)
    directory = f"hydra.{'sweep' if '-cn' in command else 'run'}.dir={place}"
    start = time.perf_counter()
    subprocess.run([sys.executable, TRAIN, *command, directory], check=True, capture_output=True)
    seconds = time.perf_counter() - start
    results = [json.loads(file.read_text()) for file in Path(place).rglob("result.json")]
    workers: dict[int, set[tuple[float, int]]] = defaultdict(set)  # one entry for each stack
    for result in results:
        workers[result["process"]].add((result["seconds"], result["epochs"] * result["stack_size"]))
    samples = {p: count * sum(n for _, n in stacks) for p, stacks in workers.items()}
    trained = {p: sum(s for s, _ in stacks) for p, stacks in workers.items()}
    return sum(samples[p] / trained[p] for p in workers), sum(samples.values()) / seconds


if __name__ == "__main__":
    main()
