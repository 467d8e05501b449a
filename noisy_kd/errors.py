"""How a command fails: one line that says what is wrong and how to mend it, and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any, TextIO


class InputError(ValueError):
    """A wrong setting or unusable input; its message is the one line that the user reads."""


class TrainingError(RuntimeError):
    """A training that came to nothing; its message is the one line that the user reads."""


def causes(error: BaseException) -> list[BaseException]:
    """The error and all that led to it, outermost first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def one_line(error: BaseException) -> str:
    """What the user has to know of a configuration error, on one line."""
    for link in causes(error):
        if isinstance(link, InputError):
            return " ".join(str(link).split())
    text = " ".join(str(error).split())
    if "To append to your config use" in text:  # Hydra's advice ends in a refusal: no new keys
        key = text.split("'")[1].split("=")[0].lstrip("+")
        return f"{key} is not a key of this configuration; `python train.py --help` lists them."
    if "To append to your default list use" in text:  # the like, for a group
        return text.partition(" To append")[0]
    if "Ambiguous value for argument" in text:
        given = text.split("'")[1]
        key, _, value = given.partition("=")
        return (
            f"{given}: several values are a sweep, add `-m hydra/launcher=stacked`; one value with "
            f"a comma is quoted twice, '{key}=\"{value}\"'."
        )
    if "missing EQUAL" in text:
        given = text.split("'")[1]
        return f"{given} is no setting: they are KEY=VALUE; see --help."
    if type(error).__name__ == "OverrideParseException":
        return (
            f"{text.partition(' See https')[0]}: quote a value with brackets twice, as in "
            "'student.layers=\"[C5(S2P2)@16-MP2(S2)]-FC10\"'."
        )
    if "Available options" in text:  # an unknown name: Hydra lists the right ones
        missing, _, rest = text.partition(" Available options in ")
        group, _, names = rest.partition(":")
        names = ", ".join(names.partition("Config search path")[0].split())
        wanted = missing.rpartition("/")[2].rstrip("'")
        if wanted == "optuna":
            return "a search needs Optuna: pip install -e '.[search]'."
        return f"there is no {group.strip(chr(39))} named {wanted}: choose {names}."
    if text.startswith("Cannot find primary config"):
        return text.partition(" Check that")[0]
    if "Could not load" in text:  # a file of the defaults, where -cp leads elsewhere
        return text.partition(" Config search path")[0]
    if isinstance(error, OSError):
        return f"{text}: choose an output folder that can be written (hydra.run.dir=DIR)."
    return text


def is_input_error(error: BaseException) -> bool:
    """Whether the error is of the user's making: settings, names, values, files."""
    if any(isinstance(link, InputError) for link in causes(error)):
        return True
    if _is_hydras_own(error):
        return True
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    # by name: commands that need no Hydra start without it
    return bool(kinds & {"hydra.errors.HydraException", "omegaconf.errors.OmegaConfBaseException"})


def _is_hydras_own(error: BaseException) -> bool:
    """Whether Hydra's code refused a value: options that exclude each other, ``range(0,1,0)``."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, ValueError) and str(where).startswith("hydra.")


class _WithoutHydrasLine:
    """Standard error without the line that Hydra writes before it raises a job's error."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        if text.startswith("Error executing job with overrides:"):
            return len(text)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def printing() -> Iterator[None]:
    """What is printed in it ends in silence if whoever reads, as head does, has seen enough."""
    try:
        yield
        print(end="", flush=True)
    except BrokenPipeError:
        with suppress(OSError):  # lest Python flush once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_command(main: Callable[[], None], started: Callable[[], bool] = lambda: True) -> int:
    """Run a command and return its exit code: 0 done, 2 bad input, 1 interrupted.

    Any other error keeps its traceback (Python then exits with 1). Before ``started()`` is true
    an OSError means an output folder that cannot be written, which is bad input too. With
    ``HYDRA_FULL_ERROR=1`` in the environment bad input keeps its traceback as well.
    """
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    try:
        with redirect_stderr(_WithoutHydrasLine(sys.stderr)):
            main()
    except KeyboardInterrupt:
        how = ", without force=true," if "force=true" in sys.argv else ""
        print(f"Interrupted; the same command{how} goes on where it stopped.", file=sys.stderr)
        return 1
    except TrainingError as error:
        print(f"noisy-kd: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if not is_input_error(error) and not (isinstance(error, OSError) and not started()):
            raise
        if show_traceback:
            sys.excepthook(type(error), error, error.__traceback__)
        print(f"noisy-kd: {one_line(error)}", file=sys.stderr)
        return 2
    return 0
