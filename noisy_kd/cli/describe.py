"""noisy-kd describe [GROUP=NAME] [KEY=VALUE] ...: what `noisy-kd train` would do.

Shows, without training: both networks layer by layer with shapes and multiplications, the steps,
the memory, and where the results will lie. The data's files are read only if their sizes are not
known beforehand (digits, folder).
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

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
        print(__doc__)
        return
    if {"-cn", "-m", "--multirun", "--config-name"} & {a.partition("=")[0] for a in arguments}:
        raise InputError("this describes one run: leave the sweep's name and -m out.")
    own = [a for a in arguments if not a.startswith("hydra.run.dir=")]
    config = compose(own)
    place = next((a.partition("=")[2] for a in arguments if a not in own), None)
    describe(config, Path(place or f"runs/{run_name(config)}"), Console())


def describe(config: Config, directory: Path, console: Console) -> None:
    """Print both networks, the steps, the memory, and where results will lie."""
    from noisy_kd.model import complexity
    from noisy_kd.training import build, checks

    count, test, shape, classes = _sizes(config)
    checks.check_settings(config)
    teacher = build.network(config.teacher, shape, classes)
    student = build.network(config.student, shape, classes, dropout=config.student.dropout)
    for role, name, net in (
        ("teacher", config.teacher_name, teacher),
        ("student", config.student_name, student),
    ):
        console.print(_network_table(f"{role} {name}", complexity.layer_costs(net, shape)))
    cost = {net: complexity.multiplications(net, shape) for net in (teacher, student)}
    views = build.views(config, config.data.augment, config.data.views)
    in_epoch = {"teacher": build.teacher_views(config).per_epoch, "student": views.per_epoch}
    val = count // 10 if config.data.val_size is None else config.data.val_size
    subsets = {"teacher.subset": config.teacher.subset, "data.subset": config.data.subset}
    check_range("data.val_size", val, below=count)
    checks.check_shift(config.teacher.shift, shape)
    for key, subset in subsets.items():
        check_range(key, subset or classes, least=classes, most=count - val)
    sizes = [subset or count - val for subset in subsets.values()]
    per_epoch = {
        role: size * of_each for (role, of_each), size in zip(in_epoch.items(), sizes, strict=True)
    }
    epochs = {"teacher": config.teacher.max_epochs, "student": config.trainer.max_epochs}
    batches = {"teacher": config.teacher.batch_size, "student": config.data.batch_size}
    images = (count + test) * shape[0] * shape[1] * shape[2]
    weights = WEIGHTS_KEPT * complexity.size_in_bytes(student)
    state = runs.finished(directory, config_hash(config))
    lines = [f"compression  {cost[teacher] / cost[student]:.2f}x fewer multiplications"]
    for role, samples in per_epoch.items():
        steps = -(-samples // batches[role])
        lines.append(
            f"{role}      {epochs[role]} epochs of {samples:,} samples: "
            f"{epochs[role] * steps:,} steps of {batches[role]}"
        )
    lines += [
        f"memory       {_bytes(images)} of images, "
        f"{_bytes(4 * (count * (views.count or 1) + test) * classes)} of logits, "
        f"{_bytes(weights)} for the student in training",
        f"store        {config.store} (teachers and logits)",
        f"results      {directory}{' (finished)' if state else ''}",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e3:,.0f} kB"


def _sizes(config: Config) -> tuple[int, int, tuple[int, int, int], int]:
    if config.data.name in OFFICIAL:
        return OFFICIAL[config.data.name]
    from noisy_kd.training import build

    data = build.data_module(config)
    labelled = len(data.train_rows) + len(data.val_rows)
    return labelled, len(data.test_images), data.input_shape, len(data.classes)


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
