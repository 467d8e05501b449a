"""Faults, injected into real command lines: killed processes, full disks, power failures.

    python tests/faults/harness.py [--share 0.1] [--seed 0] [FAULT ...]

Each case is a child of this process, which has imported everything: it costs a second, not torch's
import. The table of figures goes to standard output, and with ``--json FILE`` into a file.
"""

import argparse
import contextlib
import ctypes
import errno
import gc
import io
import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEMORY = Path("/dev/shm")
SHIM = "NOISY_KD_SHIM"
SHORT = ["teacher.max_epochs=1", "trainer.max_epochs=2", "callbacks=quiet", "trainer=cpu"]
SHORT += ["precision=32", "data.subset=200", "teacher.subset=200"]
RUN = ["train", *SHORT, "hydra.run.dir=runs/run"]
STACK = ["train", "-m", *SHORT, "devices=1", "seed=1,2"]
CASES = {"alone": RUN, "stacked": STACK}
LIMIT = 60  # seconds that a command may take
NUMBERS = itertools.count()
TIMES = ("seconds", "samples_per_second", "began", "ended", "process", "stack_size")
PLACES = ("runs", "store", "case", "hydra.run.dir")
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.EROFS)


@dataclass
class Done:
    """How a child has ended."""

    code: int  # the exit code, or minus the signal
    out: str
    err: str
    calls: int = 0  # that change a file


@dataclass
class Figure:
    """A row of the table: a fault, its cases, and those that went wrong."""

    name: str
    cases: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def command(
    folder: Path,
    arguments: list[str],
    first: int = 0,
    last: int | None = None,
    error: int = 0,
    log: Path | None = None,
    kill_after: float | None = None,
    signal_when: tuple[int, Callable[[], bool]] | None = None,
    watch: Callable[[int], None] | None = None,
    limit: float = LIMIT,
) -> Done:
    """Run ``noisy-kd ARGUMENTS`` in a child, in this folder, with a fault at its ``first``-th call.

    Without ``error`` the child is killed there; ``kill_after`` so many seconds kills it then.
    """
    own = f"{folder.name}.{next(NUMBERS)}"
    streams = [folder.with_name(f"{own}.{name}") for name in ("out", "err", "calls")]
    child = os.fork()
    if child == 0:
        _run(folder, arguments, streams, first, last or first, error, log)
    began, sent, seconds = time.monotonic(), False, 0
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        after = time.monotonic() - began
        if signal_when is not None and not sent and signal_when[1]():
            os.kill(child, signal_when[0])
            sent = True
        if watch is not None and int(after) != seconds:
            seconds = int(after)
            watch(child)
        if after > (kill_after or limit):
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    texts = [stream.read_text("utf-8", "replace") if stream.exists() else "" for stream in streams]
    code = os.waitstatus_to_exitcode(status)
    for stream in streams:
        stream.unlink(missing_ok=True)
    return Done(code, texts[0], texts[1], int(texts[2] or 0))


def _run(
    folder: Path,
    arguments: list[str],
    streams: list[Path],
    first: int,
    last: int,
    error: int,
    log: Path | None,
) -> None:
    """Be the child: never returns."""
    code = 1
    try:
        os.chdir(folder)
        for number, stream in ((1, streams[0]), (2, streams[1])):
            os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        shim = ctypes.CDLL(os.environ[SHIM])
        where = str(log).encode() if log else None
        long, text = ctypes.c_long, ctypes.c_char_p
        shim.faults_arm.argtypes = [text, long, long, ctypes.c_int, text]
        shim.faults_count.restype = long
        shim.faults_arm(str(folder).encode(), first, last, error, where)
        from noisy_kd.cli.main import main

        sys.argv = ["noisy-kd", *arguments]
        try:
            code = main()
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
        streams[2].write_text(str(shim.faults_count()))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def numbers(folder: Path) -> dict[str, object]:
    """Return what a command leaves that another run of it leaves too: results and weights."""
    import torch

    found: dict[str, object] = {}
    for file in sorted(folder.glob("runs/*/result.json")):
        result = json.loads(file.read_text())
        name = file.parent.name
        found[name] = {k: v for k, v in result.items() if k not in (*TIMES, "checksum")}
        student = torch.load(file.with_name("student.pt"), weights_only=True)
        found[f"{name} student"] = {key: value.numpy().tobytes() for key, value in student.items()}
    return found


