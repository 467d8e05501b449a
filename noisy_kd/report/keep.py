"""Results that are kept with the project: the runs' numbers, their tables, their plot.

``NAME.jsonl`` holds what was asked and one line for each run, as its ``result.json`` has it;
``NAME.md`` and ``NAME.svg`` are made of it alone, and so is the part of ``RESULTS.md`` between
``<!-- NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noisy_kd.errors import InputError
from noisy_kd.report import cells, cost, page, robustness, sweeps
from noisy_kd.report.sweeps import Value
from noisy_kd.report.tables import as_markdown
from noisy_kd.report.tables import text as text_of
from noisy_kd.runs import Result

LEFT_OUT = ("directory", "process")  # where and how on one machine


def keep(
    name: str,
    what: str,
    found: Sequence[Result],
    chosen: Mapping[str, list[Value]],
    folder: Path,
    add: bool = False,
    replace: bool = False,
) -> None:
    """Write the files of a table into a folder, and its part of RESULTS.md above it.

    Kept runs are not lost but by ``replace``: they are added to, or all are among the new ones.

    Args:
        name: of the files.
        what: a sweep, or ``robustness``.
        found: results, with ``evaluation`` for ``robustness``.
        chosen: settings that were asked for.
        folder: ``results``.
        add: to the runs that NAME.jsonl holds already; one of the same settings gives way, if the
            new one is done.
        replace: them, whatever they are.

    Raises:
        InputError: if there is no run to keep, NAME is no name, or NAME.jsonl holds runs of
            something else, or others that would be lost.
    """
    if not re.fullmatch(r"\w[\w.-]*", name) or name == "end":
        raise InputError(f"--keep {name}: choose a plain name, the files go to {folder}.")
    runs = _members(what, found, chosen)
    if not runs:
        raise InputError(f"there are no runs of {what} to keep.")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.jsonl"
    kept: dict[Any, Result] = {}
    if file.exists() and not replace:
        was, asked, held = read(file)
        kept = {_key(run): run for run in held}
        new = {_key(run) for run in runs}
        if was != what:
            raise InputError(f"{file} holds runs of {was}, not of {what}: take another name.")
        if add:
            chosen = _joined(asked, chosen, file)
            shown = {_key(run) for run in _members(what, [*held, *runs], chosen)}
            if (new | kept.keys()) - shown:
                told = f"these runs and those of {file} have different settings"
                raise InputError(f"{told}, one table cannot show both: take another name.")
        elif lost := len(kept.keys() - new):
            advice = "--add keeps them too, --replace drops them"
            raise InputError(f"{file} holds {lost} runs that are not among these: {advice}.")
    for run in runs:
        own = {k: v for k, v in run.items() if k not in LEFT_OUT}
        if run["status"] == "done" or kept.get(_key(run), {}).get("status") != "done":
            kept[_key(run)] = own | cost.latency_of(run)
    lines = [json.dumps({"what": what, "chosen": dict(chosen)}), *map(json.dumps, kept.values())]
    file.write_text("\n".join(lines) + "\n")
    text = markdown(file)
    (folder / f"{name}.md").write_text(text)
    if what != "robustness":
        _draw(what, list(kept.values()), chosen, folder / f"{name}.svg")
    above = folder.parent / "RESULTS.md"
    if above.exists():
        above.write_text(with_part(above.read_text(), name, text))


def _key(run: Result) -> tuple[str, int | None]:
    """What tells kept runs apart; one may be there with several evaluations.

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
        told = " ".join(f"{key}={','.join(map(text_of, one))}" for key, one in first.items())
        raise InputError(f"{file} holds runs of other settings ({told or 'the usual ones'}).")
    seeds, new = held.get("seed"), more.get("seed")
    if seeds is None or new is None:  # one of them is of all seeds
        return first
    return first | {"seed": list(dict.fromkeys([*seeds, *new]))}


def read(file: Path) -> tuple[str, dict[str, list[Value]], list[Result]]:
    """What was asked (a sweep or ``robustness``, and settings), and the runs."""
    try:
        header, *runs = (json.loads(line) for line in file.read_text().splitlines())
        return header["what"], header["chosen"], runs
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged: mend it, or remove it and keep anew.") from error


def markdown(file: Path) -> str:
    """The tables of a kept file, and what they were made with."""
    what, chosen, found = read(file)
    if what == "robustness":
        made = robustness.tables(found, chosen)
    else:
        made = page.report(sweeps.read(what), found, chosen)
    return "\n\n".join([*map(as_markdown, made), _made_with(found)]) + "\n"


def with_part(text: str, name: str, part: str) -> str:
    """A page with another text between ``<!-- NAME -->`` and ``<!-- end -->``, if it has them."""
    pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{part}{match[2]}", text, flags=re.S)


def _members(
    what: str, found: Sequence[Result], chosen: Mapping[str, list[Value]]
) -> list[dict[str, Any]]:
    if what == "robustness":
        return [run for run in found if robustness.fits(run, chosen)]
    members: dict[str, Result] = {}
    for block in cells.blocks(sweeps.read(what), found, chosen):
        for cell in [*block.cells, *block.baselines.values()]:
            members |= {run["config_hash"]: run for run in cell.runs.values()}
    return list(members.values())


def _made_with(found: Sequence[Result]) -> str:
    devices = {f"{run['device']}, {run['precision']}" for run in found if "device" in run}
    versions = {f"torch {run['versions']['torch']}" for run in found if "versions" in run}
    ends = sorted(run["ended"] for run in found if "ended" in run)
    days = [time.strftime("%Y-%m-%d", time.gmtime(end)) for end in [*ends[:1], *ends[-1:]]]
    words = [f"{len(found)} runs", *sorted(devices), *sorted(versions)]
    return f"*{'; '.join([*words, ' to '.join(dict.fromkeys(days))])}.*"


def _draw(what: str, found: list[Result], chosen: Mapping[str, list[Value]], file: Path) -> None:
    from noisy_kd.report.plots import draw

    sweep = sweeps.read(what)
    blocks = cells.blocks(sweep, found, chosen)
    file.unlink(missing_ok=True)  # one of other runs
    if len(blocks) == 1:
        draw(sweep, blocks[0], file)
