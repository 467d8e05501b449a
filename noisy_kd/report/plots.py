"""A sweep as a figure: error against the axis with its spread, the paper's curve, differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from noisy_kd.errors import InputError
from noisy_kd.report.frame import settings_of, text
from noisy_kd.report.sweeps import Sweep
from noisy_kd.report.tables import SHORT, best_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURED, PAPER, BASELINE = "tab:blue", "tab:orange", "tab:gray"


def draw(sweep: Sweep, summary: pd.DataFrame, file: Path) -> None:
    """Draw the cells of a sweep into a PNG or SVG file.

    Raises:
        InputError: for another kind of file, or without any finished run.
    """
    import matplotlib

    if file.suffix not in (".png", ".svg"):
        raise InputError(f"--plot {file}: choose a name that ends in .png or .svg.")
    done = summary[summary["n"] > 0] if len(summary) else summary
    if done.empty:
        raise InputError(f"there are no runs of {sweep.name} to draw.")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = settings_of(done)
    numeric = [k for k in settings if pd.api.types.is_numeric_dtype(done[k].infer_objects())]
    numeric = [key for key in numeric if done[key].nunique() > 1] or numeric
    figure, plot = pyplot.subplots(figsize=(6, 4), dpi=120, layout="constrained")
    if sweep.name == "figure3":
        _compression(plot, sweep, done)
    elif done["is_baseline"].sum() > 1 and not sweep.paper:
        _differences(plot, done, settings)
    elif len(numeric) == 2 and len(settings) == 2:
        _heat_map(plot, done, numeric)
    elif numeric:
        _curves(plot, summary, settings, numeric[-1])
    else:
        _points(plot, done, settings)
    plot.set_title(sweep.title, fontsize=8, wrap=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if file.suffix == ".svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": sweep.name}):  # the same file each time
        figure.savefig(file, metadata=metadata)
    pyplot.close(figure)


def _curves(plot: Axes, summary: pd.DataFrame, settings: list[str], axis: str) -> None:
    """Error against one axis; a line for each combination of the others."""
    others = [key for key in settings if key != axis]
    groups: Any = summary.groupby(others, sort=False) if others else [((), summary)]
    for number, (name, cells) in enumerate(groups):
        label = ", ".join(text(one) for one in name)
        cells, color = cells.sort_values(axis), f"C{number}"
        shown = f"{label or 'measured'} (mean ± s.d.)"
        own = (cells[axis], cells["mean"], cells["deviation"].fillna(0.0))
        plot.errorbar(*own, fmt="o-", capsize=3, color=color, label=shown)
        paper = cells[cells["paper"].notna()]
        if len(paper) > 1:
            plot.plot(
                paper[axis], paper["paper"], "--", color=PAPER, label=f"paper {label}".strip()
            )
        for _, base in cells[cells["is_baseline"]].iterrows():
            line: dict[str, Any] = {
                "color": color if label else BASELINE,
                "linewidth": 1,
                "linestyle": ":",
            }
            plot.axhline(
                base["mean"], label=", ".join(filter(None, ["logit regression", label])), **line
            )
    if axis in ("optimizer.weight_decay", "method.temperature"):
        scale = {"linthresh": 1e-6} if axis.endswith("decay") else {"base": 2}
        plot.set_xscale("symlog" if axis.endswith("decay") else "log", **scale)
    plot.set_xlabel(SHORT.get(axis, axis))
    plot.set_ylabel("test error in percent")
    plot.legend(fontsize=8)


def _heat_map(plot: Axes, done: pd.DataFrame, axes: list[str]) -> None:
    """Mean error over two numeric axes."""
    grid = done.pivot(index=axes[1], columns=axes[0], values="mean")
    image = plot.imshow(
        grid.astype(float), origin="lower", aspect="auto", cmap="viridis_r", alpha=0.7
    )
    for (y, x), mean in grid.stack().items():
        where = (grid.columns.get_loc(x), grid.index.get_loc(y))
        plot.text(*where, f"{mean:.2f}", ha="center", va="center", fontsize=7)
    plot.figure.colorbar(image, label="test error in percent")
    plot.set_xticks(range(len(grid.columns)), [f"{x:g}" for x in grid.columns])
    plot.set_yticks(range(len(grid.index)), [f"{y:g}" for y in grid.index])
    plot.set_xlabel(SHORT.get(axes[0], axes[0]))
    plot.set_ylabel(SHORT.get(axes[1], axes[1]))


def _points(plot: Axes, done: pd.DataFrame, settings: list[str]) -> None:
    """One point with its spread for each cell."""
    places = range(len(done))
    own = (places, done["mean"], done["deviation"].fillna(0.0))
    plot.errorbar(*own, fmt="o", color=MEASURED, capsize=4)
    plot.plot(places, done["paper"].astype(float), "_", color=PAPER, markersize=14)
    names = [", ".join(text(cell[key]) for key in settings) for _, cell in done.iterrows()]
    plot.set_xticks(places, names, rotation=30, ha="right", fontsize=8)
    plot.set_ylabel(
        "test error in percent" + " (paper: orange)" * bool(done["paper"].notna().any())
    )


def _differences(plot: Axes, done: pd.DataFrame, settings: list[str]) -> None:
    """Each cell's paired difference to the logit regression of its own settings, 95 % intervals."""
    cells = done[done["difference"].notna()]
    half = (cells["high"] - cells["difference"]).fillna(0.0)
    own = (cells["difference"], range(len(cells)))
    plot.errorbar(*own, xerr=half, fmt="o", color=MEASURED, capsize=3)
    plot.axvline(0, color=BASELINE, linewidth=1)
    names = [
        ", ".join(f"{SHORT.get(key, key)} {text(cell[key])}" for key in settings)
        for _, cell in cells.iterrows()
    ]
    plot.set_yticks(range(len(names)), names, fontsize=7)
    plot.invert_yaxis()
    plot.set_xlabel("points to logit regression, 95 % (left is better)", fontsize=8)


def _compression(plot: Axes, sweep: Sweep, done: pd.DataFrame) -> None:
    """[NT] Figure 3: error against compression ratio."""
    found = best_cells(sweep, done)
    sizes = sweep.paper["compression"]
    for k, (name, key, color) in enumerate(
        [("noisy teacher", "best", MEASURED), ("logit regression", "baseline", BASELINE)]
    ):
        points = sorted(
            (best["runs"]["result"].iloc[0]["compression"], (best, clean)[k]["mean"])
            for _, best, clean in found
        )
        if points:
            plot.plot(*zip(*points, strict=True), "o-", color=color, label=name)
        paper = sorted((sizes[student], sweep.paper[key][student]) for student in sizes)
        label = f"paper, {name}"
        plot.plot(*zip(*paper, strict=True), "o--", color=color, alpha=0.5, label=label)
    plot.set_xlabel("compression: multiplications of the teacher / of the student")
    plot.set_ylabel("test error in percent")
    plot.legend(fontsize=8)
