"""How a command fails: one line that says what is wrong and how to mend it, and exit code 2."""

import io
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from typing import Any, TextIO

import yaml

from noisy_kd.config import UNKNOWN
from noisy_kd.data.files import disk_error, unwritable
from noisy_kd.errors import InputError, TrainingError

BEFORE_ERRORS = ("Error executing job with overrides:", "usage: ")
"""How the texts begin that Hydra and argparse write before an error."""


def one_line(error: BaseException, place: str = "a file") -> str:
    """Return what the user has to know of a configuration error, on one line."""
    own = _input_error(error)
    if own is not None:
        return " ".join(str(own).split())
    if (disk := disk_error(error)) is not None:
        return unwritable(os.fsdecode(disk.filename or place), disk)
    text = " ".join(str(error).split())
    if "To append to your config use" in text:  # Hydra's advice ends in a refusal: no new keys
        key = text.split("'")[1].split("=")[0].lstrip("+")
        return f"{key} {UNKNOWN}"
    if "Ambiguous value for argument" in text:
        given = text.split("'")[1]
        key, _, value = given.partition("=")
        return (
            f"{given}: several values are a sweep, add `-m`; one value with a comma "
            f"is quoted twice, '{key}=\"{value}\"'."
        )
    if "Available options in" in text:  # an unknown name: Hydra lists the right ones
        return text.partition(" Config search path")[0]
    if isinstance(error, yaml.YAMLError):
        return text
    if isinstance(error, UnicodeDecodeError):  # of Hydra's reader
        frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
        files = [names["full_path"] for names in frames if "full_path" in names]
        return f"{(files or [place])[-1]} is not a text in UTF-8: mend it, or remove it."
    first = next(iter(str(error).splitlines()), type(error).__name__)
    override = getattr(error, "override", None)  # the argument that Hydra cannot parse
    return f"{override}: {first}" if override else first


def is_input_error(error: BaseException) -> bool:
    """Return whether the error is of the user's making: settings, names, values, files."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [str(frame.f_globals.get("__name__")) for frame in frames]
    refused_by_hydra = [*filter("codecs".__ne__, modules)][-1].startswith("hydra.")
    packages = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    return (
        _input_error(error) is not None
        or disk_error(error) is not None
        or bool(packages & {"hydra", "omegaconf", "yaml"})
        or (isinstance(error, ValueError | TypeError) and refused_by_hydra)  # such as range(0,1,0)
        or modules[-1] == "logging.config"  # such as an unknown level
        or modules[-1].startswith("lightning.")  # such as EarlyStopping's monitor=nosuch
    )


def _input_error(error: BaseException | None) -> InputError | None:
    """Return the first InputError among the error and what led to it."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


class _ErrorsOnly:
    """Standard error without what Hydra and argparse write before an error."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith(BEFORE_ERRORS) else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _of_thread(failed: threading.ExceptHookArgs) -> None:
    """Say in one line what a thread of TensorBoard's could not write."""
    if failed.exc_value is None or disk_error(failed.exc_value) is None:
        threading.__excepthook__(failed)
    else:
        frames = [frame.f_locals for frame, _ in traceback.walk_tb(failed.exc_traceback)]
        files = [getattr(names.get("self"), "filename", None) for names in frames]
        places = [os.fsdecode(file) for file in files if isinstance(file, str | bytes)]
        place = (places or ["the curves"])[-1]
        print(f"noisy-kd: {one_line(failed.exc_value, place)}", file=sys.stderr)


def _interrupted() -> int:
    how = ", without force=true," if "force=true" in sys.argv else ""
    print(f"Interrupted; the same command{how} goes on where it stopped.", file=sys.stderr)
    return 1


def run_command(main: Callable[[], None]) -> int:
    """Run a command and return its exit code: 0 done, 2 bad input, 1 interrupted or diverged.

    Any other error keeps its traceback (Python then exits with 1). With ``HYDRA_FULL_ERROR=1`` in
    the environment bad input keeps its traceback as well.
    """
    threading.excepthook = _of_thread
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    try:
        with redirect_stderr(_ErrorsOnly(sys.stderr or io.StringIO())):  # it may be closed
            main()
        print(end="", flush=True)
    except BrokenPipeError:  # for example from `| head`
        with suppress(OSError):  # Python flushes once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return _interrupted()
    except TrainingError as error:
        print(f"noisy-kd: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):  # in an import
            return _interrupted()
        if not is_input_error(error):
            raise
        if show_traceback:
            traceback.print_exception(error)
        print(f"noisy-kd: {one_line(error)}", file=sys.stderr)
        return 2
    finally:
        if not show_traceback:
            del os.environ["HYDRA_FULL_ERROR"]
    return 0
