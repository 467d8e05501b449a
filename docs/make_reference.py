"""MkDocs hook: append the tables of all keys to configuration.md (as a program: print them).

Types and ranges come from ``noisy_kd/config.py``, defaults and meanings from ``conf/**/*.yaml``.
"""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from noisy_kd import config as schema

CONF = Path(__file__).resolve().parents[1] / "conf"
LINE = re.compile(r"( *)([\w@]+):(?: +([^#]*?))?(?: *# (.*))?$")
SIGNS = {"least": "≥", "above": ">", "most": "≤", "below": "<"}
SECTIONS = {"": schema.Config, "data": schema.Data, "recipe": schema.Recipe, "model": None}
SECTIONS |= {"teacher": schema.Teacher, "training": None, "student": schema.Student}
SECTIONS |= {"augment": None, "method": None, "optimizer": schema.Optimizer}
SECTIONS |= {"trainer": schema.Trainer}
SECTIONS |= {"callbacks": None, "logger": None}
FILES = {"": "config.yaml", "teacher": "config.yaml", "student": "config.yaml"}
FILES |= {"augment": "config.yaml"}
FILES |= {"recipe": "data/*.yaml"}  # of the other groups: GROUP/*.yaml


def commented(file: Path) -> list[tuple[str, str, str]]:
    """Return (key, value, comment) of each key of a YAML file that has a comment."""
    text, path, found = file.read_text(), [], []
    is_global = "@package _global_" in text or file.parent == CONF
    start = [] if is_global else [file.parent.name]
    for indent, key, value, comment in (m.groups() for m in map(LINE.match, text.split("\n")) if m):
        path = [*path[: len(indent) // 2], key]
        if comment and path[0] != "defaults":
            found.append((".".join([*start, *path]), value or "", comment))
    return found


def table(head: str, rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table without its empty columns; nothing without rows."""
    columns = [column for column in zip(head.split(), *rows, strict=True) if any(column[1:])]
    rows = [*zip(*columns, strict=True)]
    lines = [[cell.replace("|", r"\|").replace("<", "&lt;") for cell in row] for row in rows]
    lines[1:1] = [["---"] * len(columns)] * bool(rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def section(title: str, made: Any) -> str:
    """Return the choices of a group, and its keys."""
    files = sorted(CONF.glob(FILES.get(title, f"{title}/*.yaml")))
    group = sorted(CONF.glob(f"{title}/*.yaml")) if title else []
    about = {file.stem: re.findall(r"^# (?!@)(.*)", file.read_text(), re.M)[:1] for file in group}
    choices = [(f"`{title}={name}`", *text) for name, text in about.items()]
    types = {item.name: item for item in fields(made)} if made else {}
    given: dict[str, dict[str, dict[str, str]]] = {}  # key, comment, file: value
    for file in files if title not in ("model", "training") else []:
        for key, value, comment in commented(file):
            if key.startswith(f"{title}.") if title else "." not in key:
                given.setdefault(key, {}).setdefault(comment, {})[file.stem] = value
    rows = []
    for key, comment, values in ((k, c, v) for k, own in given.items() for c, v in own.items()):
        rule = item.metadata if (item := types.get(key.removeprefix(f"{title}."))) else {}
        ranges = [f"{s} {rule[r]}" for r, s in SIGNS.items() if rule.get(r, schema.SEED) < 2**62]
        kind = ", ".join([str(item.type), *ranges]) if item else ""
        names = {v: [n for n in values if values[n] == v] for v in values.values()}
        named = [f"`{v}`" + f" ({', '.join(n)})" * (len(names) > 1) for v, n in names.items()]
        default = ", ".join(named).replace("``", "")
        of = "" if len(values) == len(files) else ", ".join(values)
        rows.append((f"`{key}`", of, kind, default, comment))
    about_keys = re.sub(r"^Group ``\w+``\.$", "", (made and made.__doc__) or "")
    choices = table("choice meaning", choices)
    parts = (f"### {title or 'Top level'}", about_keys, choices)
    return "\n\n".join([*filter(None, parts), table("key of type default meaning", rows)])


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Append all sections to the page configuration.md."""
    is_reference = page.file.src_uri == "configuration.md"
    return markdown + "\n".join(map(section, SECTIONS, SECTIONS.values())) * is_reference


if __name__ == "__main__":
    print(*map(section, SECTIONS, SECTIONS.values()), sep="\n")
