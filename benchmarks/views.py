"""python -m benchmarks.views: what views cost a student's step and the teacher's logit pass.

A chunk of 16 mini-batches of 64 images like CIFAR-10's: making the views, then the steps. Mirror
images, crops and strong views take turns in every round; medians over rounds, and their ratio to
mirror images. Then the logit pass over crops beside the teacher's forward pass on finished batches,
and its share of the peak, which is that of a float32 product of 2048 x 2048 matrices. On a GPU the
logit pass alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.contestants import DEVICE, wait
from noisy_kd import CIFAR10DataModule, Distiller, Views, logit_regression
from noisy_kd.cli.arguments import compose
from noisy_kd.config import Config
from noisy_kd.data.sources import Images, Source
from noisy_kd.model import complexity
from noisy_kd.training import build
from noisy_kd.training.logits import predict_logits
from noisy_kd.training.teacher import frozen

BATCH, STEPS = 64, 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.views", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    generator = torch.Generator().manual_seed(0)
    count = BATCH * STEPS * (1 if DEVICE.type == "cpu" else 16)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images = Images(pixels, torch.arange(len(pixels)) % 10)
    source = Source(images, images, tuple("0123456789"))
    config = compose(["data=cifar10"])
    counts = {"mirror": 2, "crops": 30, "strong": 30}
    kinds = {name: build.views(config, name, count) for name, count in counts.items()}
    for name in ("lenet_cifar", "shallow3") if DEVICE.type == "cpu" else ():
        own = compose(["data=cifar10", f"model@student={name}", "precision=32"])
        data = _data(source, kinds["crops"])
        student = build.network(own.student, data.input_shape, 10, seed=1)
        learner = _learner(own, student)
        chunks = {kind: _chunk(_data(source, views), learner) for kind, views in kinds.items()}
        times = _interleaved(chunks, rounds)
        for kind, seconds in times.items():
            speed = f"{len(pixels) / seconds:8,.0f} samples/s"
            print(f"{name:12} {kind:8} {speed}  {times['mirror'] / seconds:.3f} of mirror")
    for name in ("speednet", "nin"):
        _logit_pass(name, compose(["data=cifar10", f"model@teacher={name}"]), source, rounds)


def _logit_pass(name: str, config: Config, source: Source, rounds: int) -> None:
    data = _data(source, build.views(config, "crops", 30))
    data.to(DEVICE)
    network = build.network(config.teacher, data.input_shape, 10)
    cost = complexity.multiplications(network, data.input_shape)
    teacher, dataset = frozen(network).to(DEVICE), data.all_views()
    finished = [dataset[ids][0] for ids in torch.arange(len(dataset.rows)).split(500)]
    square = torch.randn(2048, 2048, device=DEVICE)

    def forward() -> None:
        with torch.no_grad():
            for x in finished:
                teacher(x)
        wait()

    def product() -> None:
        square @ square
        wait()

    ways = {"forward": forward, "pass": lambda: predict_logits(teacher, dataset, 1)}
    times = _interleaved({**ways, "product": product}, rounds)
    speed, peak = len(dataset.rows) / times["pass"], 2048**3 / times["product"]
    shares = f"{times['forward'] / times['pass']:.3f} of the forward, {speed * cost / peak:.2f}"
    print(f"logit pass of {name:8} {speed:10,.0f} samples/s  {shares} of the peak")


def _data(source: Source, views: Views) -> CIFAR10DataModule:
    data = CIFAR10DataModule(val_size=0, source=source, views=views)
    data.setup()
    return data


def _learner(config, student: nn.Module) -> Callable[..., None]:  # type: ignore[no-untyped-def]
    numerics = build.numerics(config)
    make = build.optimizer(config.optimizer, numerics)
    distiller = Distiller(numerics.place(student), method=logit_regression(), optimizer=make)
    distiller.numerics = numerics
    optimizer = distiller.make_optimizer()

    def learn(x: torch.Tensor, y: torch.Tensor) -> None:
        x = numerics.to_channels_last(x)
        for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
            optimizer.zero_grad()
            distiller.loss(images, labels, torch.zeros(len(labels), 10)).backward()
            optimizer.step()

    return learn


def _chunk(data: CIFAR10DataModule, learn: Callable[..., None]) -> Callable[[], None]:
    dataset = data.training_set()
    ids = torch.randperm(len(dataset.rows)) + len(dataset.rows)  # of view 1
    return lambda: learn(*dataset[ids])


def _interleaved(functions: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each function; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


if __name__ == "__main__":
    main()
