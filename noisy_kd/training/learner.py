"""The training loop: one LightningModule for the teacher, for one student, and for several.

Shapes: B samples in a mini-batch, C classes, K nets side by side, N samples, V x M views of images.

The K nets see the same data and differ in their method, seed or optimiser. They take turns on each
mini-batch, draw from generators keyed by their own seed and the epoch, and so learn exactly what
they would learn alone. Nothing is read from the device within an epoch.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from noisy_kd.data import ImageTable, generator_key, keyed_generator, loader
from noisy_kd.method import Method
from noisy_kd.model.layers import set_dropout_generator
from noisy_kd.training.graph import Graphed, Sums
from noisy_kd.training.hardware import Numerics
from noisy_kd.training.hints import HintStage

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "step": lambda done: 0.1 ** ((done >= 0.5) + (done >= 0.75)),
}
"""Factor of the learning rate when the share ``done`` of all steps has been made."""

DRAWS = ("noise", "dropout", "teacher dropout")
"""What a net draws random numbers for in its steps, each from a generator of its own."""


@dataclass
class Member:
    """One net in training.

    Args:
        net: the network, with its initial weights.
        method: what it learns from.
        seed: decides batch order, noise and dropout.
        optimizer: makes the optimiser from the parameters.
        schedule: of the learning rate, a key of :data:`SCHEDULES`.
        averaging: of the weights that are judged and kept: ``none``; ``ema``, an exponential
            moving average over steps; ``swa``, the mean over the epochs of the last quarter.
        ema_decay: of ``ema``.
        teacher: asked at each step, in a method that wants it live.
        hint: the first stage on a middle layer, in a method that has one.
    """

    net: nn.Sequential
    method: Method
    seed: int
    optimizer: Callable[[Any], torch.optim.Optimizer]
    schedule: str = "linear"
    averaging: str = "none"
    ema_decay: float = 0.999
    teacher: nn.Sequential | None = None
    hint: HintStage | None = None
    target: Tensor | None = field(default=None, repr=False)
    clean_target: Tensor | None = field(default=None, repr=False)


class Learner(LightningModule):
    """Trains K nets on the samples of one table.

    Args:
        members: the nets and how each learns.
        table: the training samples.
        validation_table: the held-out images, possibly none.
        teacher_logits: of all V x M views of all images, [V * M, C], or of T teachers,
            [V * M, T, C]; None without a teacher.
        batch_size: B.
        epochs: in all; the learning rate's schedule ends there.
        numerics: how nets are computed.
    """

    def __init__(
        self,
        members: list[Member],
        table: ImageTable,
        validation_table: ImageTable,
        teacher_logits: Tensor | None,
        batch_size: int,
        epochs: int,
        numerics: Numerics,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.nets = nn.ModuleList(member.net for member in members)
        self.hints = nn.ModuleList(m.hint or nn.Identity() for m in members)
        self.averages = [_average(member) for member in members]
        self.needs_two = [
            any(isinstance(m, _BatchNorm) for m in net.modules()) for net in self.nets
        ]
        self.imported = [
            any(hasattr(m, "import_path") for m in net.children()) for net in self.nets
        ]
        self.members, self.teacher_logits = members, None
        if teacher_logits is not None:
            self.teacher_logits = teacher_logits.view(
                len(teacher_logits), -1, teacher_logits.shape[-1]
            )
        self.table, self.validation_table = table, validation_table
        self.batch_size, self.epochs, self.numerics = batch_size, epochs, numerics
        self.steps_per_epoch = -(-len(table) // batch_size)
        self.seconds_before = 0.0  # in an earlier process, when this training goes on from there
        self.seconds_trained = 0.0
        self.diverged = [False] * len(members)
        self.stopped: list[int | None] = [None] * len(members)  # after which epoch, by patience
        self.interrupted = False  # by Ctrl-C
        self._sums: list[dict[str, Tensor | float]] = []
        self._metrics: list[dict[str, float]] | None = None

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser per net."""
        return [
            m.optimizer([*m.net.parameters(), *(m.hint.regressor.parameters() if m.hint else ())])
            for m in self.members
        ]

    def on_fit_start(self) -> None:
        """Draw the noise that is drawn once, and look up every training sample's target."""
        self._started = time.perf_counter()
        self.draws = [
            {purpose: torch.Generator(self.device) for purpose in DRAWS} for _ in self.nets
        ]
        for net, draws in zip(self.nets, self.draws, strict=True):
            set_dropout_generator(net, draws["dropout"])
        if self.teacher_logits is None:
            return
        samples = torch.arange(len(self.table))
        z_NTC = self.teacher_logits.to(self.device)[self.table.place(samples)]
        for member in self.members:
            generator = keyed_generator(member.seed, "frozen noise", device=z_NTC.device)
            member.target = member.method.fixed_target(z_NTC, generator)
            if member.method.moves_target:
                member.clean_target = member.method.clean_target(z_NTC)

    def on_train_start(self) -> None:
        """Decide how each net's steps are made."""
        self.steps = [
            Graphed(partial(self._steps, k), self.nets[k], optimizer, list(self.draws[k].values()))
            if self._may_be_graphed(k)
            else partial(self._steps, k)
            for k, optimizer in enumerate(self._optimizers())
        ]
        for optimizer, steps in zip(self._optimizers(), self.steps, strict=True):
            for group in optimizer.param_groups if isinstance(steps, Graphed) else ():
                group["lr"] = torch.tensor(optimizer.defaults["lr"], device=self.device)

    def on_train_epoch_start(self) -> None:
        """Key every generator by seed and epoch."""
        self._metrics = None
        self._sums = [{} for _ in self.members]
        self.own_generators = [
            keyed_generator(m.seed, "own draws", self.current_epoch) for m in self.members
        ]
        rank = self.trainer.global_rank  # devices that share a mini-batch draw each its own
        for member, draws in zip(self.members, self.draws, strict=True):
            for purpose, generator in draws.items():
                name = f"{purpose} {rank}" if rank else purpose
                generator.manual_seed(generator_key(member.seed, name, self.current_epoch))

    def training_step(self, batch: dict[int, Any], batch_idx: int) -> None:
        """Several mini-batches (a chunk for each distinct seed): every net takes its turn."""
        if self.interrupted:
            raise KeyboardInterrupt
        made: dict[int, Sums] = {}
        used = []  # until all graphs have been joined: they read beside what is allocated here
        for k, member in enumerate(self.members):
            if self.active[k]:
                x, y, samples = batch[member.seed]
                used.append(self.numerics.arrange(x))
                rates = self._rates(k, batch_idx * self.chunk_steps, len(y))
                made[k] = self.steps[k](used[-1], y, samples, rates)
        for k, sums in made.items():
            steps = self.steps[k]
            if isinstance(steps, Graphed):
                steps.join()
            self._add(k, **sums)
            if batch_idx + 1 == self.trainer.num_training_batches:
                self._average_epoch(k)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count the errors on held-out images, and the agreements with the teacher."""
        x, y, samples = batch
        x = self.numerics.arrange(x)
        taught = None
        if self.teacher_logits is not None:
            places = self.validation_table.place(samples)
            z_BTC = self.teacher_logits[places.to(self.teacher_logits.device)]
            taught = self.members[0].method.clean_target(z_BTC).argmax(dim=1).to(self.device)
        for k in range(len(self.members)):
            guess = self.numerics.logits(self.judged(k), x).argmax(dim=1)
            self._add(k, val_count=len(y), val_errors=(guess != y).sum())
            if taught is not None:
                self._add(k, agreements=(guess == taught).sum())

    def metrics(self) -> list[dict[str, float]]:
        """What the epoch gave, one dict per net: the one read from the device in an epoch.

        A net whose loss is no longer finite is marked as diverged, and trained no further.
        """
        if self._metrics is None:
            self._metrics = [self._read(sums) for sums in self._sums]
            for k, metrics in enumerate(self._metrics):
                if self.active[k]:
                    self.diverged[k] = not math.isfinite(metrics.get("loss", math.nan))
            self.stop_if_done()
        return self._metrics

    @property
    def active(self) -> list[bool]:
        """Which nets are still in training: neither diverged nor out of patience."""
        pairs = zip(self.diverged, self.stopped, strict=True)
        return [not diverged and stopped is None for diverged, stopped in pairs]

    def stop(self, k: int) -> None:
        """Train net k no further; what it did until now counts."""
        if self.stopped[k] is None:
            self.stopped[k] = self.current_epoch + 1
        self.stop_if_done()

    def stop_if_done(self) -> None:
        """End the training when no net is in it any more."""
        self.trainer.should_stop = self.trainer.should_stop or not any(self.active)

    def may_be_kept(self, k: int) -> bool:
        """Whether the weights are of the kind that was asked for: averaged, with ``swa``."""
        average = self.averages[k]
        return self.members[k].averaging != "swa" or bool(average and int(average.n_averaged))

    def on_train_epoch_end(self) -> None:
        """Show the mean over the nets in the progress bar."""
        values = [m.get("val_error", m.get("loss", 0.0)) for m in self.metrics()]
        name = "val_error" if "val_error" in self.metrics()[0] else "loss"
        self.log(name, sum(values) / len(values), prog_bar=True)

    def on_fit_end(self) -> None:
        """Stop the clock."""
        self.seconds_trained = self.seconds

    def judged(self, k: int) -> nn.Module:
        """Net k with the weights that are judged and kept: averaged ones, where there are any."""
        average = self.averages[k]
        if average is not None and int(average.n_averaged) > 0:
            return average.module
        return self.nets[k]

    def state(self, k: int) -> dict[str, Any]:
        """What net k goes on from, besides its optimiser."""
        average = self.averages[k]
        return {
            "net": self.nets[k].state_dict(),
            "hint": self.hints[k].state_dict(),
            "average": None if average is None else average.state_dict(),
        }

    def load_state(self, k: int, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.nets[k].load_state_dict(state["net"])
        self.hints[k].load_state_dict(state["hint"])
        average = self.averages[k]
        if average is not None:
            average.load_state_dict(state["average"])

    def updates(self, k: int) -> int:
        """Steps of net k's optimiser, as it has counted them; 0 if it does not count."""
        states = list(self._optimizers()[k].state.values())
        return int(states[0].get("step", 0)) if states else 0

    @property
    def seconds(self) -> float:
        """Seconds of training so far, validation included, over all processes that shared it."""
        return self.seconds_before + time.perf_counter() - self._started

    @property
    def chunk_steps(self) -> int:
        """Mini-batches in one Lightning step: they share its overhead."""
        return chunk_steps(self.numerics, self.trainer.world_size)

    def _steps(self, k: int, x: Tensor, y: Tensor, samples: Tensor, rates_S: Tensor) -> Sums:
        """A step of net k for each of S mini-batches; of several devices each takes its share."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        sums: Sums = {}
        for i, start in enumerate(range(0, len(y) - world + 1, self.batch_size)):
            part = slice(start + rank, start + self.batch_size, world)
            smallest = min(self.batch_size, len(y) - start) // world  # share: all skip together
            if self.needs_two[k] and smallest < 2:
                continue  # batch normalisation of one sample is none
            self._set_rate(k, rates_S[i])
            for name, value in self._step(k, x[part], y[part], samples[part]).items():
                sums[name] = sums.get(name, 0) + value
        return sums

    def _step(self, k: int, x: Tensor, y: Tensor, samples: Tensor) -> Sums:
        """[NT] Algorithm 1, lines 4 to 8, for net k."""
        member, optimizer = self.members[k], self._optimizers()[k]
        sums: Sums = {}
        if member.hint is not None and self.current_epoch < member.hint.epochs:
            with self.numerics.autocast():
                loss = member.hint(x)
        else:
            loss, sums = self._loss(k, x, y, samples)
        optimizer.zero_grad()
        if self.trainer.world_size > 1:
            self.manual_backward(loss)  # also averages the gradients over the devices
        else:
            loss.backward()
        optimizer.step()
        average = self.averages[k]
        if average is not None and member.averaging == "ema":
            average.update_parameters(member.net)
        return sums | {"loss": loss.detach() * len(y), "count": len(y)}

    def _average_epoch(self, k: int) -> None:
        """At the end of an epoch: take it into the mean of the last quarter's."""
        average, late = self.averages[k], self.current_epoch + 1 > 0.75 * self.epochs
        if average is not None and self.members[k].averaging == "swa" and late:
            average.update_parameters(self.members[k].net)

    def _loss(self, k: int, x: Tensor, y: Tensor, samples: Tensor) -> tuple[Tensor, Sums]:
        """[NT] Algorithm 1, lines 4 to 7, with what the method adds to it."""
        member, generator = self.members[k], self.draws[k]["noise"]
        method, z_BC, sums = member.method, None, Sums()
        if member.teacher is not None:
            z_BC = method.step_target(self._ask(member.teacher, x, k), generator)
        elif member.target is not None:
            z_BC = method.step_target(member.target[samples], generator)
        if z_BC is not None and member.clean_target is not None:
            clean_BC = member.clean_target[samples]
            sums = {"moved": (z_BC - clean_BC).square().sum(), "size": clean_BC.square().sum()}
        x = method.step_input(x, generator)
        with self._own_draws(k):
            g_BC = self.numerics.logits(member.net, x)
        g_BC = method.step_output(g_BC, generator)
        return method.loss(g_BC, z_BC, method.step_labels(y, g_BC.shape[1], generator)), sums

    @contextmanager
    def _own_draws(self, k: int) -> Iterator[None]:
        """A module of one's own may draw from torch's global generator: keyed, then restored."""
        if not self.imported[k]:
            yield
            return
        seed = torch.randint(2**62, (1,), generator=self.own_generators[k])
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(seed))
            yield

    @torch.no_grad()
    def _ask(self, teacher: nn.Sequential, x: Tensor, k: int) -> Tensor:
        """A live teacher's logits, [B, C], with the dropout of net k."""
        set_dropout_generator(teacher, self.draws[k]["teacher dropout"])
        return self.numerics.logits(teacher, x)

    def _may_be_graphed(self, k: int) -> bool:
        """Whether net k's steps are the same work each time, without a look at the device."""
        member = self.members[k]
        changes = member.hint is not None or member.averaging == "ema" or self.imported[k]
        able = self.numerics.graphs and "capturable" in self._optimizers()[k].defaults
        return able and self.trainer.world_size == 1 and not changes

    def _rates(self, k: int, first: int, samples: int) -> Tensor:
        """The learning rates of the steps on so many samples, [S], on the CPU."""
        schedule, rate = SCHEDULES[self.members[k].schedule], self._optimizers()[k].defaults["lr"]
        steps = range(first, first - (-samples // self.batch_size))
        done = [(self.current_epoch + step / self.steps_per_epoch) / self.epochs for step in steps]
        return torch.tensor([rate * schedule(one) for one in done], dtype=torch.float64)

    def _set_rate(self, k: int, rate: Tensor) -> None:
        for group in self._optimizers()[k].param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(rate, non_blocking=True)
            else:
                group["lr"] = float(rate)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return list(self.trainer.optimizers)

    def _add(self, k: int, **values: Tensor | int) -> None:
        sums = self._sums[k]
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value

    def _read(self, sums: dict[str, Tensor | float]) -> dict[str, float]:
        read = {name: float(value) for name, value in sums.items()}
        metrics = {"loss": read["loss"] / read["count"]} if "count" in read else {}
        if "moved" in read:
            metrics["perturbation"] = read["moved"] / read["size"]
        if read.get("val_count"):
            metrics["val_errors"] = read["val_errors"]
            metrics["val_error"] = read["val_errors"] / read["val_count"]
        if "agreements" in read:
            metrics["agreement"] = read["agreements"] / read["val_count"]
        return metrics


def _average(member: Member) -> AveragedModel | None:
    if member.averaging == "none":
        return None
    decay = get_ema_multi_avg_fn(member.ema_decay) if member.averaging == "ema" else None
    return AveragedModel(member.net, multi_avg_fn=decay).eval()


@contextmanager
def _heard_interrupt(learner: Learner) -> Iterator[None]:
    """A Ctrl-C that falls into code which swallows exceptions (a finaliser) is not forgotten."""
    own = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if own or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        learner.interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def chunk_steps(numerics: Numerics, world_size: int = 1) -> int:
    """Mini-batches in one Lightning step; one where gradients are averaged over devices."""
    return 16 if numerics.fast and world_size == 1 else 1


def fit(learner: Learner, trainer: Trainer) -> None:
    """Train the learner's nets: a batch order per distinct seed, validation in large batches.

    Raises:
        KeyboardInterrupt: if the training was interrupted.
    """
    chunk = learner.batch_size * chunk_steps(learner.numerics, trainer.world_size)
    seeds = sorted({member.seed for member in learner.members})
    held_out = loader(learner.validation_table, 1000) if len(learner.validation_table) else None
    try:
        with learner.numerics.products(), _heard_interrupt(learner):
            trainer.fit(learner, {s: loader(learner.table, chunk, s) for s in seeds}, held_out)
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from error
    if trainer.interrupted:
        raise KeyboardInterrupt
