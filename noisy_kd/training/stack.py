"""Several students side by side, each one a Distiller: the fast path.

Shapes: B samples in a mini-batch, C classes, K students, N training samples, S steps in a chunk,
T teachers.

The K students see the same data and differ in their method, seed or optimiser. They take turns on
each mini-batch, draw from generators keyed by their own seed and the epoch, and so learn exactly
what each would learn alone. Nothing is read from the device within an epoch.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from noisy_kd.data.dataset import keyed_generator, unpack
from noisy_kd.model.layers import has_batch_norm, seeded
from noisy_kd.model.network import draws_globally
from noisy_kd.training.distiller import Distiller
from noisy_kd.training.fit import TrainingSamples
from noisy_kd.training.graphs import Graphed, Sums
from noisy_kd.training.numerics import Numerics

if TYPE_CHECKING:
    from noisy_kd.training.compiled import Patches

WORTH_COMPILING = 1.5e12  # weights updated, over steps and students: a minute of lenet_cifar


class StudentStack(LightningModule):
    """Trains K students side by side; each learns what it would learn alone.

    Batches are those of :class:`Distiller`, or with ``samples`` chunks of mini-batches from
    :meth:`TrainingSamples.loaders`, for each distinct seed in an order of its own. The best epoch
    of each student is kept by :class:`noisy_kd.BestEpoch`. Logged is ``val/error``, the mean over
    the students; :meth:`metrics` has each one's own.

    Args:
        distillers: the students, and how each learns.
        samples: the training samples, for chunks of mini-batches.
        numerics: how networks are computed; None for float32 on the Trainer's device.
        clip: ``gradient_clip_val`` and ``gradient_clip_algorithm`` of each student's steps.

    Examples:
        >>> import lightning
        >>> from noisy_kd import DigitsDataModule, Distiller, StudentStack, network, noisy_teacher
        >>> teacher = network("FC64-FC10", (1, 8, 8))
        >>> students = [network("FC16-FC10", (1, 8, 8), seed=1) for _ in range(2)]
        >>> methods = [noisy_teacher(alpha=0.5, sigma=sigma) for sigma in (0.0, 0.9)]
        >>> stack = StudentStack([Distiller(s, teacher, m) for s, m in zip(students, methods)])
        >>> trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
        >>> trainer.fit(stack, DigitsDataModule())
        >>> [sorted(metrics) for metrics in stack.metrics()][0]
        ['agreement', 'loss', 'val_error', 'val_errors']
    """

    def __init__(
        self,
        distillers: Sequence[Distiller],
        samples: TrainingSamples | None = None,
        numerics: Numerics | None = None,
        clip: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.distillers: Sequence[Distiller] = nn.ModuleList(distillers)  # type: ignore[assignment]
        self.samples, self.clip = samples, dict(clip or {})
        self.numerics = numerics or Numerics(torch.device("cpu"), "32", fast=True)
        self._own_numerics = numerics is None
        weights = [id(p) for distiller in distillers for p in distiller.student.parameters()]
        if len(weights) > len(set(weights)):
            raise ValueError("students share weights: give each Distiller a network of its own.")
        self.needs_two = [has_batch_norm(distiller.student) for distiller in distillers]
        self.draws_globally = [draws_globally(distiller.student) for distiller in distillers]
        self.targets: list[Tensor | None] = [None] * len(distillers)
        self.clean_targets: list[Tensor | None] = [None] * len(distillers)
        self.chunk_steps = 1  # mini-batches in one Lightning step
        self.seconds_before = 0.0  # in an earlier process, when this training goes on from there
        self.seconds_trained = 0.0
        self.diverged = [False] * len(distillers)
        self.stopped: list[int | None] = [None] * len(distillers)  # after which epoch, by patience
        self.interrupted = False  # by Ctrl-C
        self.patches: dict[int, Patches] = {}  # of each seed's images, where students are compiled
        self._sums: list[Sums] = [{} for _ in distillers]
        self._metrics: list[dict[str, float]] | None = None

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimiser per student."""
        return [distiller.make_optimizer() for distiller in self.distillers]

    def on_fit_start(self) -> None:
        """Draw the noise that is drawn once, and look up every training sample's target."""
        self._started = time.perf_counter()
        if self._own_numerics:
            self.numerics = Numerics(self.device, "32", fast=True)
        for distiller in self.distillers:
            distiller.numerics = self.numerics
            distiller.begin_fit(self.device)
            if self.samples is None:
                distiller.check_noise(self.trainer)
        if self.samples is None or self.samples.z_NTC is None:
            return
        z_NTC = self.samples.z_NTC.to(self.device)
        for k, distiller in enumerate(self.distillers):
            if not distiller.fickle:  # else the teacher is asked at each step
                generator = keyed_generator(distiller.seed, "frozen noise", device=self.device)
                self.targets[k] = distiller.method.fixed_target(z_NTC, generator)
            if distiller.method.moves_target:
                self.clean_targets[k] = distiller.method.clean_target(z_NTC)

    def on_train_start(self) -> None:
        """Decide how each student's steps are made."""
        self.steps: list[Callable[..., Sums]] = [
            partial(self._steps, k) for k in range(len(self.distillers))
        ]
        for k, (distiller, optimizer) in enumerate(
            zip(self.distillers, self.trainer.optimizers, strict=True)
        ):
            if self._may_be_graphed(k):
                how = (optimizer, list(distiller.draws.values()), self._compiled(k))
                self.steps[k] = Graphed(self.steps[k], distiller.student, *how)
                for group in optimizer.param_groups:
                    group["lr"] = torch.tensor(optimizer.defaults["lr"], device=self.device)
        self.on_train_epoch_start()  # which Lightning skips within an epoch

    def on_train_epoch_start(self) -> None:
        """Key every generator by seed and epoch."""
        self._metrics = None
        self._sums = [{} for _ in self.distillers]
        self.global_seeds = [
            keyed_generator(distiller.seed, "own draws", self.current_epoch)
            for distiller in self.distillers
        ]
        for distiller in self.distillers:
            distiller.begin_epoch(self.current_epoch, self.global_rank)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Let every student take its turn on a mini-batch, or on its seed's chunk of several."""
        if self.interrupted:
            raise KeyboardInterrupt
        made: dict[int, Sums] = {}
        answers: dict[int, Tensor] = {}  # of live teachers, by seed: students share them
        used = []  # until all graphs have been joined: they read beside what is allocated here
        for seed, patches in self.patches.items():
            patches.make(self.numerics.to_channels_last(batch[seed][0]))
        for k, distiller in enumerate(self.distillers):
            if self.active[k]:
                x, y, more = unpack(batch if self.samples is None else batch[distiller.seed])
                used.append(self.numerics.to_channels_last(x))
                if self.samples is not None and self.samples.teachers:
                    if distiller.seed not in answers:
                        answers[distiller.seed] = self._ask(used[-1])
                    more = answers[distiller.seed]
                rates = self._rates(k, batch_idx * self.chunk_steps, len(y))
                made[k] = self.steps[k](used[-1], y, more, rates)
        for k, sums in made.items():
            steps = self.steps[k]
            if isinstance(steps, Graphed):
                steps.join()
            _add(self._sums[k], sums)
            if batch_idx + 1 == self.trainer.num_training_batches:
                self.distillers[k].after_epoch(self.trainer.max_epochs or 0)

    @torch.no_grad()
    def _ask(self, x: Tensor) -> Tensor:
        """Return the logits [B, T, C] of the live teachers."""
        assert self.samples is not None
        return torch.stack([self.numerics.logits(t, x) for t in self.samples.teachers], dim=1)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count the errors on the validation set, and the agreements with the teacher."""
        if self.trainer.sanity_checking:
            return
        x, y, z = unpack(batch)
        x = self.numerics.to_channels_last(x)
        for k, distiller in enumerate(self.distillers):
            guess = self.numerics.logits(distiller.eval_model, x).argmax(dim=1)
            sums: Sums = {"val_count": len(y), "val_errors": (guess != y).sum()}
            clean = distiller.clean_target(x, z)
            if clean is not None:
                sums["agreements"] = (guess == clean.argmax(dim=1)).sum()
            _add(self._sums[k], sums)

    def metrics(self) -> list[dict[str, float]]:
        """Return what the epoch gave, one dict per student: the one read from the device in it.

        A student whose loss is no longer finite is marked as diverged, and trained no further.
        """
        if self._metrics is None:
            self._metrics = [_read(sums) for sums in self._sums]
            for k, metrics in enumerate(self._metrics):
                if self.active[k] and "loss" in metrics:
                    self.diverged[k] = not math.isfinite(metrics["loss"])
            self.stop_if_done()
        return self._metrics

    @property
    def active(self) -> list[bool]:
        """Which students are still in training: neither diverged nor out of patience."""
        pairs = zip(self.diverged, self.stopped, strict=True)
        return [not diverged and stopped is None for diverged, stopped in pairs]

    def stop(self, k: int) -> None:
        """Train student k no further; what it did until now counts."""
        if self.stopped[k] is None:
            self.stopped[k] = self.current_epoch + 1
        self.stop_if_done()

    def stop_if_done(self) -> None:
        """End the training when no student is in it any more."""
        self.trainer.should_stop = self.trainer.should_stop or not any(self.active)

    def may_be_kept(self, k: int) -> bool:
        """Return whether the weights may be chosen; with ``swa`` only averaged ones."""
        distiller = self.distillers[k]
        return distiller.averaging != "swa" or distiller.eval_model is not distiller.student

    def on_train_epoch_end(self) -> None:
        """Log the mean over the students."""
        values = [m.get("val_error", m.get("loss", 0.0)) for m in self.metrics()]
        name = "val/error" if "val_error" in self.metrics()[0] else "train/loss"
        self.log(name, sum(values) / len(values), prog_bar=True)

    def on_fit_end(self) -> None:
        """Stop the clock."""
        self.seconds_trained = self.seconds
        for distiller in self.distillers:
            distiller.on_fit_end()

    def updates(self, k: int) -> int:
        """Return the steps of student k's optimiser, as it has counted them; 0 if it does not."""
        states = list(self.trainer.optimizers[k].state.values())
        return int(states[0].get("step", 0)) if states else 0

    @property
    def seconds(self) -> float:
        """Seconds of training so far, validation included, over all processes that shared it."""
        return self.seconds_before + time.perf_counter() - self._started

    def _steps(self, k: int, x: Tensor, y: Tensor, more: Tensor | None, rates_S: Tensor) -> Sums:
        """A step of student k for each of S mini-batches; of several devices each takes its share.

        ``more``: sample ids where targets lie in tables, else the teacher's logits.
        """
        if self.samples is None:
            return self._step(k, x, y, more, more, rates_S[0])
        rank, world, batch_size = self.global_rank, self.trainer.world_size, self.samples.batch_size
        sums: Sums = {}
        for i, start in enumerate(range(0, len(y) - world + 1, batch_size)):
            part = slice(start + rank, start + batch_size, world)
            smallest = min(batch_size, len(y) - start) // world  # share: all skip together
            if self.needs_two[k] and smallest < 2:
                continue  # batch normalisation needs at least two samples
            assert more is not None
            tables = (self.targets[k], self.clean_targets[k])
            z, clean = (None if table is None else table[more[part]] for table in tables)
            if self.samples.teachers:
                z, clean = None if self.distillers[k].fickle else more[part], more[part]
            _add(sums, self._step(k, x[part], y[part], z, clean, rates_S[i]))
        return sums

    def _step(
        self, k: int, x: Tensor, y: Tensor, z: Tensor | None, clean: Tensor | None, rate: Tensor
    ) -> Sums:
        """[NT] Algorithm 1, lines 4 to 8, for student k."""
        distiller, optimizer = self.distillers[k], self.trainer.optimizers[k]
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(rate, non_blocking=True)
            else:
                group["lr"] = float(rate)
        distiller.target = None
        draws: AbstractContextManager[None] = nullcontext()
        if self.draws_globally[k]:
            seed = torch.randint(2**62, (1,), generator=self.global_seeds[k])
            draws = seeded(int(seed), self.device)
        with draws:
            loss = distiller.loss(x, y, z, distiller.draws["noise"])
        optimizer.zero_grad()
        if self.trainer.world_size > 1:
            self.manual_backward(loss)  # also averages the gradients over the devices
        else:
            loss.backward()
        if self.clip:
            self.clip_gradients(optimizer, **self.clip)
        (distiller.compiled or optimizer).step()
        distiller.after_step()
        sums: Sums = {"loss": loss.detach() * len(y), "count": len(y)}
        if distiller.target is not None and clean is not None and distiller.method.moves_target:
            clean = distiller.method.clean_target(clean) if clean.ndim == 3 else clean
            sums["moved"] = (distiller.target - clean).square().sum()
            sums["size"] = clean.square().sum()
        return sums

    def _may_be_graphed(self, k: int) -> bool:
        """Whether student k's steps are the same work each time, without a look at the device."""
        distiller = self.distillers[k]
        changes = distiller.hint is not None or distiller.averaging == "ema"
        able = self.numerics.graphs and "capturable" in self.trainer.optimizers[k].defaults
        single = self.samples is not None and self.trainer.world_size == 1 and not self.clip
        return able and single and not (changes or self.draws_globally[k])

    def _compiled(self, k: int) -> Callable[..., Sums] | None:
        """Student k's steps, compiled; None where that is not possible, or would take too long."""
        assert self.samples is not None
        weights = sum(p.numel() for p in self.distillers.parameters())  # type: ignore[attr-defined]
        if weights * self.samples.steps * (self.trainer.max_epochs or 0) < WORTH_COMPILING:
            return None
        from noisy_kd.training import compiled  # loads torch's compiler

        plain, student = partial(self._steps, k), (self.distillers[k], self.trainer.optimizers[k])
        return compiled.steps(plain, *student, self.numerics, self.patches)

    def _rates(self, k: int, first: int, samples: int) -> Tensor:
        """The learning rates of the steps on so many samples, [S], on the CPU."""
        schedule, rate = self.distillers[k].schedule, self.trainer.optimizers[k].defaults["lr"]
        epochs, count = self.trainer.max_epochs or 1, 1
        per_epoch = float(self.trainer.num_training_batches)
        if epochs < 1 or not 0 < per_epoch < math.inf:
            raise ValueError("a StudentStack needs max_epochs, and data of a length.")
        if self.samples is not None:
            count, per_epoch = -(-samples // self.samples.batch_size), self.samples.steps
        done = [(self.current_epoch + (first + s) / per_epoch) / epochs for s in range(count)]
        return torch.tensor([rate * schedule(share) for share in done], dtype=torch.float64)


def _add(sums: Sums, more: Sums) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, 0) + value


def _read(sums: Sums) -> dict[str, float]:
    read = {name: float(value) for name, value in sums.items()}
    metrics = {"loss": read["loss"] / read["count"]} if "count" in read else {}
    if "moved" in read:
        metrics["perturbation"] = read["moved"] / (read["size"] or 1)  # 0 of a teacher of zeros
    if "val_count" in read:
        metrics["val_errors"] = read["val_errors"]
        metrics["val_error"] = read["val_errors"] / read["val_count"]
    if "agreements" in read:
        metrics["agreement"] = read["agreements"] / read["val_count"]
    return metrics