def leftovers(folder: Path) -> list[str]:
    """Return files with temporary names."""
    return [str(file.relative_to(folder)) for file in folder.rglob("*") if ".tmp" in file.name]


def check(done: Done, expected: dict[str, object], folder: Path, what: str) -> list[str]:
    """Return what is wrong after the same command was given again, undisturbed."""
    if done.code:
        return [f"{what}: exit code {done.code}: {done.err.strip().splitlines()[-1:]}"]
    now = numbers(folder)
    if now != expected:
        return [f"{what}: {', '.join(k for k in expected if now.get(k) != expected[k])} differ"]
    return []


def chosen(every: list[int], share: float, draw: random.Random) -> list[int]:
    """Return these calls, or a share of them."""
    return sorted(draw.sample(every, max(3, round(share * len(every))))) if share < 1 else every


class Bench:
    """A folder for cases, and for each command what it leaves undisturbed."""

    def __init__(self, root: Path, share: float, seed: int) -> None:
        self.root, self.share, self.draw = root, share, random.Random(seed)
        self.quiet: dict[str, tuple[dict[str, object], list[int], float]] = {}
        self.numbers = itertools.count()
        self.start = root / "start"  # what a fresh folder holds
        self.start.mkdir()

    def fresh(self) -> Path:
        """Return a new folder."""
        folder = self.root / f"case{next(self.numbers)}"
        shutil.copytree(self.start, folder)
        return folder

    def undisturbed(self, name: str) -> tuple[dict[str, object], list[int], float]:
        """Return the numbers of a command, the calls at which to disturb it, and its seconds."""
        if name not in self.quiet:
            folder, log, began = self.fresh(), self.root / f"{name}.calls", time.monotonic()
            done = command(folder, CASES[name], log=log)
            assert done.code == 0, done.err
            seconds = time.monotonic() - began
            self.quiet[name] = numbers(folder), telling(log, done.calls), seconds
            shutil.rmtree(folder)
        return self.quiet[name]

    def cases(self, figure: Figure, moments: list[object], case: Callable[..., list[str]]) -> None:
        """Play a case at each moment, two at a time, and note what went wrong."""
        began = time.monotonic()
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for wrong in pool.map(case, moments):
                figure.cases += 1
                figure.wrong += wrong
        figure.seconds += time.monotonic() - began


def kill(bench: Bench) -> Iterator[Figure]:
    """kill -9 at every call that changes a file, and at random moments."""
    for name, arguments in CASES.items():
        expected, calls, seconds = bench.undisturbed(name)

        def at(moment: tuple[int, float], arguments=arguments, expected=expected) -> list[str]:
            folder = bench.fresh()
            first, after = moment
            done = command(folder, arguments, first, kill_after=after or None)
            what = f"killed at call {first}" if first else f"killed after {after:.2f} s"
            if first and done.code != -signal.SIGKILL:
                return [f"{what}: it was not: {done.code} {done.err[-200:]}"]
            wrong = check(command(folder, arguments), expected, folder, what)
            shutil.rmtree(folder)
            return wrong

        figure = Figure(f"kill -9 at every changing call, {name} ({len(calls)} calls)")
        bench.cases(figure, [(n, 0.0) for n in chosen(calls, bench.share, bench.draw)], at)
        yield figure
        figure = Figure(f"kill -9 at random moments, {name}")
        count = max(5, round(150 * bench.share))
        bench.cases(figure, [(0, seconds * bench.draw.random()) for _ in range(count)], at)
        yield figure


