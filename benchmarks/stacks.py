"""python -m benchmarks.stacks: ways to train several students at once on one device.

Each way makes the same steps (the noise drawn anew, squared error on logits, fused Adam,
mini-batches of 64, bf16 on a device with bf16 units) of K nets on random images, again and again;
samples/s summed over the nets, medians. On a GPU this decided how a stack is trained there
(docs/performance.md).
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from benchmarks.contestants import BATCH, DEVICE, Problem, problem, update, wait
from noisy_kd.method.losses import logit_regression
from noisy_kd.training.compiled import CompiledStudent, Patches
from noisy_kd.training.graphs import Sums, capture
from noisy_kd.training.numerics import Numerics, set_up

CHUNK = 16  # mini-batches in one call, as in training
Way = Callable[[list[Callable[[], Sums]], list[torch.Generator]], Callable[[], object]]
"""From each net's steps, and what they draw from, to a function that makes the steps of all."""


def in_turn(steps: list[Callable[[], Sums]], _: list[torch.Generator]) -> Callable[[], object]:
    """Kernel by kernel, net by net."""
    return lambda: [one() for one in steps]


def graphs_in_turn(
    steps: list[Callable[[], Sums]], draws: list[torch.Generator]
) -> Callable[[], object]:
    """A CUDA graph for each net, one after another."""
    replays, _ = _captured(steps, draws)
    return lambda: [replay() for replay in replays]


