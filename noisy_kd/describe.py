"""python -m noisy_kd.describe [GROUP=NAME] [KEY=VALUE] ...: what `python train.py` would do.

Shows, without training: both networks layer by layer with shapes and multiplications, the steps,
the memory, and where the results will lie. The data's files are read only if their sizes are not
known beforehand (digits, folder).
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from noisy_kd import runs
from noisy_kd.config import Config, compose, config_hash, run_name
from noisy_kd.errors import run_command

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
        print(__doc__)
        return
    describe(compose(arguments), Console())


def describe(config: Config, console: Console) -> None:
    """Print both networks, the steps, the memory, and where results will lie."""
    from noisy_kd.model import complexity
    from noisy_kd.model.network import build
    from noisy_kd.training import assembly

    count, test, shape, classes = _sizes(config)
    assembly.method(config)
    teacher = build(assembly.layers_for(config.teacher.layers, classes), shape, classes)
    student = build(assembly.student_layers(config, classes), shape, classes)
    for role, name, net in (
        ("teacher", config.teacher_name, teacher),
        ("student", config.student_name, student),
    ):
        console.print(_network_table(f"{role} {name}", complexity.layer_costs(net, shape)))
    cost = {net: complexity.multiplications(net, shape) for net in (teacher, student)}
    views = assembly.views(config)
    val = count // 10 if config.data.val_size is None else config.data.val_size
    per_epoch = {
        "teacher": (config.teacher.subset or count - val) * views,
        "student": (config.data.subset or count - val) * views,
    }
    epochs = {"teacher": config.teacher.max_epochs, "student": config.trainer.max_epochs}
    images = (count + test) * shape[0] * shape[1] * shape[2]
    weights = WEIGHTS_KEPT * complexity.size_in_bytes(student)
    directory = Path("runs") / run_name(config)
    state = runs.finished(directory, config_hash(config))
    lines = [f"compression  {cost[teacher] / cost[student]:.2f}x fewer multiplications"]
    for role, samples in per_epoch.items():
        steps = -(-samples // config.data.batch_size)
        lines.append(
            f"{role}      {epochs[role]} epochs of {samples:,} samples: "
            f"{epochs[role] * steps:,} steps of {config.data.batch_size}"
        )
    lines += [
        f"memory       {images / 1e6:,.0f} MB of images, "
        f"{4 * (count * views + test) * classes / 1e6:,.1f} MB of logits, "
        f"{weights / 1e6:,.0f} MB for the student in training",
        f"store        {config.store} (teachers and logits)",
        f"results      {directory}{' (finished)' if state else ''}",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _sizes(config: Config) -> tuple[int, int, tuple[int, int, int], int]:
    if config.data.name in OFFICIAL:
        return OFFICIAL[config.data.name]
    from noisy_kd.training import assembly

    data = assembly.data_module(config)
    return len(data.images), len(data.test_images), data.input_shape, len(data.classes)


def _network_table(title: str, costs: list) -> Table:  # type: ignore[type-arg]
    table = Table(title=title)
    for name in ("layer", "output", "multiplications", "parameters"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for cost in costs:
        shape = "x".join(str(n) for n in cost.output_shape)
        counts = [f"{n:,}" if n else "" for n in (cost.multiplications, cost.parameters)]
        table.add_row(cost.label, shape, *counts)
    table.add_section()
    total = [sum(getattr(c, key) for c in costs) for key in ("multiplications", "parameters")]
    table.add_row("in all", "", *(f"{n:,}" for n in total))
    return table


if __name__ == "__main__":
    sys.exit(run_command(main))
