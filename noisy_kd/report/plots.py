"""A sweep as a figure: error against the axis with its spread, the paper's curve, differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from noisy_kd.errors import InputError
from noisy_kd.report.frame import settings_of, text
from noisy_kd.report.sweeps import Sweep
from noisy_kd.report.tables import best_cells, place, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURED, PAPER, BASELINE = "tab:blue", "tab:orange", "tab:gray"


def draw(sweep: Sweep, summary: pd.DataFrame, file: Path) -> None:
    """Draw the cells of a sweep into a PNG or SVG file.

    Raises:
        InputError: for another type of file, or without any finished run.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if file.suffix not in (".png", ".svg"):
        raise InputError(f"--plot {file}: choose a name that ends in .png or .svg.")
    done = summary[summary["n"] > 0] if len(summary) else summary
    if done.empty:
        raise InputError(f"there are no runs of {sweep.name} to draw.")
    settings = settings_of(done)
    numeric = [k for k in settings if pd.api.types.is_numeric_dtype(done[k].infer_objects())]
    numeric = [key for key in numeric if done[key].nunique() > 1] or numeric
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    plot = figure.subplots()
    plot.set_ylabel("test error in percent")
    if sweep.name == "figure3":
        _compression(plot, sweep, done)
    elif "data.views" in numeric:
        _curves(plot, done.assign(is_baseline=False), settings, "data.views")
    elif done["is_baseline"].sum() > 1 and not sweep.paper:
        _differences(plot, done, settings)
    elif numeric:
        _curves(plot, summary, settings, numeric[-1])
    else:
        _points(plot, done, settings)
    if plot.get_legend_handles_labels()[0]:
        plot.legend(fontsize=8)
    plot.set_title(sweep.title, fontsize=8, wrap=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if file.suffix == ".svg" else {}
    with rc_context({"svg.hashsalt": sweep.name}):  # the same file each time
        figure.savefig(file, metadata=metadata)


def _curves(plot: Axes, summary: pd.DataFrame, settings: list[str], axis: str) -> None:
    """Draw error against one axis; a line for each combination of the others."""
    others = [key for key in settings if key != axis]
    groups: Any = summary.groupby(others, sort=False, dropna=False) if others else [((), summary)]
    for number, (values, cells) in enumerate(groups):
        label, color = ", ".join(map(text, values)), f"C{number}"
        cells = cells.sort_values(axis)
        name, deviation = f"{label or 'measured'} (mean ± s.d.)", cells["deviation"].fillna(0.0)
        bars: dict[str, Any] = {"fmt": "o-", "capsize": 3, "color": color, "label": name}
        plot.errorbar(cells[axis], cells["mean"], deviation, **bars)
        paper = cells[cells["paper"].notna()]
        if len(paper) > 1:
            name = f"paper {label}".strip()
            plot.plot(paper[axis], paper["paper"], "--", color=PAPER, label=name)
        for mean in cells.loc[cells["is_baseline"], "mean"]:
            name = ", ".join(filter(None, ["logit regression", label]))
            line_color = color if label else BASELINE
            plot.axhline(mean, linewidth=1, linestyle=":", label=name, color=line_color)
    if axis == "optimizer.weight_decay":
        plot.set_xscale("symlog", linthresh=1e-6)
    elif axis == "method.temperature":
        plot.set_xscale("log", base=2)
    elif axis == "data.views":
        plot.set_xscale("log")
        plot.set_xticks(sorted(summary[axis].unique()), minor=False)
        plot.xaxis.set_major_formatter("{x:g}")
        plot.minorticks_off()
    plot.set_xlabel(short(axis))


def _points(plot: Axes, done: pd.DataFrame, settings: list[str]) -> None:
    """Draw one point with its spread for each cell."""
    places, deviation = range(len(done)), done["deviation"].fillna(0.0)
    plot.errorbar(places, done["mean"], deviation, fmt="o", color=MEASURED, capsize=4)
    plot.plot(places, done["paper"].astype(float), "_", color=PAPER, markersize=14)
    names = [", ".join(map(text, values)) for values in done[settings].to_numpy()]
    plot.set_xticks(places, names, rotation=30, ha="right", fontsize=8)
    if done["paper"].notna().any():
        plot.set_ylabel("test error in percent (paper: orange)")


def _differences(plot: Axes, done: pd.DataFrame, settings: list[str]) -> None:
    """Draw each cell's paired difference to its baseline, with 95 % intervals."""
    cells = done[done["difference"].notna()]
    half, places = (cells["high"] - cells["difference"]).fillna(0.0), range(len(cells))
    plot.errorbar(cells["difference"], places, xerr=half, fmt="o", color=MEASURED, capsize=3)
    plot.axvline(0, color=BASELINE, linewidth=1)
    plot.set_yticks(places, [place(cell, settings) for _, cell in cells.iterrows()], fontsize=7)
    plot.invert_yaxis()
    plot.set_xlabel("points to logit regression, 95 % (left is better)", fontsize=8)
    plot.set_ylabel("")


def _compression(plot: Axes, sweep: Sweep, done: pd.DataFrame) -> None:
    """[NT] Figure 3: error against compression ratio."""
    best = best_cells(done).sort_values("compression")
    paper = pd.DataFrame(sweep.paper).sort_values("compression")
    noisy = ("mean", "best", MEASURED, "noisy teacher")
    plain = ("baseline", "baseline", BASELINE, "logit regression")
    for measured, printed, color, name in (noisy, plain):
        plot.plot(best["compression"], best[measured], "o-", color=color, label=name)
        line: dict[str, Any] = {"color": color, "alpha": 0.5, "label": f"paper, {name}"}
        plot.plot(paper["compression"], paper[printed], "o--", **line)
    plot.set_xlabel("compression: multiplications of the teacher / of the student")