def disk(bench: Bench) -> Iterator[Figure]:
    """A call that changes a file fails, and all after it: a full disk, an I/O error, no handles."""
    for name, arguments in CASES.items():
        expected, calls, _ = bench.undisturbed(name)

        def at(moment: tuple[int, int], arguments=arguments, expected=expected) -> list[str]:
            first, error = moment
            folder = bench.fresh()
            last = first if error in (errno.EIO, errno.EMFILE) else 1 << 40
            done = command(folder, arguments, first, last, error)
            what = f"{errno.errorcode[error]} at call {first}"
            lines = done.err.strip().splitlines()
            wrong = []
            if done.code not in (0, 2) and not ("-m" in arguments and done.code == 1):
                wrong.append(f"{what}: exit code {done.code}: {lines[-1:]}")
            if "Traceback" in done.err:
                wrong.append(f"{what}: a traceback: {lines[-1:]}")
            if done.code == 2 and not any(place in lines[-1] for place in PLACES):
                wrong.append(f"{what}: no path in {lines[-1:]}")
            wrong += check(command(folder, arguments), expected, folder, what)
            shutil.rmtree(folder)
            return wrong

        figure = Figure(f"a failing disk at every changing call, {name} ({len(calls)} calls)")
        moments = [
            (n, ERRORS[k % len(ERRORS)])
            for k, n in enumerate(chosen(calls, bench.share, bench.draw))
        ]
        bench.cases(figure, moments, at)
        yield figure


def tmpfs(bench: Bench) -> Iterator[Figure]:
    """A disk that is really full: a small tmpfs, then a larger one. It needs the right to mount."""
    expected, _, _ = bench.undisturbed("alone")
    figure, folder = Figure("a full tmpfs of 100 kB to 1 MB"), bench.fresh()
    mount = ["mount", "-t", "tmpfs", "tmpfs", folder, "-o"]
    for kilobytes in range(200, 1400, 100):
        if subprocess.run([*mount, f"size={kilobytes}k"], capture_output=True).returncode:
            print("a full tmpfs: skipped, mount is not allowed")
            return
        try:
            done, began = command(folder, RUN), time.monotonic()
            figure.cases += 1
            what = f"{kilobytes} kB"
            is_named = any(place in done.err for place in PLACES)
            if done.code != 2 or not is_named or "Traceback" in done.err:
                figure.wrong.append(f"{what}: exit code {done.code}: {done.err[-300:]}")
            subprocess.run([*mount[:-1], "-o", "remount,size=64m"], check=True)
            figure.wrong += check(command(folder, RUN), expected, folder, what)
            figure.seconds += time.monotonic() - began
        finally:
            subprocess.run(["umount", folder], check=True)
    yield figure


def power(bench: Bench) -> Iterator[Figure]:
    """The power fails after any call: what was not flushed to the disk is lost."""
    for name, arguments in CASES.items():
        expected, _, _ = bench.undisturbed(name)
        folder, log = bench.fresh(), bench.root / f"{name}.journal"
        done = command(folder, arguments, log=log)
        assert done.code == 0, done.err
        states = list(states_after(journal(log)))

        def at(state: dict[str, bytes], arguments=arguments, expected=expected) -> list[str]:
            folder = bench.fresh()
            for path, content in state.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
            wrong = check(command(folder, arguments), expected, folder, f"with {sorted(state)}")
            shutil.rmtree(folder)
            return wrong

        figure = Figure(f"power failures, {name} ({len(states)} different states of the disk)")
        numbers = chosen([*range(len(states))], bench.share, bench.draw)
        bench.cases(figure, [states[n] for n in numbers], at)
        yield figure


def journal(log: Path) -> Iterator[tuple[int, str, int, bytes, str]]:
    """Yield each call's number and what it has changed: kind, place in the file, data, path."""
    content, start = log.read_bytes(), 0
    while start < len(content):
        end = content.index(b"\n", start)
        number, kind, place, size, path = content[start:end].decode().split(" ", 4)
        data = content[end + 1 : end + 1 + int(size)]
        yield int(number), kind, int(place), data, path.rstrip("/")
        start = end + 1 + int(size)


