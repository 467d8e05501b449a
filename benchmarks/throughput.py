"""python -m benchmarks.throughput: training speed of a student, this project's beside others'.

Each contestant runs in a process of its own, all in turn in every round, so that what else the
machine does meets all alike; medians over rounds, and the ratio to this project's default. KD_Lib
and torchdistill take part when they can be imported (`pip install torchdistill`; KD_Lib does not
install on today's Python: put a checkout of it on PYTHONPATH).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.contestants import DEVICE
from noisy_kd.model.device import has_bf16_units

STEPS = {"mnist": 400, "cifar10": 30}
EPOCH = {"mnist": 782, "cifar10": 200}
"""Steps of this project's students: they bear an epoch's end too, at MNIST's own length."""
FIRST = {
    "noisy-kd, as the command runs it": ("ours", "auto", False),
    "noisy-kd, precision=32": ("ours", "32", False),
    "noisy-kd, fast=false": ("ours, fast=false", "32", False),
    "noisy-kd, 11 students": ("ours, 11 students", "auto", False),
    "hand loop with every trick": ("hand loop", "auto", False),
    "PyTorch loop": ("PyTorch loop", "32", False),
    "Lightning module": ("Lightning module", "32", False),
    "torchdistill": ("torchdistill", "32", False),
    "KD_Lib's NoisyTeacher": ("KD_Lib", "32", False),
    "GEMM 2048, float32": ("GEMM", "32", False),
}
"""Name in the table -> contestant, precision, whether it gets this project's allocator settings."""
EQUAL = {
    "PyTorch loop, {} and allocator": ("PyTorch loop", "auto", True),
    "Lightning module, {} and allocator": ("Lightning module", "auto", True),
    "torchdistill, {} and allocator": ("torchdistill", "auto", True),
    "KD_Lib, {} and allocator": ("KD_Lib", "auto", True),
}
"""With this project's precision, which takes the place of {}."""
BF16 = {"GEMM 2048, bfloat16": ("GEMM", "auto", False)}
"""Only where there are bf16 units: without them a bf16 product can take minutes."""
NEEDS = {"torchdistill": "torchdistill", "KD_Lib": "KD_Lib"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settings", default="mnist,cifar10")
    parser.add_argument("--steps", type=float, default=1.0, help="factor of the number of steps")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    has_units = has_bf16_units(DEVICE)
    equal = {name.format("bf16" if has_units else "float32"): how for name, how in EQUAL.items()}
    contestants = {
        name: how
        for name, how in (FIRST | equal | (BF16 if has_units else {})).items()
        if how[0] not in NEEDS or importlib.util.find_spec(NEEDS[how[0]])
    }
    found = {}
    for setting in options.settings.split(","):
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, how in contestants.items():
                length = EPOCH if how[0].startswith("ours") else STEPS
                steps = max(2, round(length[setting] * options.steps))
                speed, cost = measure(setting, *how, options.threads, steps)
                speeds[name].append(speed)
        found[setting] = {"multiplications": cost, "speeds": speeds}
        show(setting, cost, speeds, options.threads)
    if options.json is not None:
        about = {"threads": options.threads, "machine": platform.processor() or platform.machine()}
        options.json.write_text(json.dumps({**about, "settings": found}, indent=1))


def measure(
    setting: str, contestant: str, precision: str, allocator: bool, threads: int, steps: int
) -> tuple[float, int]:
    """Samples/s of one contestant in a process of its own, and its student's multiplications."""
    command = [sys.executable, "-m", "benchmarks.contestants", contestant, setting]
    command += ["--precision", precision, "--threads", str(threads), "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        command + ["--allocator"] * allocator, capture_output=True, text=True, env=environment
    )
    if done.returncode:
        print(f"{contestant} failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return float("nan"), 0
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return result["samples_per_second"], result["multiplications"]


def show(setting: str, cost: int, speeds: dict[str, list[float]], threads: int) -> None:
    """One table: medians, ranges, ratios, share of the GEMM peak (6 multiplications a weight).

    The peak is bfloat16's where there are bf16 units, else float32's.
    """
    table = Table(title=f"{setting}, batch 64, {threads} thread(s): samples/s")
    for head in ("", "median", "range", "noisy-kd / this", "share of GEMM"):
        table.add_column(head, justify="left" if not head else "right")
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    first = medians[next(iter(medians))]
    peak = max(median for name, median in medians.items() if name.startswith("GEMM"))
    for name, median in medians.items():
        if name.startswith("GEMM"):
            table.add_row(name, f"{median / 1e9:,.0f} G/s", "", "", "")
            continue
        low, high = min(speeds[name]), max(speeds[name])
        share = 3 * cost * median / peak
        row = (f"{median:,.0f}", f"{low:,.0f}-{high:,.0f}", f"{first / median:.2f}", f"{share:.2f}")
        table.add_row(name, *row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
