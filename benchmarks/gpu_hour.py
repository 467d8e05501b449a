"""python -m benchmarks.gpu_hour OUT: what to do with an hour on a GPU, in the order of importance.

First the GPU's tests, then the benchmarks, then the paper's tables on CIFAR-10 with three seeds and
30 epochs; the first table trains the teacher. Each step runs until it is done or the time is up.
OUT gets steps.txt and results.tar.gz: all logs, and what runs have written but for the weights. The
same command again goes on where it stopped: steps that are done are left out, and a sweep trains
what is missing. To keep the numbers: `tar -xf OUT/results.tar.gz`, then for each table
`noisy-kd report TABLE --results runs --keep TABLE --add`.

    python -m benchmarks.gpu_hour OUT --minutes 28      # data in NOISY_KD_DATA
    python -m benchmarks.gpu_hour OUT --rehearse        # all steps, tiny, on the digits
"""

import argparse
import subprocess
import sys
import tarfile
import time
from pathlib import Path

TRAIN = ["noisy_kd", "train", "-cn"]
SETTINGS = ["trainer.max_epochs=30", "seed=1,2,3", "callbacks=quiet", "logger=csv"]
STUDENTS = "model@student=lenet_cifar,shallow1,shallow2,shallow3"
TABLES = ("table3", "table5", "table6", "table4", "figure2", "two_teachers", "random_sigma")
STEPS: dict[str, list[str]] = {
    "tests": ["pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py"],
    "stacks": ["benchmarks.stacks"],
    "views": ["benchmarks.views"],
    "sweep": ["benchmarks.sweep"],
    "table3, five seeds": [*TRAIN, "table3", "seed=0,1,2,3,4", *SETTINGS[:1], *SETTINGS[2:]],
    **{table: [*TRAIN, table, *SETTINGS, STUDENTS] for table in TABLES},
}
"""Name -> module and arguments for ``python -m``."""

LONGEST = 240  # seconds that the tests and each benchmark get
TINY = ["data=digits", "model@student=digits_student", "seed=1", "trainer.max_epochs=1"]
TINY += ["teacher.max_epochs=1", "teacher.subset=100", "data.subset=100"]
KEPT = ("result.json", "config.yaml", "metrics.csv")


def main() -> None:
    """Run the steps, and pack after each what there is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_hour", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for steps.txt and results.tar.gz")
    parser.add_argument("--minutes", type=float, default=28, help="after which to stop (28)")
    parser.add_argument("--work", type=Path, default=Path("gpu_hour"), help="for runs and store")
    parser.add_argument("--rehearse", action="store_true", help="all steps, tiny, on the digits")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    for folder in (options.out, options.work / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, command in STEPS.items():
        began = time.monotonic()
        given = _tiny(name) if options.rehearse else command
        status = _run(name, given, options.work, end - began)
        lines.append(f"{name:20} {status:12} {time.monotonic() - began:6.0f} s")
        print(lines[-1], flush=True)
        (options.out / "steps.txt").write_text("\n".join(lines) + "\n")
        _pack(options.out / "results.tar.gz", options.work)


def _run(name: str, command: list[str], work: Path, seconds: float) -> str:
    """Run a step for at most so long, and return how it ended."""
    done = work / "logs" / f"{name}.done"
    if done.exists():
        return "was done"
    if seconds < 5:
        return "no time"
    if command[:3] == TRAIN:
        command = [*command, f"hydra.sweep.dir={work}/runs", f"store={work}/store"]
    else:
        seconds = min(seconds, LONGEST)
    with (work / "logs" / f"{name}.log").open("a") as log:
        running = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log)
        try:
            code = running.wait(seconds)
        except subprocess.TimeoutExpired:
            running.terminate()  # a training keeps its last epoch
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()
            return "time is up"
    if code == 0:
        done.touch()
    return "done" if code == 0 else f"exit code {code}"


def _tiny(name: str) -> list[str]:
    """Return the step with its grid, but small networks on few images, or only the start of it."""
    command = STEPS[name]
    if command[:3] != TRAIN:
        return [*command, "--collect-only" if name == "tests" else "--help"]
    changed = {text.partition("=")[0] for text in TINY}
    kept = [text for text in command if text.partition("=")[0] not in changed]
    teachers = ["method.teachers=[FC30-FC10],[FC30-FC10,FC25-FC10]"] * (name == "two_teachers")
    return [*kept, *TINY, *teachers]


def _pack(archive: Path, work: Path) -> None:
    runs = [file for file in sorted((work / "runs").rglob("*")) if file.name in KEPT]
    records = sorted((work / "runs" / "sweeps").glob("*.jsonl"))
    with tarfile.open(archive, "w:gz") as packed:
        for file in (*sorted((work / "logs").glob("*.log")), *runs, *records):
            packed.add(file, file.relative_to(work))


if __name__ == "__main__":
    main()