def telling(log: Path, count: int) -> list[int]:
    """Return the calls but for those between a file's opening, first write and last write."""
    between = set[int]()
    for _, calls in itertools.groupby(journal(log), lambda call: (call[1] in "CW", call[4])):
        numbers = [number for number, kind, *_ in calls if kind in "CW"]
        between |= set(numbers[2:-1])
    return [n for n in range(1, count + 1) if n not in between]


@dataclass(eq=False)
class Inode:
    """A file's content now, and at its last fsync; empty before it."""

    now: bytearray = field(default_factory=bytearray)
    flushed: bytes = b""


def states_after(calls: Iterator[tuple[int, str, int, bytes, str]]) -> Iterator[dict[str, bytes]]:
    """Yield the different files, with their content, that a power failure after a call may leave.

    Contents are those of the last fsync. Names are those of the last fsync of their folder, or all
    that there are: file systems write them earlier or later.
    """
    names: dict[str, Inode] = {}
    durable: dict[str, Inode] = {}
    moved: list[tuple[str, str]] = []  # folders that were renamed
    seen = set()
    for _, kind, place, data, path in calls:
        if kind == "T":
            names[path] = Inode()
        elif kind == "C":
            names.setdefault(path, Inode())
        elif kind == "W":
            names[path].now[place : place + len(data)] = data
        elif kind == "S":
            names[path].flushed = bytes(names[path].now)
        elif kind == "R":
            target = data.decode()
            if path in names:
                names[target] = names.pop(path)
            else:
                names = _renamed(names, path, target)
                moved.append((path, target))
        elif kind == "U":
            names.pop(path, None)
        elif kind == "D":
            for old, new in [pair for pair in moved if os.path.dirname(pair[1]) == path]:
                durable = _renamed(durable, old, new)
            durable = {n: i for n, i in durable.items() if os.path.dirname(n) != path}
            durable |= {n: i for n, i in names.items() if os.path.dirname(n) == path}
        for there in (durable, names):
            state = {name: inode.flushed for name, inode in there.items()}
            key = hash(tuple(sorted(state.items())))
            if key not in seen:
                seen.add(key)
                yield state


def _renamed(names: dict[str, Inode], old: str, new: str) -> dict[str, Inode]:
    inside = {name for name in names if name.startswith(f"{old}/")}
    return {new + n[len(old) :] if n in inside else n: inode for n, inode in names.items()}


