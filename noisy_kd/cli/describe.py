"""noisy-kd describe [GROUP=NAME] [KEY=VALUE] ...: what `noisy-kd train` would do.

Shows, without training: both networks layer by layer with shapes and multiplications, the steps,
the memory, and where the results will lie. A teacher's checkpoint is opened. The data's files are
read only if their sizes are not known beforehand (digits, folder).
"""

import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from noisy_kd import runs
from noisy_kd.cli.arguments import compose
from noisy_kd.config import Config
from noisy_kd.errors import InputError, check_range
from noisy_kd.runs.identity import config_hash, run_name

# Images that may be trained on, test images, (channels, height, width), classes.
OFFICIAL = {
    "mnist": (60_000, 10_000, (1, 28, 28), 10),
    "svhn": (604_388, 26_032, (3, 32, 32), 10),
    "cifar10": (50_000, 10_000, (3, 32, 32), 10),
}
WEIGHTS_KEPT = 5  # float32 copies while training: weights, gradient, Adam's two, the best epoch's


def main() -> None:
    """Print the description of what the command line's arguments would run."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__ or "")
        return
    if {"-cn", "-m", "--multirun", "--config-name"} & {a.partition("=")[0] for a in arguments}:
        raise InputError("this describes one run: leave the sweep's name and -m out.")
    own = [a for a in arguments if not a.startswith("hydra.run.dir=")]
    config = compose(own)
    place = next((a.partition("=")[2] for a in arguments if a not in own), None)
    describe(config, Path(place or f"runs/{run_name(config)}"), Console(markup=False))


def describe(config: Config, directory: Path, console: Console) -> None:
    """Print both networks, the steps, the memory, and where results will lie.

    Raises:
        InputError: for settings that do not fit the data, or a checkpoint that does not fit.
    """
    from noisy_kd.model import complexity
    from noisy_kd.training import build, checks
    from noisy_kd.training.checkpoints import read_checkpoint

    if config.data.name in OFFICIAL:
        count, test, shape, classes = OFFICIAL[config.data.name]
        trained_on = count - (count // 10 if config.data.val_size is None else config.data.val_size)
        check_range("data.val_size", count - trained_on, below=count)
        unlabelled = 0
    else:
        data = build.data_module(config)
        count, test = len(data.images), len(data.test_images)
        shape, classes = data.input_shape, len(data.classes)
        trained_on, unlabelled = len(data.train_rows), len(data.unlabelled_rows)
    teacher, views = config.teacher, build.views(config, config.data.augment, config.data.views)
    for key, subset in (("teacher.subset", teacher.subset), ("data.subset", config.data.subset)):
        check_range(key, subset or classes, least=classes, most=trained_on)
    checks.check_settings(config)
    checks.check_shift(teacher.shift, shape)
    seen = build.teacher_shape(teacher, shape)
    teacher_net = build.network(teacher, seen, classes)
    student_net = build.network(config.student, shape, classes, dropout=config.student.dropout)
    costs = complexity.layer_costs(teacher_net, seen), complexity.layer_costs(student_net, shape)
    console.print(_network_table(f"teacher {config.teacher_name}", costs[0]))
    console.print(_network_table(f"student {config.student_name}", costs[1]))
    teachers, students = (sum(layer.multiplications for layer in net) for net in costs)
    samples = build.teacher_views(config).per_epoch * (teacher.subset or trained_on)
    taught = _steps(teacher.max_epochs, samples, teacher.batch_size)
    if teacher.checkpoint is not None:
        weights = read_checkpoint(Path(teacher.checkpoint), teacher_net, teacher.checkpoint_key)
        values = sum(tensor.numel() for tensor in weights.values())
        taught = f"{teacher.checkpoint} fits: {len(weights)} tensors, {values:,} values"
    more = 0 if build.method(config).needs_labels else unlabelled
    samples = views.per_epoch * ((config.data.subset or trained_on) + more)
    images = (count + test) * math.prod(shape)
    logits = 4 * (count * (views.count or 1) + test) * classes
    weights_kept = WEIGHTS_KEPT * complexity.size_in_bytes(student_net)
    state = " (finished)" if runs.finished(directory, config_hash(config)) else ""
    lines = [
        f"compression  {teachers / max(students, 1):.2f}x fewer multiplications",
        f"teacher      {taught}",
        f"student      {_steps(config.trainer.max_epochs, samples, config.data.batch_size)}",
        f"memory       {decimal(images)} of images, {decimal(logits)} of logits, "
        f"{decimal(weights_kept)} for the student in training",
        f"store        {config.store} (teachers and logits)",
        f"results      {directory}{state}",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _steps(epochs: int, samples: int, batch: int) -> str:
    steps = epochs * -(-samples // batch)
    return f"{epochs} epochs of {samples:,} samples: {steps:,} steps of {batch}"


def _network_table(title: str, costs: list[Any]) -> Table:
    heads = [Column(name, justify="right") for name in ("output", "multiplications", "parameters")]
    table = Table("layer", *heads, title=title)
    for cost in costs:
        shape = "x".join(map(str, cost.output_shape))
        counts = [f"{n:,}" if n else "" for n in (cost.multiplications, cost.parameters)]
        table.add_row(cost.label, shape, *counts)
    table.add_section()
    total = [sum(getattr(c, key) for c in costs) for key in ("multiplications", "parameters")]
    table.add_row("in all", "", *(f"{n:,}" for n in total))
    return table
