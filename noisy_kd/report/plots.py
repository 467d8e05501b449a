"""A sweep as a figure: error against the axis with its spread, the paper's curve, differences."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisy_kd.errors import InputError
from noisy_kd.report import tables
from noisy_kd.report.cells import Block, Cell
from noisy_kd.report.statistics import Spread, paired, spread
from noisy_kd.report.sweeps import Sweep, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURED, PAPER, BASELINE = "tab:blue", "tab:orange", "tab:gray"


def draw(sweep: Sweep, block: Block, file: Path) -> None:
    """Draw a block of a sweep into a PNG or SVG file.

    Raises:
        InputError: for another kind of file, or without any run.
    """
    import matplotlib

    if file.suffix not in (".png", ".svg"):
        raise InputError(f"--plot {file}: choose a name that ends in .png or .svg.")
    if not any(cell.done for cell in block.cells):
        raise InputError(f"there are no runs of {sweep.name} to draw.")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = list(block.cells[0].key)
    numeric = [a for a in axes if all(isinstance(c.key[a], float) for c in block.cells)]
    varied = [a for a in numeric if len({cell.key[a] for cell in block.cells}) > 1]
    numeric = varied or numeric
    figure, plot = pyplot.subplots(figsize=(6, 4), dpi=120, layout="constrained")
    if sweep.name == "figure3":
        _compression(plot, sweep, block)
    elif len(block.baselines) > 1 and not sweep.paper:
        _differences(plot, block)
    elif len(numeric) == 2 and len(axes) == 2:
        _heat_map(plot, block, numeric)
    elif numeric:
        _curves(plot, sweep, block, numeric[-1])
    else:
        _points(plot, sweep, block)
    settings = f" ({tables.words(block.settings)})" if block.settings else ""
    plot.set_title(sweep.title + settings, fontsize=8, wrap=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if file.suffix == ".svg" else {}
    figure.savefig(file, metadata=metadata)
    pyplot.close(figure)


def _curves(plot: Axes, sweep: Sweep, block: Block, axis: str) -> None:
    """Error against one axis; a line for each combination of the others."""
    lines: dict[tuple[Value, ...], list[Cell]] = {}
    for cell in block.cells:
        lines.setdefault(tuple(v for k, v in cell.key.items() if k != axis), []).append(cell)
    for i, (name, cells) in enumerate(lines.items()):
        label = ", ".join(tables.text(one) for one in name)
        _line(plot, [(float(cell.key[axis]), spread(cell.errors())) for cell in cells], label, i)
        paper = [(float(cell.key[axis]), tables.printed(sweep, cell)) for cell in cells]
        known = [(x, number) for x, number in paper if number is not None]
        if len(known) > 1:
            plot.plot(*zip(*known, strict=True), "--", color=PAPER, label=f"paper {label}".strip())
    names = list(lines)
    for name, cell in block.baselines.items():
        clean = spread(cell.errors())
        if clean is not None:
            color = f"C{names.index(name)}" if name and name in names else BASELINE
            label = ", ".join(["logit regression", *map(tables.text, name)])
            plot.axhline(clean.mean, color=color, linewidth=1, linestyle=":", label=label)
    if axis in ("optimizer.weight_decay", "method.temperature"):
        plot.set_xscale("symlog" if axis.endswith("decay") else "log", **_scale(axis))
    plot.set_xlabel(tables.SHORT.get(axis, axis))
    plot.set_ylabel("test error in percent")
    plot.legend(fontsize=8)


def _scale(axis: str) -> dict[str, Any]:
    return {"linthresh": 1e-6} if axis.endswith("decay") else {"base": 2}


def _line(plot: Axes, cells: list[tuple[float, Spread | None]], name: str, number: int) -> None:
    """Means with standard deviations, joined where no cell between them is missing."""
    if not any(one for _, one in cells):
        return
    points = [(x, one.mean if one else nan, (one and one.deviation) or 0.0) for x, one in cells]
    x, mean, deviation = zip(*sorted(points), strict=True)
    label = f"{name or 'measured'} (mean ± s.d.)"
    plot.errorbar(x, mean, deviation, fmt="o-", capsize=3, color=f"C{number}", label=label)


def _heat_map(plot: Axes, block: Block, axes: list[str]) -> None:
    """Mean error over two numeric axes."""
    columns, rows = (sorted({float(cell.key[axis]) for cell in block.cells}) for axis in axes)
    grid = [[float("nan")] * len(columns) for _ in rows]
    for cell in block.cells:
        one = spread(cell.errors())
        if one is not None:
            x, y = (float(cell.key[axis]) for axis in axes)
            grid[rows.index(y)][columns.index(x)] = one.mean
            where = (columns.index(x), rows.index(y))
            plot.text(*where, f"{one.mean:.2f}", ha="center", va="center", fontsize=7)
    image = plot.imshow(grid, origin="lower", aspect="auto", cmap="viridis_r", alpha=0.7)
    plot.figure.colorbar(image, label="test error in percent")
    plot.set_xticks(range(len(columns)), [f"{x:g}" for x in columns])
    plot.set_yticks(range(len(rows)), [f"{y:g}" for y in rows])
    plot.set_xlabel(tables.SHORT.get(axes[0], axes[0]))
    plot.set_ylabel(tables.SHORT.get(axes[1], axes[1]))


def _points(plot: Axes, sweep: Sweep, block: Block) -> None:
    """One point with its spread for each cell."""
    cells = [cell for cell in block.cells if cell.done]
    names = [", ".join(tables.text(one) for one in cell.key.values()) for cell in cells]
    for i, cell in enumerate(cells):
        one = spread(cell.errors())
        assert one is not None
        plot.errorbar(i, one.mean, one.deviation or 0, fmt="o", color=MEASURED, capsize=4)
        number = tables.printed(sweep, cell)
        if number is not None:
            plot.plot(i, number, "_", color=PAPER, markersize=14)
    plot.set_xticks(range(len(cells)), names, rotation=30, ha="right", fontsize=8)
    plot.set_ylabel("test error in percent (paper: orange)" if sweep.paper else "test error %")


def _differences(plot: Axes, block: Block) -> None:
    """Each cell's paired difference to the logit regression of its own settings, 95 % intervals."""
    names: list[str] = []
    for cell in block.cells:
        baseline = block.baseline_of(cell)
        if baseline is None or block.is_baseline(cell):
            continue
        pair = paired(cell.errors(), baseline.errors())
        if pair is not None:
            half = 0.0 if pair.high is None else pair.high - pair.mean
            plot.errorbar(pair.mean, len(names), xerr=half, fmt="o", color=MEASURED, capsize=3)
            key = {tables.SHORT.get(axis, axis): one for axis, one in cell.key.items()}
            names.append(", ".join(f"{axis} {tables.text(one)}" for axis, one in key.items()))
    plot.axvline(0, color=BASELINE, linewidth=1)
    plot.set_yticks(range(len(names)), names, fontsize=7)
    plot.invert_yaxis()
    plot.set_xlabel("points to logit regression, 95 % (left is better)", fontsize=8)


def _compression(plot: Axes, sweep: Sweep, block: Block) -> None:
    """[NT] Figure 3: error against compression ratio."""
    measured: dict[str, list[tuple[float, float]]] = {"logit regression": [], "noisy teacher": []}
    for _, cell, baseline in tables.best_cells(sweep, block):
        size = next(iter(cell.done.values()))["compression"]
        for name, one in (("logit regression", baseline), ("noisy teacher", cell)):
            found = spread(one.errors())
            if found is not None:
                measured[name].append((size, found.mean))
    for (name, points), color, kind in zip(
        measured.items(), (BASELINE, MEASURED), ("baseline", "best"), strict=True
    ):
        if points:
            plot.plot(*zip(*sorted(points), strict=True), "o-", color=color, label=name)
        sizes, errors = sweep.paper["compression"], sweep.paper[kind]
        paper = sorted((sizes[student], errors[student]) for student in sizes)
        plot.plot(*zip(*paper, strict=True), "o--", color=color, alpha=0.5, label=f"paper, {name}")
    plot.set_xlabel("compression: multiplications of the teacher / of the student")
    plot.set_ylabel("test error in percent")
    plot.legend(fontsize=8)
