"""The words of a command line, before Hydra sees them."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import zip_longest

from noisy_kd.config import SWEEPS
from noisy_kd.errors import InputError

ACTIONS = {  # Hydra's options that say what to do
    *("--run", "-r", "--multirun", "-m", "--cfg", "-c", "--info", "-i"),
    *("--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc"),
}
NAMES = {"--config-name", "-cn"}
PLACES = {"--config-path", "-cp", "--config-dir", "-cd"}
TAKE_A_VALUE = {
    *NAMES,
    *PLACES,
    *("--cfg", "-c", "--package", "-p", "--experimental-rerun", "--shell-completion", "-sc"),
}
OPTIONS = ACTIONS | TAKE_A_VALUE | {"--resolve", "--"}


def for_hydra(words: Sequence[str]) -> list[str]:
    """A command line as Hydra understands it, told that the files of ``sweeps/`` are sweeps.

    Left to itself Hydra takes a sweep in whose settings anything is wrong for a single run, and
    says something else.

    Args:
        words: of the command line, without the program's name.

    Raises:
        InputError: for a configuration or sweep that is not there, with the names that are, and
            for settings with dashes before them.
    """
    sweeps = sorted(file.stem for file in SWEEPS.glob("*.yaml"))
    flags = [word.partition("=")[0] for word in words]
    elsewhere = any(_is_one_of(flag, PLACES) for flag in flags)
    multirun: list[str] = []
    for flag, word, following in zip_longest(flags, words, words[1:], fillvalue=""):
        if flag.startswith("-") and not _is_one_of(flag, OPTIONS):
            raise InputError(f"{flag}: settings have no dashes, they are KEY=VALUE; see --help.")
        if _is_one_of(flag, NAMES) and not elsewhere:
            name = (word.partition("=")[2] or following).removesuffix(".yaml")
            if name not in ("config", *sweeps):
                told = f"there is no sweep named {name}" if name else f"{flag} takes a sweep's name"
                raise InputError(f"{told}: choose {', '.join(sweeps)}.")
            multirun = ["--multirun"] if name in sweeps else []
    if any(_is_one_of(flag, ACTIONS) for flag in flags) or "hydra.mode=RUN" in " ".join(words):
        multirun = []
    return [*multirun, *_options_first(words)]


def _is_one_of(flag: str, options: Set[str]) -> bool:
    """Whether the flag is one of the options; long ones may be shortened."""
    if not flag.startswith("--") or flag == "--":
        return flag in options
    return any(option.startswith(flag) for option in options)


def _options_first(words: Sequence[str]) -> list[str]:
    """The words with KEY=VALUE, +KEY=VALUE and ~KEY behind all options.

    With an option between settings Hydra's parser knows only the first of them.
    """
    options: list[str] = []
    settings: list[str] = []
    takes = False
    for word in words:
        setting = not takes and not word.startswith("-") and ("=" in word or word.startswith("~"))
        (settings if setting else options).append(word)
        takes = _is_one_of(word, TAKE_A_VALUE)
    if options and options[-1] in ("--info", "-i"):
        options.append("all")  # its default, lest it take a setting
    return options + settings
