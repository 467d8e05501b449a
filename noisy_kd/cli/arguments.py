"""The arguments of ``noisy-kd train``, before Hydra sees them."""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from noisy_kd import runs
from noisy_kd.config import CONF, OPEN, SWEEPS, Config, read
from noisy_kd.errors import InputError
from noisy_kd.sweep.plugins import add_to_path

ACTIONS = {  # Hydra's options that say what to do
    *("--run", "-r", "--multirun", "-m", "--cfg", "-c", "--info", "-i", "--resolve"),
    *("--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc"),
}
OPTIONS = (*ACTIONS, "--config-name", "--config-path", "--config-dir", "--package")
EXPERIMENTAL = "--experimental-rerun"

TEXTS = (
    *("data.root", "store", "teacher.checkpoint", "hydra.run.dir", "hydra.sweep.dir"),
    *("student.layers", "teacher.layers"),
)
"""Keys that are paths or notations, whose values Hydra's grammar must not reinterpret."""

GROUPS = ("data", "method", "optimizer", "trainer", "logger", "callbacks")
"""Groups of ``conf/`` of which a run needs a file."""


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra understands them.

    A configuration of ``sweeps/`` becomes a multirun, without which Hydra reports another error
    than the true one. Keys that the schema does not know, of nodes that take the arguments of
    somebody else's class (``student.width=2``), get Hydra's ``++``.

    Raises:
        InputError: for a sweep that is not there, with the names that are, and for settings with
            dashes before them.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-cn", "--config-name", nargs="?", default="config", const="")
    parser.add_argument("-cp", "-cd", "--config-path", "--config-dir", dest="elsewhere")
    known, _ = parser.parse_known_args([a for a in arguments if a != "--"])
    sweeps = sorted(file.stem for file in SWEEPS.glob("[!.]*.yaml"))
    name = known.config_name.removesuffix(".yaml")
    if not known.elsewhere and name not in ("config", *sweeps):
        what = f"there is no sweep named {name}" if name else "-cn takes the name of a sweep"
        raise InputError(f"{what}: choose {', '.join(sweeps)}.")
    for argument in arguments:
        word = argument.split("=")[0]
        if len(word) > 3 and EXPERIMENTAL.startswith(word):  # also what argparse completes
            raise InputError(f"{argument}: it reads a pickle; type the settings instead.")
        if word[:2] == "--" and not any(option.startswith(word) for option in OPTIONS):
            raise InputError(
                f"{argument}: settings have no dashes, they are KEY=VALUE; see --help."
            )
        group, _, recipe = argument.partition("=")  # optional, so Hydra accepts any name
        if group == "training@teacher" and not known.elsewhere:
            names = sorted(file.stem for file in (CONF / "training").glob("[!.]*.yaml"))
            if recipe not in (*names, "null"):
                raise InputError(f"{argument}: choose {', '.join(names)} or null.")
        if recipe == "null" and group in GROUPS:
            names = sorted(file.stem for file in (CONF / group).glob("[!.]*.yaml"))
            raise InputError(f"{argument}: choose {', '.join(names)}.")
        if group in ("hydra.run.dir", "hydra.sweep.dir") and argument.endswith("="):
            raise InputError(f"{argument} must be a path.")
        if group == "hydra.run.dir":
            runs.check_is_of_a_run(Path(recipe.strip("'\"")).expanduser())
    acts = any(argument.split("=")[0] in ACTIONS for argument in arguments)
    multirun = name in sweeps and not acts and "hydra.mode=RUN" not in arguments
    lists = multirun or bool({"-m", "--multirun"} & set(arguments))
    options_first = sorted(arguments, key=_is_setting)  # as Hydra's parser wants them
    return ["--multirun"] * multirun + [_typed(argument, lists) for argument in options_first]


def _is_setting(argument: str) -> bool:
    return argument[:1] != "-" and (argument[:1] in ("+", "~") or "=" in argument)


def _typed(argument: str, multirun: bool = False) -> str:
    """Return a setting with its text quoted, so that Hydra's grammar leaves it as it was typed.

    An argument of somebody else's class becomes an addition.
    """
    key, equals, value = argument.partition("=")
    node, _, name = key.partition(".")
    is_open = node in OPEN and node != "data"  # whose keys are all in conf/data
    is_new = is_open and name.split(".")[0] not in {"", *(f.name for f in fields(OPEN[node]))}
    if is_new or key.startswith("teacher.optimizer."):
        key = f"++{key}"
    is_list = multirun and "," in value and not os.path.exists(os.path.expanduser(value))
    if key.lstrip("+") not in TEXTS or not value or value[0] in "'\"" or value == "null" or is_list:
        return key + equals + value
    value = os.path.expanduser(value) if key.startswith("hydra.") else value
    quoted = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)
    return f"{key}='{quoted}'"


def as_typed(override: str) -> str:
    """Return an override of Hydra's as a user types it: the inverse of :func:`for_hydra`."""
    key, equals, value = override.lstrip("+").partition("=")
    if key in TEXTS and value.startswith("'"):
        value = value[1:-1].replace("\\'", "'")
    return key + equals + value


def add_allow(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow``, for the verbs that read a finished run or an exported file."""
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE",
        help="a package or module whose code the files may run; repeat it for several",
    )


def compose(overrides: Sequence[str], name: str = "config") -> Config:
    """Return the configuration that ``noisy-kd train OVERRIDES`` would run.

    Raises:
        InputError: see :func:`noisy_kd.config.read`; Hydra's own errors pass through.
    """
    add_to_path()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return read(hydra_compose(name, [_typed(override) for override in overrides]))
