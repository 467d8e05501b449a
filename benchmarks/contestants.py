"""python -m benchmarks.contestants NAME SETTING: one contestant in a process of its own, as JSON.

Every contestant trains the papers' student on the same random images with a frozen teacher, by
mini-batches of 64, on the noisy teacher's target (KD_Lib: its own), and prints the samples per
second of training. Nothing is validated, saved or shown; the first steps are not timed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

from noisy_kd.cli.arguments import compose
from noisy_kd.config import Config
from noisy_kd.data.datamodules import CIFAR10DataModule, ImageDataModule, MNISTDataModule
from noisy_kd.data.sources import Images, Source
from noisy_kd.method import LogitNoise, logit_regression
from noisy_kd.model import complexity
from noisy_kd.model.device import resolve_precision
from noisy_kd.training import build, numerics
from noisy_kd.training.students import Run, TeacherOutputs, train_students
from noisy_kd.training.teacher import frozen

BATCH = 64
STACK = 11
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Problem:
    """What is trained: data, teacher, student's settings; ``precision`` is ``32`` or ``bf16``."""

    config: Config
    data: ImageDataModule
    x: Tensor
    y: Tensor
    teacher: nn.Module
    logits: Tensor
    precision: str
    steps: int

    def student(self) -> nn.Module:
        return build.student(self.config, self.data)

    @property
    def noise(self) -> LogitNoise:
        return LogitNoise(self.config.method["alpha"], self.config.method["sigma"])

    def autocast(self) -> torch.autocast:
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.precision == "bf16")


