"""The one bar of a sweep: runs done, mean validation error, time left."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

COLUMNS = (
    TextColumn("{task.fields[done]}/{task.fields[runs]} runs"),
    BarColumn(bar_width=16),
    TextColumn("{task.percentage:.0f}%"),
    TextColumn("val. error {task.fields[error]}"),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
)


class SweepBar:
    """Shows how far all runs are.

    Args:
        epochs: of each run's training, by its directory.
        done: directories of the runs that are finished already.
        shown: whether to show anything.
    """

    def __init__(self, epochs: dict[str, int], done: set[str], shown: bool = True) -> None:
        self.epochs = epochs
        self.so_far = {name: epochs[name] if name in done else 0 for name in epochs}
        self.errors: dict[str, float] = {}
        terminal = Console(stderr=True).is_terminal
        self.told, self.tells = 0, shown and not terminal
        self.bar = Progress(
            *COLUMNS, console=Console(stderr=True), disable=not (shown and terminal)
        )
        self.task = self.bar.add_task(
            "", total=sum(epochs.values()), completed=self._completed, **self._fields()
        )

    def __enter__(self) -> SweepBar:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def hear(self, epochs: dict[str, tuple[int, float | None]]) -> None:
        """Of an epoch: directory -> (epochs done, validation error)."""
        for name, (done, error) in epochs.items():
            self.so_far[name] = done
            if error is not None:
                self.errors[name] = error
        self.bar.update(self.task, completed=self._completed, **self._fields())
        percent = 100 * self._completed // max(1, sum(self.epochs.values()))
        if self.tells and percent // 10 > self.told:  # no terminal: a line every ten percent
            self.told = percent // 10
            log.info(
                "%(percent)d%%: %(done)s of %(runs)s runs done, mean validation error %(error)s",
                {"percent": percent, **self._fields()},
            )

    @property
    def _completed(self) -> int:
        return sum(self.so_far.values())

    def _fields(self) -> dict[str, Any]:
        done = sum(self.so_far[name] >= self.epochs[name] for name in self.epochs)
        mean = sum(self.errors.values()) / len(self.errors) if self.errors else None
        error = "-" if mean is None else f"{mean:.2%}"
        return {"done": done, "runs": len(self.epochs), "error": error}
