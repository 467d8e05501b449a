"""The project's exceptions, and the check of a value's range."""

import math
from collections.abc import Sequence
from typing import Any


class InputError(ValueError):
    """A wrong setting or unusable input; its message is the one line that the user reads."""


class DamagedError(InputError):
    """A file whose content is not what was written."""


class TrainingError(RuntimeError):
    """A training that failed; its message is the one line that the user reads."""


def check_range(
    key: str,
    value: Any,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
) -> None:
    """Refuse a value outside its range.

    Raises:
        InputError: naming the key, the value and the range.
    """
    rules = {
        "a finite number": not isinstance(value, float) or math.isfinite(value),
        f"at least {least}": least is None or value >= least,
        f"above {above}": above is None or value > above,
        f"at most {most}": most is None or value <= most,
        f"below {below}": below is None or value < below,
        f"one of {', '.join(choices or ())}": choices is None or value in choices,
    }
    for rule, holds in rules.items():
        if not holds:
            raise InputError(f"{key}={value} must be {rule}.")
