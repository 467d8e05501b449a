"""A sweep's report in TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

from noisy_kd.report.tables import Table, as_markdown


def add_sweep(directory: Path, name: str, tables: Sequence[Table]) -> None:
    """Add a sweep's report: a TensorBoard run of the sweep's name, written anew each time."""
    from torch.utils.tensorboard import SummaryWriter

    for old in (directory / name).glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(directory / name)) as writer:
        writer.add_text("report", "\n\n".join(as_markdown(table) for table in tables))