def graphs_at_once(
    steps: list[Callable[[], Sums]], draws: list[torch.Generator]
) -> Callable[[], object]:
    """A CUDA graph for each net on a stream of its own: what training does."""
    replays, streams = _captured(steps, draws)

    def launch() -> None:
        here = torch.cuda.current_stream(DEVICE)
        for replay, stream in zip(replays, streams, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                replay()
        for stream in streams:
            here.wait_stream(stream)

    return launch


def _captured(
    steps: list[Callable[[], Sums]], draws: list[torch.Generator]
) -> tuple[list[Callable[[], Sums]], list[torch.cuda.Stream]]:
    streams = [torch.cuda.Stream(DEVICE) for _ in steps]
    each = zip(steps, draws, streams, strict=True)
    return [capture(one, [generator], stream) for one, generator, stream in each], streams


def stacked(
    p: Problem, count: int, numerics: Numerics
) -> tuple[Callable[[], Sums], torch.Generator]:
    """The nets as one: weights [K, ...], ``vmap`` (batched products, grouped convolutions)."""
    nets = [numerics.place(p.student()) for _ in range(count)]
    weights, _ = stack_module_state([_Computed(net, numerics) for net in nets])
    base = _Computed(nets[0].to("meta"), numerics)
    optimizer = _adam(list(weights.values()), numerics)
    generator = torch.Generator(DEVICE).manual_seed(0)
    x, z = _chunk(p, numerics)

    def forward(own: dict[str, Tensor], images: Tensor) -> Tensor:
        out: Tensor = functional_call(base, own, images)
        return out

    def steps() -> Sums:
        total = torch.zeros((), device=DEVICE)
        for images, logits in zip(x.split(BATCH), z.split(BATCH), strict=True):
            g_KBC = torch.vmap(forward, in_dims=(0, None))(weights, images)
            targets = p.noise(logits.repeat(count, 1), generator)
            loss = logit_regression(g_KBC.flatten(0, 1), targets) * count
            update(optimizer, loss)
            total = total + loss.detach()
        return {"loss": total}

    return steps, generator


class _Computed(nn.Module):
    """A net, computed as in training."""

    def __init__(self, net: nn.Module, numerics: Numerics) -> None:
        super().__init__()
        self.net, self.numerics = net, numerics

    def forward(self, x: Tensor) -> Tensor:
        return self.numerics.logits(self.net, x)


def single(p: Problem, numerics: Numerics, seed: int) -> tuple[Callable[[], Sums], torch.Generator]:
    """A net of its own, and its steps."""
    net = numerics.place(p.student())
    optimizer = _adam(list(net.parameters()), numerics)
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return partial(_steps, p, net, optimizer, generator, *_chunk(p, numerics), numerics), generator


def compiled_singles(
    p: Problem, count: int, numerics: Numerics
) -> list[tuple[Callable[[], Sums], torch.Generator]]:
    """Nets of their own, compiled; the patches of the images are made once for all."""
    made, (x, z) = [], _chunk(p, numerics)
    shared: Patches | None = None
    for seed in range(count):
        net = numerics.place(p.student())
        optimizer = _adam(list(net.parameters()), numerics)
        generator = torch.Generator(DEVICE).manual_seed(seed)
        _steps(p, net, optimizer, generator, x, z, numerics)  # the optimiser makes its state
        if shared is None and isinstance(net[0], nn.Conv2d):
            shared = Patches(net[0])
            shared.make(x)
        fast = CompiledStudent(net, optimizer, shared)
        given = x if shared is None else shared.now
        made.append((partial(_compiled_steps, p, fast, generator, given, z), generator))
    return made


def _compiled_steps(
    p: Problem, fast: CompiledStudent, generator: torch.Generator, x: Tensor, z: Tensor
) -> Sums:
    fast.refresh()
    total = torch.zeros((), device=DEVICE)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        for images, logits in zip(x.split(BATCH), z.split(BATCH), strict=True):
            loss = logit_regression(fast.logits(images), p.noise(logits, generator))
            loss.backward()
            fast.step()
            total = total + loss.detach()
    return {"loss": total}


def _steps(
    p: Problem,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    x: Tensor,
    z: Tensor,
    numerics: Numerics,
) -> Sums:
    total = torch.zeros((), device=DEVICE)
    for images, logits in zip(x.split(BATCH), z.split(BATCH), strict=True):
        loss = logit_regression(numerics.logits(net, images), p.noise(logits, generator))
        update(optimizer, loss)
        total = total + loss.detach()
    return {"loss": total}


def _adam(weights: list[Tensor], numerics: Numerics) -> torch.optim.Optimizer:
    rate = torch.tensor(1e-3, device=DEVICE) if numerics.graphs else 1e-3
    return torch.optim.Adam(weights, lr=rate, fused=True, capturable=numerics.graphs)


def _chunk(p: Problem, numerics: Numerics) -> tuple[Tensor, Tensor]:
    rows = slice(0, CHUNK * BATCH)
    return numerics.to_channels_last(p.x[rows].to(DEVICE)), p.logits[rows].to(DEVICE)


def speed(launch: Callable[[], object], samples: int, seconds: float) -> float:
    """Samples per second of one call of ``launch``: the median over some seconds of calls."""
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        launch()
        wait()
        times.append(time.perf_counter() - start)
    return samples / statistics.median(times)


def measure(p: Problem, count: int, seconds: float) -> dict[str, float]:
    """Way -> samples/s, summed over ``count`` nets."""
    numerics = set_up(p.precision, True, DEVICE)
    ways: dict[str, Way] = {"in turn": in_turn}
    if DEVICE.type == "cuda":
        ways |= {"graphs in turn": graphs_in_turn, "graphs at once": graphs_at_once}
    as_one: dict[str, Way] = {"vmap": in_turn} if count > 1 else {}
    if as_one and DEVICE.type == "cuda":
        as_one["vmap, a graph"] = graphs_in_turn
    found = {}
    with numerics.matmul_precision():
        for name, way in ways.items():
            steps, draws = zip(*(single(p, numerics, k) for k in range(count)), strict=True)
            found[name] = _measured(way, list(steps), list(draws), count, seconds)
        if DEVICE.type == "cuda" and numerics.precision == "bf16":
            steps, draws = zip(*compiled_singles(p, count, numerics), strict=True)
            way = graphs_at_once
            found["compiled"] = _measured(way, list(steps), list(draws), count, seconds)
        for name, way in as_one.items():
            step, generator = stacked(p, count, numerics)
            found[name] = _measured(way, [step], [generator], count, seconds)
    return found


def _measured(
    way: Way,
    steps: list[Callable[[], Sums]],
    draws: list[torch.Generator],
    count: int,
    seconds: float,
) -> float:
    for one in steps:  # the optimiser makes its state
        one()
    launch = way(steps, draws)
    launch()
    return speed(launch, CHUNK * BATCH * count, seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stacks", description=__doc__)
    both = ("mnist", "cifar10")
    parser.add_argument("--settings", nargs="+", choices=both, default=both)
    parser.add_argument("--counts", nargs="+", type=int, default=(1, 11), help="of students")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    if min(options.counts) < 1:
        parser.error("--counts: at least one student.")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for setting in options.settings:
        p = problem(setting, CHUNK, "auto")
        for count in options.counts:
            ways = measure(p, count, options.seconds)
            found.setdefault(setting, {})[str(count)] = ways
            each = ", ".join(f"{name} {value:,.0f}" for name, value in ways.items())
            print(f"{setting}, {count} students, samples/s: {each}", flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
