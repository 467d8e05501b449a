"""The project's exceptions, and the check of a value's range."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any


class InputError(ValueError):
    """A wrong setting or unusable input; its message is the one line that the user reads."""


class DamagedError(InputError):
    """A file whose content is not what was written."""


class TrainingError(RuntimeError):
    """A training that failed; its message is the one line that the user reads."""


def shown(value: Any) -> str:
    """Return a value as a user writes it: ``null``, ``true``, ``false``."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def check_range(
    key: str,
    value: Any,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
    plain: bool = False,
    filled: bool = False,
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
        "a path": not filled or bool(value),
        "a plain name (letters, digits, _ . -)": not plain or re.fullmatch(r"\w[\w.-]*", value),
        "below 2^63": not isinstance(value, int) or abs(value) < 2**63,
    }
    for rule, holds in rules.items():
        if not holds:
            raise InputError(f"{key}={shown(value)} must be {rule}.")
