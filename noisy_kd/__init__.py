"""noisy-kd: small students from large frozen teachers, with noisy teachers."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``load_student`` and ``load_preprocessing`` of a run, imported when they are asked for."""
    if name in ("load_student", "load_preprocessing"):
        from noisy_kd import runs

        return getattr(runs, name)
    raise AttributeError(f"module noisy_kd has no attribute {name}")
