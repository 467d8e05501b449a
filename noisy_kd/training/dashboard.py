"""What TensorBoard shows of a run besides its curves.

HParams: a row per run. Custom scalars: the curves of all runs in one chart. Images: inputs,
confusion matrix, a perturbed target. Text: configuration, networks.

Shapes: B samples, N test images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchvision.utils import make_grid

from noisy_kd.config import Config
from noisy_kd.data import ImageDataModule, keyed_generator
from noisy_kd.model import complexity
from noisy_kd.runs import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
SHOWN = 64  # training samples that are looked at, of which 32 are shown
DRAWS = 100  # until the noise meets the first of them
MOST_NUMBERS = 20  # classes up to which the confusion matrix has numbers


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

    Args:
        run: its configuration and method.
        student: after training; its loggers that are not TensorBoard's are left alone.
        test_logits_NC: of the student, [N, C]; None if it diverged.
        data: the images.
        taught: what it learned from.
        result: of the run.
    """
    config = run.config
    for logger in student.loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        writer = logger.experiment
        add_row(writer, hyperparameters(config, result), metrics(result))
        writer.add_custom_scalars(LAYOUT)
        writer.add_text("run/configuration", _code(OmegaConf.to_yaml(OmegaConf.structured(config))))
        writer.add_text("run/networks", _networks(student, data, result))
        dataset = data.training_set(data.subset)
        samples = torch.arange(min(SHOWN, len(dataset)))
        x_BCHW, _ = dataset[samples]
        writer.add_image("inputs", make_grid(x_BCHW[:32], 8, normalize=True, scale_each=True))
        z = None
        if taught is not None:
            z = taught.train_logits.cpu()[dataset.logit_index(samples).cpu()]
        pair = perturbed(run, student, x_BCHW, z)
        if pair is not None:
            writer.add_figure("perturbed logits", _bars(*pair, data.classes))
        if test_logits_NC is not None:
            labels = data.test_images.labels.cpu()
            matrix = multiclass_confusion_matrix(test_logits_NC, labels, len(data.classes))
            writer.add_figure("confusion matrix of the test set", _matrix(matrix, data.classes))


def add_row(writer: SummaryWriter, row: dict[str, Any], numbers: dict[str, float]) -> None:
    """Add a run's row to the HParams tab, the columns in :data:`FIRST` before the others.

    Not by ``add_hparams``, which makes another run, named by the clock.
    """
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


def metrics(result: Result) -> dict[str, float]:
    """The numbers of a row; NaN where there is none."""
    keys = ("val_error", "test_error", "teacher_test_error", "best_epoch", "seconds")
    return {f"result/{key}": float("nan" if result[key] is None else result[key]) for key in keys}


def perturbed(
    run: Run, student: TrainedStudent, x_BCHW: Tensor, z_BTC: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Return the logits [C] of a sample before and after the method's noise.

    The noise on the target, or else on the student's logits: of the first sample that it moves.
    None where there is none.

    Args:
        run: with its method.
        student: after training.
        x_BCHW: training images.
        z_BTC: the teachers' logits of them; None without a teacher.
    """
    method, pairs = run.method, []
    generator = keyed_generator(run.config.seed, "dashboard")
    if z_BTC is not None and method.moves_target:
        clean = method.clean_target(z_BTC)
        if student.distiller.fickle:
            fickle = student.distiller.fickle[0]
            with torch.no_grad():
                moved = fickle(x_BCHW.to(next(fickle.parameters()).device)).cpu()
        else:
            moved = _until_the_first_moves(
                lambda: method.step_target(method.fixed_target(z_BTC, generator), generator), clean
            )
        pairs.append((clean, moved))
    if method.output is not None:
        with torch.no_grad():
            g_BC = student.net(x_BCHW.to(next(student.net.parameters()).device)).float().cpu()
        after = _until_the_first_moves(lambda: method.step_output(g_BC, generator), g_BC)
        pairs.append((g_BC, after))
    for before, after in pairs:
        rows = (before != after).any(dim=1).nonzero()
        if len(rows):
            return before[rows[0, 0]], after[rows[0, 0]]
    return None


def _until_the_first_moves(draw: Callable[[], Tensor], before_BC: Tensor) -> Tensor:
    """A draw of the noise that meets the first sample: so all seeds show the same one."""
    for _ in range(DRAWS):
        after_BC = draw()
        if not torch.equal(before_BC[0], after_BC[0]):
            break
    return after_BC


def _networks(student: TrainedStudent, data: ImageDataModule, result: Result) -> str:
    lines = ["| | notation | multiplications | parameters |", "|---|---|--:|--:|"]
    for role, prefix in (("teacher", "teacher_"), ("student", "")):
        counts = [f"{result[prefix + key]:,}" for key in ("multiplications", "parameters")]
        lines.append(f"| {role} | {result[role + '_layers']} | {' | '.join(counts)} |")
    lines += [
        "",
        "| student's layer | output | multiplications | parameters |",
        "|---|---|--:|--:|",
    ]
    for cost in complexity.layer_costs(student.net, data.input_shape):
        shape = "x".join(str(n) for n in cost.output_shape)
        lines.append(f"| {cost.label} | {shape} | {cost.multiplications:,} | {cost.parameters:,} |")
    return "\n".join(lines)


def _code(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _bars(before_C: Tensor, after_C: Tensor, classes: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 2.4), dpi=100, layout="constrained")
    plot = figure.add_subplot()
    places = torch.arange(len(classes)).numpy()
    plot.bar(places - 0.2, before_C.numpy(), 0.4, label="clean")
    plot.bar(places + 0.2, after_C.numpy(), 0.4, label="perturbed")
    plot.axhline(0, color="black", linewidth=0.8)
    plot.set_xticks(places, classes, rotation=0 if len(classes[0]) < 3 else 45)
    plot.set_ylabel("logit")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure


def _matrix(counts_CC: Tensor, classes: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    inches = 3.6 if len(classes) <= 10 else 6.0  # TensorBoard shows some 300 pixels of width
    figure = Figure(figsize=(inches, inches), dpi=100, layout="constrained")
    plot = figure.add_subplot()
    wrong = counts_CC.clone().fill_diagonal_(0)
    plot.imshow(wrong.numpy(), cmap="Blues")
    places = torch.arange(len(classes)).numpy()
    plot.set_xticks(places, classes, rotation=0 if len(classes[0]) < 3 else 45)
    plot.set_yticks(places, classes)
    plot.set_xlabel("the student says (colour: errors)")
    plot.set_ylabel("true class")
    if len(classes) <= MOST_NUMBERS:
        dark = wrong.max().item() / 2
        for (i, j), count in _numbered(counts_CC):
            colour = "white" if i != j and count > dark else "black"
            plot.text(j, i, str(count), ha="center", va="center", fontsize=7, color=colour)
    return figure


def _numbered(counts_CC: Tensor) -> list[tuple[tuple[int, int], int]]:
    found = counts_CC.nonzero().tolist()
    return [((i, j), int(counts_CC[i, j])) for i, j in found]
