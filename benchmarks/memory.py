"""python -m benchmarks.memory: largest resident size of a run against the size of its data.

Files of the official formats with random pixels (CIFAR-10: the real ones, from NOISY_KD_DATA); one
epoch of a small net, so that what is measured is the data's share. SVHN's size needs 4 GB on disk.
"""

from __future__ import annotations

import argparse
import gzip
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TRAIN = str(Path(__file__).resolve().parent.parent / "train.py")
SIZES = {"mnist": (60_000, 10_000), "cifar10": (50_000, 10_000), "svhn": (604_388, 26_032)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--settings", default="mnist,cifar10,svhn")
    for setting in parser.parse_args().settings.split(","):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(os.environ.get("NOISY_KD_DATA", "data") if setting == "cifar10" else folder)
            if setting != "cifar10":
                {"mnist": write_mnist, "svhn": write_svhn}[setting](root)
            peak = run(setting, root, Path(folder))
        images = sum(SIZES[setting]) * (784 if setting == "mnist" else 3072)
        print(f"{setting}: {images / 1e9:.2f} GB of images, peak {peak / 1e9:.2f} GB")


def run(setting: str, root: Path, folder: Path) -> float:
    """Largest resident size, in bytes, of a whole run in a process of its own."""
    command = [sys.executable, TRAIN, f"data={setting}", f"data.root={root.resolve()}"]
    command += [f"store={folder}/store"]
    command += ["data.download=false", "teacher.layers=FC10", "student.layers=FC10"]
    command += ["teacher.max_epochs=1", "trainer.max_epochs=1", "callbacks=quiet", "logger=csv"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return 1024.0 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def write_mnist(folder: Path) -> None:
    """The four IDX files, compressed as they are published."""
    draws = np.random.default_rng(0)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in zip(("train", "t10k"), SIZES["mnist"], strict=True):
        pixels = draws.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = np.array([2051, count, 28, 28], dtype=">i4").tobytes()
        _gzip(raw / f"{name}-images-idx3-ubyte", head + pixels.tobytes())
        head = np.array([2049, count], dtype=">i4").tobytes()
        _gzip(
            raw / f"{name}-labels-idx1-ubyte", head + (np.arange(count) % 10).astype("u1").tobytes()
        )


def write_svhn(folder: Path) -> None:
    """The three .mat files."""
    from scipy.io import savemat

    draws = np.random.default_rng(0)
    for name, count in {"train": 73_257, "extra": 531_131, "test": 26_032}.items():
        pixels = draws.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        savemat(folder / f"{name}_32x32.mat", {"X": pixels, "y": labels})


def _gzip(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with gzip.open(f"{file}.gz", "wb", compresslevel=1) as packed:
        packed.write(content)


if __name__ == "__main__":
    main()
