"""What TensorBoard shows of a run besides its curves.

HParams: a row per run. Custom scalars: the curves of all runs in one chart. Images: inputs,
confusion matrix, a perturbed target. Text: configuration, networks.

Shapes: B samples, N test images, C classes.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.utilities.plot import plot_confusion_matrix
from torchvision.utils import make_grid

from noisy_kd.config import Config
from noisy_kd.data.datamodules import ImageDataModule
from noisy_kd.data.dataset import keyed_generator
from noisy_kd.runs import Result
from noisy_kd.training.students import Run, TeacherOutputs, TrainedStudent

LAYOUT = {
    "all runs": {
        "validation error": ["Multiline", ["^val_error$"]],
        "training loss": ["Multiline", ["^loss$"]],
        "agreement with the teacher": ["Multiline", ["^agreement$"]],
    }
}
"""Custom scalars: one chart for all runs that are ticked, the baseline among them."""

FIRST = ("method", "alpha", "sigma", "seed")
"""Columns of the HParams tab that stand before the others."""


@rank_zero_only
def add_run(
    run: Run,
    student: TrainedStudent,
    test_logits_NC: Tensor | None,
    data: ImageDataModule,
    taught: TeacherOutputs | None,
    result: Result,
) -> None:
    """Add to a run's TensorBoard file what does not change from epoch to epoch.

    ``test_logits_NC`` are the student's; None if it diverged.
    """
    config = run.config
    for logger in student.loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        writer = logger.experiment
        keys = ("val_error", "test_error", "teacher_test_error", "best_epoch", "seconds")
        numbers = {f"result/{k}": math.nan if result[k] is None else result[k] for k in keys}
        add_row(writer, hyperparameters(config, result), numbers)
        writer.add_custom_scalars(LAYOUT)
        settings = OmegaConf.to_yaml(OmegaConf.structured(config))
        writer.add_text("run/configuration", textwrap.indent(settings, "    "))
        writer.add_text("run/networks", _networks(result))
        dataset = data.training_set(data.subset)
        samples = torch.arange(min(64, len(dataset)))
        x_BCHW, _ = dataset[samples]
        writer.add_image("inputs", make_grid(x_BCHW[:32], 8, normalize=True, scale_each=True))
        z = None
        if taught is not None:
            z = taught.train_logits.cpu()[dataset.logit_index(samples).cpu()]
        pair = perturbed(run, student, x_BCHW, z)
        if pair is not None:
            writer.add_figure("perturbed logits", _bars(*pair, data.classes))
        if test_logits_NC is not None:
            matrix = confusion_matrix(test_logits_NC, data.test_images.labels.cpu(), data.classes)
            writer.add_figure("confusion matrix of the test set", matrix)


def add_row(writer: SummaryWriter, row: dict[str, Any], numbers: dict[str, float]) -> None:
    """Add a run's row to the HParams tab; ``add_hparams`` would make another run."""
    for name, number in numbers.items():
        writer.add_scalar(name, number)
    summaries = hparams(row, numbers)
    plugin = summaries[0].value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for column in content.experiment.hparam_infos:
        column.differs = column.name in FIRST
    plugin.content = content.SerializeToString()
    for summary in summaries:
        writer._get_file_writer().add_summary(summary)


def hyperparameters(config: Config, result: Result) -> dict[str, Any]:
    """A row of the HParams tab: the same keys in every run."""
    own = {k: v for k, v in config.method.items() if k not in ("_target_", "alpha", "sigma")}
    return {
        "method": result["method"],
        "alpha": float(config.method.get("alpha") or 0),
        "sigma": float(config.method.get("sigma") or 0),
        "seed": config.seed,
        "data": result["dataset"],
        "subset": config.data.subset or 0,
        "student": result["student"],
        "teacher": result["teacher"],
        "dropout": config.student.dropout,
        "epochs": config.trainer.max_epochs,
        "batch": config.data.batch_size,
        "lr": config.optimizer.lr,
        "weight_decay": config.optimizer.weight_decay,
        "schedule": config.optimizer.schedule,
        "other settings": ", ".join(f"{key}={value}" for key, value in own.items()),
    }


def perturbed(
    run: Run, student: TrainedStudent, x_BCHW: Tensor, z_BTC: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Return the logits [C] of a sample before and after the method's noise, None without noise.

    The noise on the target, or else on the student's logits; the first sample that it changes.
    ``z_BTC`` are the teachers' logits of the images; None without a teacher.
    """
    method, fickle = run.method, student.distiller.fickle
    generator = keyed_generator(run.config.seed, "dashboard")
    pairs = []
    if z_BTC is not None and method.moves_target:
        z_BC = _logits(fickle[0], x_BCHW) if fickle else method.fixed_target(z_BTC, generator)
        pairs.append((method.clean_target(z_BTC), method.step_target(z_BC, generator)))
    if method.output is not None:
        g_BC = _logits(student.net, x_BCHW)
        pairs.append((g_BC, method.step_output(g_BC, generator)))
    for before, after in pairs:
        rows = (before != after).any(dim=1).nonzero()
        if len(rows):
            return before[rows[0, 0]], after[rows[0, 0]]
    return None


@torch.no_grad()
def _logits(net: nn.Module, x_BCHW: Tensor) -> Tensor:
    return net(x_BCHW.to(next(net.parameters()).device)).float().cpu()  # type: ignore[no-any-return]


def _networks(result: Result) -> str:
    lines = ["| | notation | multiplications | parameters |", "|---|---|--:|--:|"]
    for role, prefix in (("teacher", "teacher_"), ("student", "")):
        counts = [f"{result[prefix + key]:,}" for key in ("multiplications", "parameters")]
        lines.append(f"| {role} | {result[role + '_layers']} | {' | '.join(counts)} |")
    return "\n".join(lines)


def confusion_matrix(logits_NC: Tensor, labels_N: Tensor, classes: Sequence[str]) -> Figure:
    """Return a figure of the confusion matrix; with numbers up to 20 classes."""
    counts_CC = multiclass_confusion_matrix(logits_NC, labels_N, len(classes))
    inches = 5.0 if len(classes) <= 10 else 8.0
    figure = Figure(figsize=(inches, inches), layout="constrained")
    has_numbers, axes = len(classes) <= 20, figure.add_subplot()
    plot_confusion_matrix(counts_CC, axes, has_numbers, [*classes], cmap="Blues")
    return figure


def _bars(before_C: Tensor, after_C: Tensor, classes: Sequence[str]) -> Figure:
    figure = Figure(figsize=(3.6, 2.4), dpi=100, layout="constrained")
    plot = figure.add_subplot()
    places = np.arange(len(classes))
    plot.bar(places - 0.2, before_C.numpy(), 0.4, label="clean")
    plot.bar(places + 0.2, after_C.numpy(), 0.4, label="perturbed")
    plot.axhline(0, color="black", linewidth=0.8)
    plot.set_xticks(places, classes, rotation=0 if len(classes[0]) < 3 else 45)
    plot.set_ylabel("logit")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure
