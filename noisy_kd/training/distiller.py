"""The distillation of one student as a LightningModule: [NT] Algorithm 1.

Shapes: B samples in a mini-batch, T teachers, C classes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from noisy_kd.data.dataset import generator_key, unpack
from noisy_kd.method.method import Method
from noisy_kd.method.methods import logit_regression
from noisy_kd.model.layers import has_batch_norm, set_dropout_generator
from noisy_kd.model.network import with_active_dropout
from noisy_kd.training.hints import HintStage
from noisy_kd.training.numerics import Numerics

if TYPE_CHECKING:
    from noisy_kd.training.compiled import CompiledStudent

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
Schedule = Callable[[float], float]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "step": lambda done: 0.1 ** ((done >= 0.5) + (done >= 0.75)),
    "onecycle": lambda done: min(done / 0.2, (1 - done) / 0.8),  # up, then down to 0
}
"""Factor of the learning rate when the share ``done`` of all steps has been made."""


class Distiller(LightningModule):
    """Trains a student on a frozen teacher's logits, with the noise of a method.

    It works with a stock ``lightning.Trainer`` and any data module or DataLoader that yields
    ``(x, y)``, or ``(x, y, z)`` with the teacher's logits as :class:`noisy_kd.CachedLogits` does.
    The teacher is never trained and never part of a checkpoint. Logged are ``train/loss``,
    ``val/loss``, ``val/error`` and ``val/agreement`` (the share of samples for which student and
    teacher name the same class).

    Args:
        student: maps images [B, ...] to logits [B, C].
        teacher: one module or several; None if the batches bring ``z``, or the method has none.
        method: what the student learns from; None for logit regression ([NT] equation 1).
        optimizer: makes the optimiser from the parameters; None for Adam with 0.001.
        schedule: of the learning rate: a key of :data:`SCHEDULES`, or a function from the share of
            steps made to a factor.
        seed: decides the noise, and the masks of dropout layers in the paper's notation.
        averaging: of the weights that are evaluated: ``none``; ``ema``, an exponential moving
            average over steps; ``swa``, the mean over the epochs of the last quarter.
        ema_decay: of ``ema``, in [0, 1).
        hint: FitNets' first stage, from :func:`noisy_kd.training.hints.hint_stage`.

    Raises:
        ValueError: if the arguments do not fit together.

    Examples:
        >>> import lightning, torch
        >>> from noisy_kd import DigitsDataModule, Distiller, network, noisy_teacher
        >>> teacher, student = network("FC64-FC10", (1, 8, 8)), network("FC16-FC10", (1, 8, 8))
        >>> distiller = Distiller(student, teacher, noisy_teacher(alpha=0.5, sigma=0.9))
        >>> trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
        >>> trainer.fit(distiller, DigitsDataModule())
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Sequence[nn.Module] | None = None,
        method: Method | None = None,
        *,
        optimizer: OptimizerFactory | None = None,
        schedule: str | Schedule = "linear",
        seed: int = 0,
        averaging: str = "none",
        ema_decay: float = 0.999,
        hint: HintStage | None = None,
    ) -> None:
        super().__init__()
        self.student, self.hint = student, hint
        self.method = method or logit_regression()
        teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher or ())
        self._check(len(teachers), schedule, averaging, ema_decay)
        frozen = {id(parameter) for net in teachers for parameter in net.parameters()}
        if any(id(parameter) in frozen for parameter in student.parameters()):
            raise ValueError("teacher and student share weights: the teacher's are frozen.")
        # In a tuple, so that Lightning neither trains nor saves them.
        self.teachers = tuple(teacher.eval().requires_grad_(False) for teacher in teachers)
        self.fickle: tuple[nn.Module, ...] = ()
        dropout = self.method.teacher_dropout
        if dropout is not None and not dropout.passes:
            self.fickle = tuple(with_active_dropout(t, dropout.probability) for t in self.teachers)
        self.optimizer_factory = optimizer or partial(Adam, lr=1e-3)
        self.schedule = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
        self.seed, self.averaging = seed, averaging
        self.average: AveragedModel | None = None
        if averaging != "none":
            update = get_ema_multi_avg_fn(ema_decay) if averaging == "ema" else None
            self.average = AveragedModel(student, multi_avg_fn=update).requires_grad_(False)
        # A StudentStack sets another.
        self.numerics = Numerics(torch.device("cpu"), "32", fast=False)
        self.compiled: CompiledStudent | None = None  # while a StudentStack makes its steps with it
        self.draws: dict[str, torch.Generator] = {}
        self.epoch = 0
        self.target: Tensor | None = None
        """The target [B, C] of the last call of :meth:`loss`, with its noise."""

    def _check(
        self, teachers: int, schedule: str | Schedule, averaging: str, ema_decay: float
    ) -> None:
        if isinstance(schedule, str) and schedule not in SCHEDULES:
            raise ValueError(f"schedule={schedule}: choose {', '.join(SCHEDULES)}.")
        if averaging not in ("none", "ema", "swa"):
            raise ValueError(f"averaging={averaging}: choose none, ema, swa.")
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay={ema_decay}: a decay lies in [0, 1).")
        if averaging == "swa" and has_batch_norm(self.student):
            raise ValueError("averaging='swa' averages no statistics of BatchNorm: use 'ema'.")
        if teachers > 1 and self.method.teachers == "one":
            raise ValueError(f"{teachers} teachers need a method for several: two_teachers.")
        if self.method.hint is not None and self.hint is None:
            raise ValueError("fitnets needs its first stage: hint=hint_stage(...).")

    # The mathematics

    def loss(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """[NT] Algorithm 1, lines 4 to 7: draw the noise, perturb, compare.

        Args:
            x: images [B, ...].
            y: labels [B].
            z: the teacher's logits [B, C], or [B, T, C] to draw one of for each sample; None asks
                the teacher.
            generator: of the noise; None for torch's global one.

        Returns:
            The loss, a scalar.
        """
        method = self.method
        if self.hint is not None and self.epoch < self.hint.epochs:
            with self.numerics.autocast():
                return self.hint(x)  # type: ignore[no-any-return]
        if method.has_teacher:
            if z is not None and not (z.is_floating_point() and z.ndim in (2, 3)):
                found = f"{str(z.dtype).removeprefix('torch.')} {list(z.shape)}"
                raise ValueError(f"the third entry of a batch must be logits [B, C], not {found}.")
            z = self._ask(x) if z is None or self.fickle else z
            z = method.step_target(z, generator)
        self.target = z
        g = self.logits(self.student, method.step_input(x, generator))
        g = method.step_output(g, generator)
        if z is not None and z.shape[-1] != g.shape[1]:
            raise ValueError(f"the student has {g.shape[1]} classes, the teacher {z.shape[-1]}.")
        return method.loss(g, z, method.step_labels(y, g.shape[1], generator))

    @torch.no_grad()
    def _ask(self, x: Tensor) -> Tensor:
        """Return the teachers' target [B, C] for a mini-batch, before the noise of the step."""
        if self.method.passes:
            raise ValueError("passes=M draws from passes made beforehand: use CachedLogits.")
        if self.method.draws_once:
            raise ValueError("resample=once draws the noise beforehand: use CachedLogits.")
        teachers = self.fickle or self.teachers
        if not teachers:
            raise ValueError(
                "no teacher: pass one to Distiller, or batches (x, y, z) as CachedLogits yields."
            )
        for teacher in teachers:
            set_dropout_generator(teacher, self.draws.get("teacher dropout"))
        return self.method.fixed_target(self._teacher_logits(teachers, x))

    @torch.no_grad()
    def clean_target(self, x: Tensor, z: Tensor | None) -> Tensor | None:
        """Return the target [B, C] without noise of images and what their batch has of it.

        None if the batch has none and there is no teacher.
        """
        if z is None and self.teachers:
            z = self._teacher_logits(self.teachers, x)
        return self.method.clean_target(z) if z is not None and z.ndim == 3 else z

    def _teacher_logits(self, teachers: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Return the logits [B, T, C] of these teachers."""
        for teacher in teachers:
            if teacher.training:
                teacher.eval()
            weight = next(teacher.parameters(), None)
            if weight is not None and weight.device != x.device:
                teacher.to(x.device)
        return torch.stack([self.logits(teacher, x) for teacher in teachers], dim=1)

    def logits(self, net: nn.Module, x: Tensor) -> Tensor:
        """Return the logits [B, C] of a network in float32."""
        if self.compiled is not None and net is self.student:
            return self.compiled.logits(x)
        return self.numerics.logits(net, x)

    # The random numbers, the weights

    def begin_fit(self, device: torch.device) -> None:
        """Make the generators on the device, one for each purpose."""
        purposes = ("noise", "dropout", "teacher dropout")
        self.draws = {purpose: torch.Generator(device) for purpose in purposes}
        set_dropout_generator(self.student, self.draws["dropout"])

    def check_noise(self, trainer: Trainer) -> None:
        """Refuse noise, or a teacher's passes, that the data module draws for another Distiller.

        Raises:
            ValueError: saying how it has to be made.
        """
        data = getattr(trainer, "datamodule", None)
        drawn_for = getattr(data, "method", None)
        for name in ("draws_once", "passes"):
            for_other = bool(getattr(drawn_for, name, False)) and drawn_for != self.method
            if (getattr(self.method, name) and drawn_for != self.method) or for_other:
                text = "resample=once and passes=M: train on CachedLogits(..., method=METHOD)"
                raise ValueError(f"{text} of the same method.")
        if self.method.draws_once and getattr(data, "seed", self.seed) != self.seed:
            raise ValueError(f"resample=once: give CachedLogits seed={self.seed}, the Distiller's.")

    def begin_epoch(self, epoch: int, rank: int = 0) -> None:
        """Seed every generator by seed, purpose and epoch; each process of a mini-batch its own."""
        self.epoch = epoch
        for purpose, generator in self.draws.items():
            name = f"{purpose} {rank}" if rank else purpose
            generator.manual_seed(generator_key(self.seed, name, epoch))

    def after_step(self) -> None:
        """Take the weights into their moving average."""
        if self.average is not None and self.averaging == "ema":
            self.average.update_parameters(self.student)

    def after_epoch(self, epochs: int) -> None:
        """Take the weights into the mean over the epochs of the last quarter of ``epochs``."""
        late = self.epoch + 1 > 0.75 * epochs
        if self.average is not None and self.averaging == "swa" and late:
            self.average.update_parameters(self.student)

    @property
    def eval_model(self) -> nn.Module:
        """The student with the weights that are evaluated: averaged ones, where there are any."""
        if self.average is not None and int(self.average.n_averaged) > 0:
            return self.average.module
        return self.student

    def make_optimizer(self) -> Optimizer:
        """Return the optimiser of the student, and of FitNets' regressor."""
        hint = () if self.hint is None else self.hint.regressor.parameters()
        return self.optimizer_factory([*self.student.parameters(), *hint])

    # Under a stock Trainer

    def forward(self, x: Tensor) -> Tensor:
        """Return the student's logits [B, C]."""
        return self.logits(self.eval_model, x)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.make_optimizer()
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf and self.schedule is not SCHEDULES["constant"]:
            raise ValueError(
                f"{steps} steps: the schedule has to know their number. Give the Trainer "
                "max_steps, or max_epochs and data of a length, or use schedule='constant'."
            )
        scheduler = LambdaLR(optimizer, lambda step: self.schedule(min(1.0, step / steps)))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_fit_start(self) -> None:
        self.check_noise(self.trainer)
        if self.average is not None and self.trainer.ckpt_path is None:
            self.average.n_averaged.zero_()  # of an earlier fit
        if self.averaging == "swa" and (self.trainer.max_epochs or 0) < 1:
            raise ValueError("averaging='swa' is over the last quarter of max_epochs: set them.")
        self.begin_fit(self.device)

    def on_train_start(self) -> None:
        self.begin_epoch(self.current_epoch, self.global_rank)  # also within an epoch

    def on_fit_end(self) -> None:
        """Let the student's dropout draw as before, on whatever device it goes to."""
        set_dropout_generator(self.student, None)

    def on_train_epoch_start(self) -> None:
        self.begin_epoch(self.current_epoch, self.global_rank)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, z = unpack(batch)
        loss = self.loss(x, y, z, self.draws["noise"])
        how: dict[str, Any] = {"on_step": False, "on_epoch": True, "prog_bar": True}
        self.log("train/loss", loss.detach(), **how, batch_size=len(y))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.after_step()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.trainer.num_training_batches:  # before the validation
            self.after_epoch(self.trainer.max_epochs or 0)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the student's logits [B, C]."""
        return self.forward(batch[0] if isinstance(batch, tuple | list) else batch)

    def _evaluate(self, batch: Any, stage: str) -> None:
        """Log the loss without noise, the error, and the agreement with the teacher."""
        x, y, z = unpack(batch)
        g, z = self(x), self.clean_target(x, z)
        guess = g.argmax(dim=1)
        shown = {"error": (guess != y).float().mean()}
        if z is not None or not self.method.has_teacher:
            shown["loss"] = self.method.loss(g, z, y)
        if z is not None:
            shown["agreement"] = (guess == z.argmax(dim=1)).float().mean()
        shown = {f"{stage}/{name}": value for name, value in shown.items()}
        self.log_dict(shown, batch_size=len(y), sync_dist=True, prog_bar=stage == "val")
