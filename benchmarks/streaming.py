"""python -m benchmarks.streaming: images mapped from the store beside the same images in memory.

Samples/s of the training's dataloader, decoded images to preprocessed mini-batches, no network.
Both take turns in every round; medians over rounds, and their ratio, which should be 0.9 or more.
The file is in the page cache unless it is larger than the memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from noisy_kd import ImageFolderDataModule
from noisy_kd.data.sources import Images, Source
from noisy_kd.data.store import get_or_make


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    shape = (options.images, 3, options.side, options.side)

    def random_images(_: Path) -> dict[str, dict[str, Tensor]]:
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
        return {"tensors": {"pixels": pixels}, "facts": {}}

    with tempfile.TemporaryDirectory() as folder:
        made_by = {"data": "random", "layers": ""}
        mapped = get_or_make(Path(folder), "images", made_by, random_images)[0]["pixels"]
        speeds = streaming({"mapped": mapped, "in memory": mapped.clone()}, options.rounds)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"{options.images:,} images of 3x{options.side}x{options.side}")
    for name, values in speeds.items():
        low, high = min(values), max(values)
        print(f"{name:10} {medians[name]:10,.0f} samples/s ({low:,.0f}-{high:,.0f})")
    print(f"ratio      {medians['mapped'] / medians['in memory']:10.3f}")


def streaming(pixels: dict[str, Tensor], rounds: int) -> dict[str, list[float]]:
    """Return the samples/s of every round, after one epoch that is not counted."""
    loaders = {name: _data(images).train_dataloader() for name, images in pixels.items()}
    speeds: dict[str, list[float]] = {name: [] for name in pixels}
    for _ in range(rounds + 1):
        for name, batches in loaders.items():
            start = time.perf_counter()
            samples = sum(len(x) for x, _ in batches)
            speeds[name].append(samples / (time.perf_counter() - start))
    return {name: values[1:] for name, values in speeds.items()}


def _data(pixels: Tensor) -> ImageFolderDataModule:
    images = Images(pixels, torch.arange(len(pixels)) % 2)
    source = Source(images, Images(pixels[:2], images.labels[:2]), ("cat", "dog"), digest="random")
    data = ImageFolderDataModule(val_size=0, source=source)
    data.setup()
    return data


if __name__ == "__main__":
    main()
