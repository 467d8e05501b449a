"""Devices, and the precision that suits them.

``precision=auto`` is decided by what the device has, not by timing:

| device | auto |
|---|---|
| CPU with AMX or AVX512-BF16 units | bf16 |
| CUDA GPU of compute capability 8.0 or more | bf16 |
| any other, and every device with ``fast=false`` | 32 |
"""

from __future__ import annotations

import os

import torch

from noisy_kd.errors import InputError


def choose_device(accelerator: str) -> torch.device:
    """Return the device of a run on a single one.

    Args:
        accelerator: ``cpu``, ``gpu``, ``mps``, or ``auto`` for the best there is.

    Raises:
        InputError: if it is not there.
    """
    found = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found.get(accelerator, True):
        name = {"gpu": "GPU", "mps": "Apple GPU"}[accelerator]
        raise InputError(f"trainer.accelerator={accelerator}: no {name} found; use trainer=cpu.")
    if accelerator == "gpu" or (accelerator == "auto" and found["gpu"]):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if accelerator == "mps" or (accelerator == "auto" and found["mps"]):
        return torch.device("mps")
    return torch.device("cpu")


def resolve_precision(precision: str, fast: bool, device: torch.device) -> str:
    """Return ``32`` or ``bf16``: what is asked for, or for ``auto`` what the table above says."""
    if precision != "auto":
        return precision
    return "bf16" if fast and has_bf16_units(device) else "32"


def has_bf16_units(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
