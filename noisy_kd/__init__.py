"""noisy-kd: small students from large frozen teachers, with noisy teachers.

The public names are imported when they are used: ``import noisy_kd`` loads neither torch nor
Lightning. ``__init__.pyi`` says which names there are, and where they come from.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_STUB = Path(__file__).with_suffix(".pyi").read_text()
_HOME_OF = {name: module for module, name in re.findall(r"from (\S+) import (\w+) as", _STUB)}

__all__ = [*_HOME_OF]


def __getattr__(name: str) -> Any:
    """Import a public name when it is used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module noisy_kd has no attribute {name}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return [*globals(), *_HOME_OF]