def problem(setting: str, steps: int, precision: str) -> Problem:
    """Random images of the data set's shape, nets with random weights.

    Args:
        setting: ``mnist`` or ``cifar10``.
        steps: of mini-batches, in an epoch.
        precision: ``32``, or ``auto``: bf16 on a device with bf16 units.
    """
    kind = {"mnist": MNISTDataModule, "cifar10": CIFAR10DataModule}[setting]
    shape = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}[setting]
    config = compose([f"data={setting}", "data.val_size=0"])
    count, g = steps * BATCH // kind.own_views.per_epoch, torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, *shape), generator=g, dtype=torch.uint8)
    labels = torch.arange(count) % 10
    few = Images(pixels[:100], labels[:100])
    source = Source(Images(pixels, labels), few, tuple("0123456789"))
    data = kind(val_size=0, source=source)
    data.setup()
    dataset = data.training_set()
    x, y = dataset[torch.arange(len(dataset))]
    teacher = frozen(build.teachers(config, data)[0])
    with torch.no_grad():
        logits = torch.cat([teacher(part) for part in x[:256].split(64)])
    logits = logits.repeat(-(-len(x) // len(logits)), 1)[: len(x)]
    precision = resolve_precision(precision, True, DEVICE)
    return Problem(config, data, x, y, teacher, logits, precision, steps)


def timed(steps: Iterator[None], samples: int) -> float:
    """Samples per second, the first tenth of the steps not counted."""
    times = [time.perf_counter() for _ in steps]
    wait()
    return rate([*times[:-1], time.perf_counter()], samples)


def rate(times: list[float], samples: int) -> float:
    """Samples per second from the ends of steps."""
    warm = max(1, len(times) // 10)
    return samples * (len(times) - 1 - warm) / (times[-1] - times[warm])


def wait() -> None:
    """Until a GPU is done with all it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def ours(p: Problem, students: int = 1, fast: bool = True) -> float:
    """This project's student stage with its own defaults: what further epochs take."""
    seconds = []
    lengths = (1, 2) if DEVICE.type == "cpu" else (1, 1, 4)  # a GPU has to be woken up first
    how = numerics.set_up(p.precision, fast, DEVICE)
    p.data.to(DEVICE)
    outputs = TeacherOutputs(p.teacher, p.logits[:, None], p.logits[:1, None])
    for epochs in lengths:
        common = [f"data={p.data.name}", "data.val_size=0", "callbacks=quiet", "logger=csv"]
        common += [f"trainer.max_epochs={epochs}", f"precision={p.precision}", f"fast={fast}"]
        configs = [compose([*common, f"method.sigma={k / 10}"]) for k in range(students)]
        runs = [Run(one, build.method(one), build.student(one, p.data)) for one in configs]
        with tempfile.TemporaryDirectory() as folder:
            places = [Path(folder) / str(k) for k in range(students)]
            for place in places:
                place.mkdir()
            done = train_students(runs, places, p.data, outputs, how)
        seconds.append(done[0].seconds)
    samples = students * len(p.x) * (lengths[-1] - lengths[-2])
    return samples / (seconds[-1] - seconds[-2])


def lightning_plain(p: Problem) -> float:
    """A LightningModule as one writes it: DataLoader, the teacher on every batch, one log."""
    from lightning import LightningModule, Trainer

    class Plain(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.teacher, self.times = p.student(), p.teacher, []

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            x, _ = batch
            with torch.no_grad():
                z = p.noise(self.teacher(x))
            loss = logit_regression(self.net(x), z)
            self.log("loss", loss)
            return loss

        def on_train_batch_end(self, *_: object) -> None:
            if len(self.times) == p.steps - 1:
                wait()
            self.times.append(time.perf_counter())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.net.parameters())

    module = Plain()
    trainer = Trainer(
        max_epochs=1,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        precision={"32": "32-true", "bf16": "bf16-mixed"}[p.precision],  # type: ignore[arg-type]
    )
    trainer.fit(module, DataLoader(TensorDataset(p.x, p.y), BATCH, shuffle=True))
    return rate(module.times, BATCH)


def pytorch_plain(p: Problem) -> float:
    """A plain loop: DataLoader, the teacher under no_grad on every batch, Adam."""
    net = p.student().to(DEVICE)
    teacher = p.teacher.to(DEVICE)
    optimizer = torch.optim.Adam(net.parameters())

    def steps() -> Iterator[None]:
        for x, _ in DataLoader(TensorDataset(p.x, p.y), BATCH, shuffle=True):
            with p.autocast():
                x = x.to(DEVICE)
                with torch.no_grad():
                    z = p.noise(teacher(x).float())
                g = net(x)
            update(optimizer, logit_regression(g.float(), z))
            yield

    return timed(steps(), BATCH)


def hand_loop(p: Problem) -> float:
    """Every trick by hand: cached logits, index batches, fused Adam, channels last."""
    how = numerics.set_up(p.precision, True, DEVICE)
    net = how.place(p.student())
    x, z = how.to_channels_last(p.x.to(DEVICE)), p.logits.to(DEVICE)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)

    def steps() -> Iterator[None]:
        for rows in torch.randperm(len(x)).split(BATCH):
            with how.autocast():
                g = net(how.to_channels_last(x[rows]))
            update(optimizer, logit_regression(g.float(), p.noise(z[rows])))
            yield

    return timed(steps(), BATCH)


def kd_lib(p: Problem) -> float:
    """KD_Lib's NoisyTeacher as its users call it; its text half, which needs more, is left out."""
    sys.modules["KD_Lib.KD.text"] = _Anything("KD_Lib.KD.text")
    from KD_Lib.KD.vision.noisy.noisy_teacher import NoisyTeacher

    net, loader = p.student().to(DEVICE), DataLoader(TensorDataset(p.x, p.y), BATCH, shuffle=True)
    times: list[float] = []

    def step(*_: object) -> None:
        if len(times) == p.steps - 1:
            wait()
        times.append(time.perf_counter())

    net.register_forward_hook(step)
    teacher = p.teacher.to(DEVICE)
    optimizers = [torch.optim.Adam(one.parameters()) for one in (teacher, net)]
    few = DataLoader(TensorDataset(p.x[:64], p.y[:64]), 64)
    with p.autocast():
        distiller = NoisyTeacher(
            teacher.requires_grad_(), net, loader, few, *optimizers, device=DEVICE.type
        )
        distiller.train_student(epochs=1, plot_losses=False, save_model=False)
    return rate(times[: p.steps], BATCH)


def torchdistill(p: Problem) -> float:
    """torchdistill's DistillationBox with the squared error on logits (it has no noise)."""
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.losses.registry import register_mid_level_loss

    @register_mid_level_loss
    class HalfSquaredError(nn.Module):
        def forward(self, student: dict, teacher: dict, targets: Tensor) -> Tensor:  # type: ignore[type-arg]
            return logit_regression(student["."]["output"], teacher["."]["output"])

    net, teacher = p.student().to(DEVICE), p.teacher.to(DEVICE)
    io = {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": True}
    config = {
        "num_epochs": 1,
        "train_data_loader": {"dataset_id": "train", "sampler": {"class_or_func": RandomSampler}},
        "val_data_loader": {"dataset_id": "val", "sampler": {"class_or_func": SequentialSampler}},
        "teacher": {**io, "requires_grad": False},
        "student": io,
        "optimizer": {"key": "Adam", "kwargs": {"lr": 0.001}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "ours": {"criterion": {"key": "HalfSquaredError", "kwargs": {}}, "weight": 1.0}
                },
                "model_term": {"weight": 0.0},
            },
        },
    }
    loader = DataLoader(TensorDataset(p.x, p.y), BATCH, shuffle=True)
    for part in ("train_data_loader", "val_data_loader"):
        config[part]["kwargs"] = {"batch_size": BATCH}  # type: ignore[index]
    sets = {"train": loader.dataset, "val": TensorDataset(p.x[:64], p.y[:64])}
    box = get_distillation_box(teacher, net, sets, config, DEVICE, [], False, 1.0)

    def steps() -> Iterator[None]:
        box.pre_epoch_process(epoch=0)
        teacher.eval()
        for x, y, extra in box.train_data_loader:
            with p.autocast():
                loss = box.forward_process(x.to(DEVICE), y.to(DEVICE), extra)
            box.post_forward_process(loss)
            yield

    return timed(steps(), BATCH)


def gemm(p: Problem) -> float:
    """Multiplications per second of a product of 2048 x 2048 matrices."""
    dtype = torch.bfloat16 if p.precision == "bf16" else torch.float32
    a = torch.ones(2048, 2048, dtype=dtype, device=DEVICE)
    best = float("inf")
    for _ in range(12):
        wait()
        start = time.perf_counter()
        a @ a
        wait()
        best = min(best, time.perf_counter() - start)
    return 2048**3 / best


CONTESTANTS: dict[str, Callable[[Problem], float]] = {
    "ours": ours,
    "ours, fast=false": lambda p: ours(p, fast=False),
    f"ours, {STACK} students": lambda p: ours(p, STACK),
    "hand loop": hand_loop,
    "PyTorch loop": pytorch_plain,
    "Lightning module": lightning_plain,
    "KD_Lib": kd_lib,
    "torchdistill": torchdistill,
    "GEMM": gemm,
}


class _Anything(types.ModuleType):
    """A module in which every name is there."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> type:
        return type(name, (), {})


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """A step of the optimiser."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main() -> None:
    """Run one contestant and print what it reached."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contestants", description=__doc__)
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("setting", choices=["mnist", "cifar10"])
    parser.add_argument("--precision", choices=["32", "auto"], default="32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--allocator", action="store_true", help="the settings of this project")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    if options.allocator:
        numerics.set_up("32", True, DEVICE)
    p = problem(options.setting, options.steps, options.precision)
    speed = CONTESTANTS[options.name](p)
    cost = complexity.multiplications(p.student(), p.data.input_shape)
    print(json.dumps({"samples_per_second": speed, "multiplications": cost}))


if __name__ == "__main__":
    main()