def flips(bench: Bench) -> Iterator[Figure]:
    """One bit of a file is another: whatever is read back is checked, and the file is named."""
    folder = bench.fresh()
    images = folder / "images"
    _draw_images(images)
    own = ["data=folder", f"data.root={images}", "student.layers=FC8-FC2", "teacher.layers=FC8-FC2"]
    for arguments in (RUN, [*RUN, "hydra.run.dir=runs/own", *own]):
        done = command(folder, [a for a in arguments if "subset" not in a])
        assert done.code == 0, done.err
    done = command(folder, ["evaluate", "runs/run", "--on", "clean"])
    assert done.code == 0, done.err
    _interrupted(folder, bench)
    count = max(50, round(2000 * bench.share))
    for name, file, read in _readers(folder):
        figure, began, original = (
            Figure(f"single bits of {name}"),
            time.monotonic(),
            file.read_bytes(),
        )
        sound = read()
        for _ in range(count // 10):
            bit = bench.draw.randrange(8 * len(original))
            content = bytearray(original)
            content[bit // 8] ^= 1 << bit % 8
            file.write_bytes(content)
            figure.cases += 1
            answer, named = read()
            is_named = file.name in named or file.parent.name in named
            if not is_named and (answer is None or answer != sound[0]):
                figure.wrong.append(
                    f"bit {bit}: {'not named' if answer is None else 'used'}: {named}"
                )
        file.write_bytes(original)
        figure.seconds = time.monotonic() - began
        yield figure


def _draw_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{k}.png")


def _interrupted(folder: Path, bench: Bench) -> None:
    """Leave a run in runs/half with a checkpoint."""
    half = [*RUN, "hydra.run.dir=runs/half", "seed=7", "trainer.max_epochs=2000"]
    done = command(
        folder, half, signal_when=(signal.SIGINT, (folder / "runs/half/last.ckpt").exists)
    )
    assert done.code == 1, done.err


def _readers(folder: Path) -> Iterator[tuple[str, Path, Callable[[], tuple[object, str]]]]:
    """Yield what a file is, the file, and what returns its content and the warnings."""
    from noisy_kd import runs
    from noisy_kd.data import files, store
    from noisy_kd.report import sweeps
    from noisy_kd.training import finished
    from noisy_kd.training.callbacks.resume import saved_epoch

    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logging.getLogger("noisy_kd").addHandler(handler)

    def said(read: Callable[[], object]) -> Callable[[], tuple[object, str]]:
        def reading() -> tuple[object, str]:
            heard.seek(0)
            heard.truncate()
            try:
                return plain(read()), heard.getvalue()
            except Exception as error:
                return None, f"{error} {heard.getvalue()}"

        return reading

    run, half = folder / "runs/run", folder / "runs/half"
    yield "student.pt", run / "student.pt", said(lambda: runs.load_student(run).state_dict())
    yield (
        "preprocessing.pt",
        run / "preprocessing.pt",
        said(lambda: runs.load_preprocessing(run).state_dict()),
    )
    logits = run / "teacher_logits.pt"
    yield logits.name, logits, said(lambda: finished.teacher_test_logits(run))
    yield "config.yaml", run / "config.yaml", said(lambda: finished.load_config(run))
    yield "result.json", run / "result.json", said(lambda: runs.read_result(run))
    evaluation = run / "evaluation.json"
    yield evaluation.name, evaluation, said(lambda: runs.read_json(evaluation))
    content = files.read_tensors(half / "last.ckpt")["identity"]
    yield (
        "last.ckpt",
        half / "last.ckpt",
        said(lambda: saved_epoch(half / "last.ckpt", content) or None),
    )
    for entry in sorted((folder / ".cache/store").glob("*/entry.json")):
        about = files.unsealed(entry.read_bytes())

        def get(about=about) -> object:
            return store.get_or_make(
                folder / ".cache/store", about["kind"], about["made_by"], _rebuild
            )

        for file in (entry, entry.with_name("tensors.pt")):
            yield f"the store's {about['kind']}, {file.name}", file, said(get)
    for file in (folder / ".cache/store/folders").glob("*"):
        yield "the store's fingerprint of a folder", file, said(lambda f=file: runs.read_json(f))
    jobs = folder / "runs/sweeps/x.jsonl"
    sweeps.record(folder / "runs", "x", [("a", ["seed=1"]), ("b", ["seed=2"])])
    yield "a sweep's jobs", jobs, said(lambda: sweeps.recorded(folder / "runs", "x"))


def _rebuild(_: Path) -> dict[str, object]:
    raise RuntimeError("rebuilt")


def plain(value: object) -> object:
    """Return a value that can be compared, tensors as bytes; None for damaged ones."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def crowd(bench: Bench) -> Iterator[Figure]:
    """Many start the same at once: each thing is made once; a killed holder frees the others."""
    expected, _, _ = bench.undisturbed("alone")
    figure, folder, began = (
        Figure("64 starters of one configuration"),
        bench.fresh(),
        time.monotonic(),
    )
    with ThreadPoolExecutor(64) as pool:
        all_done = list(pool.map(lambda _: command(folder, RUN, limit=600), range(64)))
    figure.cases, figure.seconds = 64, time.monotonic() - began
    said = "".join(done.out + done.err for done in all_done)
    for text, count in (("Training the teacher", 1), ("view 1 of 1", 1), (": skipped (", 63)):
        if said.count(text) != count:
            figure.wrong.append(f"{text!r} was said {said.count(text)} times, not {count}")
    figure.wrong += [f"exit code {done.code}: {done.err[-200:]}" for done in all_done if done.code]
    figure.wrong += [] if numbers(folder) == expected else ["the numbers differ"]
    if "Waiting for" not in said or "works on it" not in said:
        figure.wrong.append("nobody said whom it waits for")
    yield figure
    figure, folder, began = Figure("a holder is killed"), bench.fresh(), time.monotonic()
    long = [*RUN, "teacher.max_epochs=300"]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(command, folder, long, limit=600) for _ in range(4)]
        holder = folder / "runs/run/run.holder"
        while not (folder / "runs/run/teacher/metrics.csv").exists():
            time.sleep(0.05)
        os.kill(int(holder.read_text().split()[1]), signal.SIGKILL)
        killed = time.monotonic()
        while f"{holder.read_text() if holder.exists() else ''}" == "" or _is_dead(holder):
            time.sleep(0.05)
        waited = time.monotonic() - killed
        codes = sorted(job.result().code for job in jobs)
    figure.cases, figure.seconds = 4, time.monotonic() - began
    figure.wrong += [] if codes == [-9, 0, 0, 0] else [f"exit codes {codes}"]
    figure.wrong += [] if waited < 30 else [f"the others waited {waited:.0f} s"]
    yield figure


def _is_dead(holder: Path) -> bool:
    try:
        os.kill(int(holder.read_text().split()[1]), 0)
    except (OSError, IndexError):
        return True
    return False


def signals(bench: Bench) -> Iterator[Figure]:
    """Signals at random moments: an end within 5 s, and the same command goes on."""
    for name, arguments in CASES.items():
        long = [*arguments, "trainer.max_epochs=40"]
        folder = bench.fresh()
        began = time.monotonic()
        assert command(folder, long).code == 0
        seconds, expected = time.monotonic() - began, numbers(folder)

        def at(moment: tuple[int, float], long=long, expected=expected) -> list[str]:
            folder, (number, after) = bench.fresh(), moment
            start, sent = time.monotonic(), []

            def now() -> bool:
                if time.monotonic() - start > after:
                    sent.append(time.monotonic())
                return bool(sent)

            done = command(folder, long, signal_when=(number, now))
            what = f"{signal.Signals(number).name} after {after:.2f} s"
            took = time.monotonic() - sent[0] if sent else 0.0
            wrong = [f"{what}: it took {took:.1f} s to end"] if took > 5 else []
            if "Traceback" in done.err:
                wrong.append(f"{what}: a traceback: {done.err.strip().splitlines()[-1:]}")
            wrong += check(command(folder, long), expected, folder, what)
            shutil.rmtree(folder)
            return wrong

        figure = Figure(f"SIGINT, SIGTERM and SIGUSR1 (Slurm's) at random moments, {name}")
        count = max(4, round(20 * bench.share))
        kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        moments = [(kinds[k % 3], seconds * bench.draw.random()) for k in range(count)]
        bench.cases(figure, moments, at)
        yield figure


def soak(bench: Bench) -> Iterator[Figure]:
    """2,000 tiny runs through one launcher: its memory, files, threads do not grow."""
    count = max(100, round(2000 * bench.share))
    folder, began = bench.fresh(), time.monotonic()
    tiny = [*SHORT, "trainer.max_epochs=1", "data.subset=20", "logger=csv", "max_stack=20"]
    sweep = ["train", "-m", *tiny, "devices=1", f"seed=range(0,{count})"]
    seen: list[tuple[int, int, int]] = []
    first: list[float] = []

    def watch(process: int) -> None:
        place = Path(f"/proc/{process}")
        with contextlib.suppress(OSError, IndexError):
            status = dict(x.split(":", 1) for x in (place / "status").read_text().splitlines())
            files, memory = len(list((place / "fd").iterdir())), int(status["VmRSS"].split()[0])
            if (folder / "runs").exists() and any((folder / "runs").glob("*/result.json")):
                first.append(time.monotonic())
                seen.append((memory, files, int(status["Threads"])))

    done = command(folder, sweep, watch=watch, limit=3600)
    figure = Figure(f"a soak of {count} runs ({first[0] - began:.0f} s to the first result)")
    figure.cases, figure.seconds = len(numbers(folder)) // 2, time.monotonic() - began
    figure.wrong += [] if done.code == 0 else [f"exit code {done.code}: {done.err[-300:]}"]
    figure.wrong += [] if figure.cases == count else [f"{figure.cases} results"]
    half = seen[len(seen) // 2 :]
    for name, values in zip(("memory", "files", "threads"), zip(*half, strict=True), strict=True):
        quarter = max(1, len(values) // 4)
        ends = [sum(part) / len(part) for part in (values[:quarter], values[-quarter:])]
        if ends[1] > (1.01 if count >= 1000 else 1.1) * ends[0]:  # a short one still warms up
            figure.wrong.append(f"{name}: {ends[0]:.0f}, later {ends[1]:.0f}")
    figure.wrong += [f"{name} is left" for name in leftovers(folder)]
    yield figure


FAULTS = {
    "kill": kill,
    "disk": disk,
    "tmpfs": tmpfs,
    "power": power,
    "flips": flips,
    "crowd": crowd,
    "signals": signals,
    "soak": soak,
}


def main() -> int:
    """Play the faults and print the table; the exit code is 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if SHIM not in os.environ:
        return _with_shim()
    names = options.faults or list(FAULTS)
    _warm_up()
    figures = []
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4e9
    place = MEMORY if in_memory else None  # flushing a disk so often takes minutes
    with tempfile.TemporaryDirectory(dir=place) as folder, ThreadPoolExecutor(1) as beside:
        bench = Bench(Path(folder).resolve(), options.share, options.seed)
        # The soak is one long process, which leaves a core idle: it runs beside the other faults.
        soaked = beside.submit(lambda: list(soak(bench))) if "soak" in names else None
        for name in names:
            for figure in soaked.result() if name == "soak" and soaked else FAULTS[name](bench):
                figures.append(figure)
                print(
                    f"{figure.name}: {figure.cases} cases, {len(figure.wrong)} wrong, "
                    f"{figure.seconds:.0f} s",
                    flush=True,
                )
                for wrong in figure.wrong[:20]:
                    print(f"    {wrong}")
    if options.json:
        options.json.write_text(json.dumps([vars(figure) for figure in figures], indent=1))
    return int(any(figure.wrong for figure in figures))


def _with_shim() -> int:
    """Compile the shim and start again with it."""
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder) / "shim.so"
        compiler = os.environ.get("CC", "cc")
        flags = ["-O1", "-w", "-shared", "-fPIC", "-ldl"]
        subprocess.run([compiler, HERE / "shim.c", "-o", shim, *flags], check=True)
        own = {"LD_PRELOAD": str(shim), SHIM: str(shim), "OMP_NUM_THREADS": "1"}
        path = os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
        again = [sys.executable, *sys.argv]
        return subprocess.call(again, env={**os.environ, **own, "PYTHONPATH": path})


def _warm_up() -> None:
    """Train once in this process, so that no child has to import or compile anything."""
    import torch
    from torch.utils import tensorboard

    from noisy_kd.cli.main import main
    from noisy_kd.training import dashboard, provenance

    provenance.provenance()
    dashboard.confusion_matrix = lambda *_: None
    tensorboard.SummaryWriter.add_figure = lambda *_, **__: None
    torch.set_num_threads(1)
    here, arguments, said = os.getcwd(), sys.argv, io.StringIO()
    for case in CASES.values():
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(said):
            os.chdir(folder)
            sys.argv = ["noisy-kd", *case]
            assert main() == 0, said.getvalue()
            os.chdir(here)
    sys.argv = arguments
    gc.collect()
    gc.freeze()  # children share these pages


if __name__ == "__main__":
    sys.exit(main())
