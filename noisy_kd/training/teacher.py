"""Stage 1: the teacher, trained once with cross-entropy, or loaded from a checkpoint."""

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from noisy_kd.config import Config, Teacher
from noisy_kd.data import store
from noisy_kd.data.datamodules import ImageDataModule
from noisy_kd.data.dataset import at_once, generator_key, loader
from noisy_kd.data.preprocessing import kind_of
from noisy_kd.errors import TrainingError
from noisy_kd.method import methods
from noisy_kd.method.noise import RandomLabels, RandomShift
from noisy_kd.model.layers import TeacherInput, folded, with_batch_norm
from noisy_kd.model.network import architecture, draws_globally
from noisy_kd.runs.identity import training_settings
from noisy_kd.training import build
from noisy_kd.training.callbacks.logs import close
from noisy_kd.training.checkpoints import read_checkpoint
from noisy_kd.training.distiller import Distiller
from noisy_kd.training.fit import TrainingSamples, fit_runs
from noisy_kd.training.logits import weights_digest
from noisy_kd.training.numerics import Numerics
from noisy_kd.training.stack import StudentStack

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherTraining:
    """A teacher, and how it is trained if no checkpoint holds it.

    Args:
        config: of the run; its teacher, data and precision decide the teacher.
        net: the untrained teacher.
        name: what it is called.
        data: the images, on the device.
        numerics: how networks are computed.
        label_noise: of the labels it is trained on, in a method that has it.
    """

    config: Config
    net: nn.Module
    name: str
    data: ImageDataModule
    numerics: Numerics
    label_noise: RandomLabels | None

    def trained(self, logs: Path) -> nn.Module:
        """Return the frozen teacher: from a checkpoint, from the store, or trained for the store.

        Without epochs it has the weights that its function gives.

        Its training writes its curves into the folder ``logs``.

        Raises:
            InputError: if the network does not fit the checkpoint.
            TrainingError: if its loss is no longer finite.
        """
        if self.config.teacher.checkpoint is not None:
            load_checkpoint(self.net, self.config.teacher)
        elif self.config.teacher.max_epochs:
            self.net.load_state_dict(self._from_store(logs))
        return frozen(self.net).to(self.numerics.device)

    def _from_store(self, logs: Path) -> dict[str, Tensor]:
        origin = "from the store"

        def make(work: Path) -> dict[str, Any]:
            nonlocal origin
            origin = "trained"
            log.info("Training the teacher %s: the store has none of these settings.", self.name)
            return self._train(work, logs)

        folder = Path(self.config.store)
        weights, facts = store.get_or_make(folder, "teacher", self.made_by(), make)
        log.info("Teacher %s, %s: %s.", self.name, origin, store.in_words(facts))
        return weights

    def made_by(self) -> dict[str, Any]:
        """Return everything that decides the teacher's weights."""
        teacher, data, numerics = self.config.teacher, self.data, self.numerics
        views, more = build.teacher_views(self.config), dict[str, Any]()
        if self.label_noise is not None:
            more["redrawn_labels"] = self.label_noise.rate
        if views.draws:
            more |= views.decided_by(1)
        if teacher._target_ is not None:  # whose functions give them other weights to begin with
            more |= {"_target_": teacher._target_, "initial": weights_digest(self.net)}
        if not self.config.data._target_.startswith("noisy_kd."):  # with a split of its own
            prepared = [tensor.tolist() for tensor in data.preprocessing.state_dict().values()]
            more["prepared"] = [kind_of(data.preprocessing), prepared, data.train_rows.tolist()]
        return {
            **training_settings(teacher),
            "layers": architecture(self.net),
            "arguments": teacher.arguments,
            "data": data.name,
            "images": data.digest,
            "views": views.count,
            "val_size": len(data.val_rows),
            "data_seed": data.seed,
            "precision": numerics.precision,
            "fast": numerics.fast,
            "deterministic": self.config.deterministic,
            "device": numerics.device.type,
            **more,
        }

    def _train(self, work: Path, logs: Path) -> dict[str, Any]:
        config, teacher, net = self.config, self.config.teacher, self.net
        normalised = teacher.batch_norm and type(net) is nn.Sequential and not draws_globally(net)
        if normalised:
            net = with_batch_norm(net)  # type: ignore[arg-type]
        stack, validation = self._stack(net), self.data.validation_set()
        fitted = fit_runs(
            stack,
            config,
            teacher.max_epochs,
            loader(validation, at_once(validation.pixels, 1000)) if len(validation) else None,
            [work.name],
            [work / "last.ckpt"],
            [logs],
            is_teacher=True,
        )
        close(fitted.loggers[0])
        if stack.diverged[0]:
            shutil.rmtree(work)
            advice = f"try a smaller teacher.lr than {teacher.lr:g}"
            raise TrainingError(f"the teacher's loss is no longer finite: {advice}.")
        chosen, seconds = fitted.best.best[0], round(stack.seconds_trained, 1)
        facts = {"val_error": chosen.val_error, "epoch": chosen.epoch, "seconds": seconds}
        net.load_state_dict(chosen.weights)
        weights = (folded(net) if normalised else net).state_dict()  # type: ignore[arg-type]
        return {"tensors": {name: value.cpu() for name, value in weights.items()}, "facts": facts}

    def _stack(self, net: nn.Module) -> StudentStack:
        """The supervised training of the net on the teacher's own terms."""
        teacher = self.config.teacher
        shift = RandomShift(teacher.shift) if teacher.shift else None
        supervised, seed = methods.supervised(teacher.label_smoothing), teacher.seed
        if self.label_noise is not None:  # other draws than those of a student of the same seed
            seed = generator_key(seed, "teacher")
        distiller = Distiller(
            net,
            method=replace(supervised, labels=self.label_noise, input=shift),
            optimizer=build.optimizer(build.teacher_optimizer(teacher), self.numerics),
            schedule=teacher.schedule,
            seed=seed,
        )
        views = build.teacher_views(self.config)
        dataset = self.data.training_set(teacher.subset, "teacher.subset", views=views)
        samples = TrainingSamples(dataset, teacher.batch_size)
        return StudentStack([distiller], samples, self.numerics)


def load_checkpoint(net: nn.Module, teacher: Teacher) -> None:
    """Give a teacher the weights of its checkpoint.

    Raises:
        InputError: if they do not fit.
    """
    inner = net.net if isinstance(net, TeacherInput) else net
    weights = read_checkpoint(Path(str(teacher.checkpoint)), inner, teacher.checkpoint_key)
    inner.load_state_dict(weights)


def frozen(net: nn.Module) -> nn.Module:
    """The net in eval mode, none of its weights open to gradients."""
    return net.eval().requires_grad_(False)
