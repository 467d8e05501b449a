"""How a command fails: one line that says what is wrong and how to mend it, and exit code 2."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any, TextIO

from noisy_kd.config import UNKNOWN
from noisy_kd.errors import InputError, TrainingError

LIBRARIES = {"hydra.errors.HydraException", "omegaconf.errors.OmegaConfBaseException"}
"""Errors of wrong settings; by name, because commands that need no Hydra start without it."""


def causes(error: BaseException) -> list[BaseException]:
    """Return the error and all that led to it, outermost first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def one_line(error: BaseException) -> str:
    """Return what the user has to know of a configuration error, on one line."""
    for link in causes(error):
        if isinstance(link, InputError):
            return " ".join(str(link).split())
    text = " ".join(str(error).split())
    if "To append to your config use" in text:  # Hydra's advice ends in a refusal: no new keys
        key = text.split("'")[1].split("=")[0].lstrip("+")
        return f"{key} {UNKNOWN}"
    if "Ambiguous value for argument" in text:
        given = text.split("'")[1]
        key, _, value = given.partition("=")
        return (
            f"{given}: several values are a sweep, add `-m hydra/launcher=stacked`; one value with "
            f"a comma is quoted twice, '{key}=\"{value}\"'."
        )
    if "Available options in" in text:  # an unknown name: Hydra lists the right ones
        return text.partition(" Config search path")[0]
    lines = str(error).splitlines() or [type(error).__name__]
    override = getattr(error, "override", None)  # the argument that Hydra cannot parse
    return f"{override}: {lines[0]}" if override else lines[0]


def is_input_error(error: BaseException) -> bool:
    """Return whether the error is of the user's making: settings, names, values, files."""
    if any(isinstance(link, InputError) for link in causes(error)):
        return True
    names = {f"{cls.__module__}.{cls.__name__}" for cls in type(error).__mro__}
    return bool(names & LIBRARIES) or _is_hydras_own(error)


def _is_hydras_own(error: BaseException) -> bool:
    """Whether Hydra's code refused a value: options that exclude each other, ``range(0,1,0)``."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, ValueError) and str(where).startswith("hydra.")


BEFORE_ERRORS = ("Error executing job with overrides:", "usage: ")
"""How the texts begin that Hydra and argparse write before an error."""


class _ErrorsOnly:
    """Standard error without what Hydra and argparse write before an error."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        if text.startswith(BEFORE_ERRORS):
            return len(text)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def printing() -> Iterator[None]:
    """Ignore BrokenPipeError, for example from ``| head``."""
    try:
        yield
        print(end="", flush=True)
    except BrokenPipeError:
        with suppress(OSError):  # Python flushes once more at its end
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
        with redirect_stderr(_ErrorsOnly(sys.stderr)):
            main()
    except KeyboardInterrupt:
        how = ", without force=true," if "force=true" in sys.argv else ""
        print(f"Interrupted; the same command{how} goes on where it stopped.", file=sys.stderr)
        return 1
    except TrainingError as error:
        print(f"noisy-kd: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        wrong = is_input_error(error)  # some of Hydra's are an OSError as well
        unwritable = not wrong and isinstance(error, OSError) and not started()
        if not wrong and not unwritable:
            raise
        if show_traceback:
            sys.excepthook(type(error), error, error.__traceback__)
        advice = ": choose an output folder that can be written (hydra.run.dir=DIR)."
        print(f"noisy-kd: {one_line(error)}{advice if unwritable else ''}", file=sys.stderr)
        return 2
    finally:
        if not show_traceback:
            del os.environ["HYDRA_FULL_ERROR"]
    return 0
