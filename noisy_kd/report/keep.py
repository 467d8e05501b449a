"""Results that are kept with the project: the runs' numbers, their tables, their plot.

``NAME.jsonl`` holds what was asked and one line for each run, as its ``result.json`` has it;
``NAME.svg`` is made of it alone, and so is the part of the page ``NAME.md`` between
``<!-- NAME -->`` and ``<!-- end -->``.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noisy_kd.errors import InputError
from noisy_kd.report import frame, robustness, sweeps, tables
from noisy_kd.report.sweeps import Value
from noisy_kd.runs import Result

LEFT_OUT = ("directory", "process")  # where and how on one machine


def keep_results(
    name: str,
    what: str,
    results: Sequence[Result],
    chosen: Mapping[str, list[Value]],
    folder: Path,
    add: bool = False,
    replace: bool = False,
) -> None:
    """Write the files NAME.* of a sweep's (or ``robustness``) runs, and their part of NAME.md.

    ``add`` the runs to those that NAME.jsonl holds already, or ``replace`` them.

    Raises:
        InputError: if there is no run to keep, NAME is no name, or NAME.jsonl holds runs of
            something else, or others that would be lost.
    """
    if not re.fullmatch(r"\w[\w.-]*", name) or name == "end":
        raise InputError(f"--keep {name}: choose a plain name, the files go to {folder}.")
    table = frame.select(frame.frame(results), chosen)
    if table.empty:
        raise InputError(f"there are no runs of {what} to keep.")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.jsonl"
    kept: dict[Any, Result] = {}
    if file.exists() and not replace:
        was, asked, held = read(file)
        kept = {_key(run): run for run in held}
        if was != what:
            raise InputError(f"{file} holds runs of {was}, not of {what}: take another name.")
        lost = len(kept.keys() - set(map(_key, table["result"])))
        if lost and not add:
            advice = "--add keeps them too, --replace drops them"
            raise InputError(f"{file} holds {lost} runs that are not among these: {advice}.")
        if add:
            seeds = asked.pop("seed", None)
            same = {key: values for key, values in chosen.items() if key != "seed"}
            if asked != same:
                raise InputError(f"{file} holds runs of other settings: {asked or 'the defaults'}.")
            if seeds and "seed" in chosen:
                same["seed"] = list(dict.fromkeys([*seeds, *chosen["seed"]]))
            chosen = same
    for run in table["result"]:
        if run["status"] == "done" or kept.get(_key(run), {}).get("status") != "done":
            latency = tables.latency_of(run)
            own = {key: value for key, value in run.items() if key not in LEFT_OUT}
            kept[_key(run)] = own | ({"latency": latency} if latency else {})
    lines = [{"what": what, "chosen": dict(chosen)}, *kept.values()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = markdown(file)
    if what != "robustness":
        from noisy_kd.report import plots

        sweep = sweeps.read(what)
        cells = frame.cells(sweep, frame.frame(kept.values()))
        plots.draw(sweep, cells, file.with_name(f"{name}.svg"))
    page = file.with_name(f"{name}.md")
    old = page.read_text("utf-8") if page.exists() else f"<!-- {name} -->\n<!-- end -->\n"
    page.write_text(with_part(old, name, text), encoding="utf-8")


def read(file: Path) -> tuple[str, dict[str, list[Value]], list[Result]]:
    """Return what was asked (a sweep or ``robustness``, and settings), and the runs."""
    try:
        header, *results = map(json.loads, file.read_text().splitlines())
        return header["what"], header["chosen"], results
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is damaged: restore it, or remove it and keep the runs again."
        ) from error


def markdown(file: Path) -> str:
    """Return the tables of a kept file, and a line with its machines, versions and days."""
    what, chosen, results = read(file)
    if what == "robustness":
        parts = robustness.tables(results, chosen)
    else:
        parts = tables.report(sweeps.read(what), results, chosen)
    done = [run for run in results if "ended" in run]
    machines = {f"{run['device']}, {run['precision']}" for run in done}
    versions = {f"torch {run['versions']['torch']}" for run in done}
    days = sorted(time.strftime("%Y-%m-%d", time.gmtime(run["ended"])) for run in done)
    period = " to ".join(dict.fromkeys([*days[:1], *days[-1:]]))
    line = "; ".join([f"{len(results)} runs", *sorted(machines), *sorted(versions), period])
    return "\n\n".join([*map(tables.as_markdown, parts), f"*{line}.*"]) + "\n"


def with_part(text: str, name: str, part: str) -> str:
    """Return a page with another text between ``<!-- NAME -->`` and ``<!-- end -->``."""
    pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{part}{match[2]}", text, flags=re.DOTALL)


def _key(run: Result) -> tuple[str, int | None]:
    """Return what distinguishes kept runs; one may be there with several evaluations.

    Logit regression is one run, by whichever method's zero noise.
    """
    same = run["settings_hash" if run["method"] == "logit_regression" else "config_hash"]
    return same, run.get("evaluation", {}).get("images")
