"""noisy-kd: small students from large frozen teachers, with noisy teachers."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``noisy_kd.load_student(RUN_DIR)``, without loading anything before it is asked for."""
    if name == "load_student":
        from noisy_kd.runs import load_student

        return load_student
    raise AttributeError(f"module noisy_kd has no attribute {name}")
