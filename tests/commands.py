"""The commands in this process: without the seconds that a process needs to start."""

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from noisy_kd.cli.main import main


@dataclass
class Done:
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str


def command(*arguments):
    """Run ``noisy-kd ARGUMENTS``."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        mock.patch.object(sys, "argv", ["noisy-kd", *map(str, arguments)]),
    ):
        try:
            code = main()
        except SystemExit as error:  # of argparse
            code = int(error.code or 0)
    return Done(code, stdout.getvalue(), stderr.getvalue())
