"""python -m benchmarks.gpu_hour OUT: what to do with an hour on a GPU, in the order of importance.

First the GPU's tests, then the benchmarks, then the tables; the first of a data set trains
the teacher. Each step runs until it is done or the time is up. OUT gets steps.txt and
results.tar.gz: all logs, and what runs have written but for the weights. The same command again
goes on where it stopped: steps that are done are left out, and a sweep trains what is missing. To
keep the numbers: `tar -xf OUT/results.tar.gz`, then for each table
`noisy-kd report TABLE --results runs --keep TABLE --add`.

    python -m benchmarks.gpu_hour OUT --minutes 28      # data in NOISY_KD_DATA
    python -m benchmarks.gpu_hour OUT --rehearse        # all steps, tiny, on the digits
"""

import argparse
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock

TRAIN = ["noisy_kd", "train", "-cn"]
QUIET = ["callbacks=quiet", "logger=csv"]
QUIET += ["max_stack=11"]  # as fast as more, and runs finish throughout
EPOCHS = ["trainer.max_epochs=30", "seed=1,2,3", *QUIET]
NOISE = ["method.sigma=0.3,0.9"]
SHALLOW = "model@student=shallow1,shallow2,shallow3"
TABLES = ("table5", "two_teachers", "random_sigma", "table4", "figure2")
STEPS: dict[str, list[str]] = {
    "tests": ["pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py"],
    "stacks": ["benchmarks.stacks"],
    "views": ["benchmarks.views"],
    "sweep": ["benchmarks.sweep"],
    "table3": [*TRAIN, "table3", "seed=0,1,2,3,4", "trainer.max_epochs=30", *QUIET],
    "regimes": [*TRAIN, "regimes", *EPOCHS],
    "regimes-frozen": [*TRAIN, "regimes", *EPOCHS, *NOISE, "method.resample=once"],
    "regimes-batch": [*TRAIN, "regimes", *EPOCHS, *NOISE, "method.noise_per=batch"],
    **{table: [*TRAIN, table, *EPOCHS] for table in TABLES},
    **{
        f"table1-{seeds.split(',')[0]}": [*TRAIN, "table1", f"seed={seeds}", *QUIET]
        for seeds in ("0,1,2,3,4", "5,6,7,8,9", "10,11,12,13,14", "15,16,17,18,19")
    },
    "table6": [*TRAIN, "table6", *EPOCHS],
    **{f"{table}-shallow": [*TRAIN, table, *EPOCHS, SHALLOW] for table in TABLES},
}
"""Name -> module and arguments for ``python -m``."""

TIMED = ("tests", "stacks", "views", "sweep", "table3")  # beside nothing else

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
    parser.add_argument("--at-once", type=int, default=1, help="sweeps side by side (1)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    for folder in (options.out, options.work / "logs"):
        folder.mkdir(parents=True, exist_ok=True)

    def run(name: str) -> None:
        began = time.monotonic()
        given = _tiny(name) if options.rehearse else STEPS[name]
        status = _run(name, given, options.work, end - began)
        line = f"{name:20} {status:12} {time.monotonic() - began:6.0f} s"
        print(line, flush=True)
        with lock, (options.out / "steps.txt").open("a") as file:
            file.write(f"{line}\n")
            _pack(options.out / "results.tar.gz", options.work)

    lock, timed = Lock(), [name for name in options.steps if name in TIMED]
    for name in timed:
        run(name)
    with ThreadPoolExecutor(options.at_once) as pool:
        list(pool.map(run, [name for name in options.steps if name not in timed]))


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
            with suppress(FileNotFoundError):  # removed meanwhile, by a sweep beside
                packed.add(file, file.relative_to(work))


if __name__ == "__main__":
    main()
