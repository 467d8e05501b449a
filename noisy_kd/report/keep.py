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


def keep(
    name: str,
    what: str,
    results: Sequence[Result],
    chosen: Mapping[str, list[Value]],
    folder: Path,
    add: bool = False,
    replace: bool = False,
) -> None:
    """Write the files of a table into a folder, and its part of the page NAME.md.

    Args:
        name: of the files.
        what: a sweep, or ``robustness``.
        results: of its runs; with ``evaluation`` for ``robustness``.
        chosen: settings that the runs must have.
        folder: ``results``.
        add: to the runs that NAME.jsonl holds already; a finished run replaces one of its settings.
        replace: drop what NAME.jsonl holds.

    Raises:
        InputError: if there is no run to keep, NAME is no name, or NAME.jsonl holds runs of
            something else, or others that would be lost.
    """
    if not re.fullmatch(r"\w[\w.-]*", name) or name == "end":
        raise InputError(f"--keep {name}: choose a plain name, the files go to {folder}.")
    table = frame.select(frame.frame(results), chosen)
    new = [] if table.empty else list(table["result"])
    if not new:
        raise InputError(f"there are no runs of {what} to keep.")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.jsonl"
    kept: dict[Any, Result] = {}
    if file.exists() and not replace:
        was, asked, held = read(file)
        kept = {_key(run): run for run in held}
        if was != what:
            raise InputError(f"{file} holds runs of {was}, not of {what}: take another name.")
        lost = len(kept.keys() - {_key(run) for run in new})
        if lost and not add:
            advice = "--add keeps them too, --replace drops them"
            raise InputError(f"{file} holds {lost} runs that are not among these: {advice}.")
        if add:
            chosen = _joined(asked, chosen, file)
    for run in new:
        own = {key: value for key, value in run.items() if key not in LEFT_OUT}
        latency = tables.latency_of(run)
        if run["status"] == "done" or kept.get(_key(run), {}).get("status") != "done":
            kept[_key(run)] = own | ({"latency": dict(latency)} if latency else {})
    lines = [json.dumps({"what": what, "chosen": dict(chosen)}), *map(json.dumps, kept.values())]
    file.write_text("\n".join(lines) + "\n")
    text = markdown(file)
    page = folder / f"{name}.md"
    frame_of = page.read_text("utf-8") if page.exists() else f"<!-- {name} -->\n<!-- end -->\n"
    page.write_text(with_part(frame_of, name, text), encoding="utf-8")
    if what != "robustness":
        draw(file)


def read(file: Path) -> tuple[str, dict[str, list[Value]], list[Result]]:
    """Return what was asked (a sweep or ``robustness``, and settings), and the runs.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        header, *results = (json.loads(line) for line in file.read_text().splitlines())
        return header["what"], header["chosen"], results
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged: mend it, or remove it and keep anew.") from error


def markdown(file: Path) -> str:
    """Return the tables of a kept file, and what they were made with."""
    what, chosen, results = read(file)
    if what == "robustness":
        made = robustness.tables(results, chosen)
    else:
        made = tables.report(sweeps.read(what), results, chosen)
    return "\n\n".join([*map(tables.as_markdown, made), _made_with(results)]) + "\n"


def draw(file: Path) -> None:
    """Draw the plot of a kept file beside it."""
    from noisy_kd.report import plots

    what, _, results = read(file)
    sweep = sweeps.read(what)
    plots.draw(sweep, frame.cells(sweep, frame.frame(results)), file.with_suffix(".svg"))


def with_part(text: str, name: str, part: str) -> str:
    """Return a page with another text between ``<!-- NAME -->`` and ``<!-- end -->``."""
    pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{part}{match[2]}", text, flags=re.S)


def _key(run: Result) -> tuple[str, int | None]:
    """What distinguishes kept runs; one may be there with several evaluations.

    Logit regression is one run, whichever method's zero noise it came by.
    """
    plain = run["method"] == "logit_regression"
    same = run["settings_hash"] if plain else run["config_hash"]
    return f"{plain} {same}", run.get("evaluation", {}).get("images")


def _joined(
    held: Mapping[str, list[Value]], more: Mapping[str, list[Value]], file: Path
) -> dict[str, list[Value]]:
    """The settings of kept runs and of those that come to them: only their seeds may differ."""
    first, second = ({k: v for k, v in one.items() if k != "seed"} for one in (held, more))
    if first != second:
        was = " ".join(f"{key}={','.join(map(frame.text, one))}" for key, one in first.items())
        raise InputError(f"{file} holds runs of other settings ({was or 'the usual ones'}).")
    seeds, new = held.get("seed"), more.get("seed")
    if seeds is None or new is None:  # one of them is of all seeds
        return first
    return first | {"seed": list(dict.fromkeys([*seeds, *new]))}


def _made_with(results: Sequence[Result]) -> str:
    devices = {f"{run['device']}, {run['precision']}" for run in results if "device" in run}
    versions = {f"torch {run['versions']['torch']}" for run in results if "versions" in run}
    ends = sorted(run["ended"] for run in results if "ended" in run)
    days = [time.strftime("%Y-%m-%d", time.gmtime(end)) for end in [*ends[:1], *ends[-1:]]]
    words = [f"{len(results)} runs", *sorted(devices), *sorted(versions)]
    return f"*{'; '.join([*words, ' to '.join(dict.fromkeys(days))])}.*"
