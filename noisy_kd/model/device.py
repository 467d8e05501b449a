"""Devices, and the precision that suits them.

``precision=auto`` is bf16 on CPUs with AMX units, on AMD CPUs with AVX512-BF16 units (Zen 4 or
newer) and on CUDA GPUs of compute capability 8.0 or more; 32 on any other device and with
``fast=false``. On Intel CPUs AVX512-BF16 without AMX is no gain: lenet_cifar trains at 0.60 times
the speed of float32 there, on an AMD EPYC at 1.62 times.
"""

import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from noisy_kd.errors import InputError


def choose_device(accelerator: str) -> torch.device:
    """Return the device of ``cpu``, ``gpu``, ``mps``, or for ``auto`` the best there is.

    Raises:
        InputError: if it is not there.
    """
    available = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(accelerator, True):
        name = {"gpu": "GPU", "mps": "Apple GPU"}[accelerator]
        raise InputError(f"trainer.accelerator={accelerator}: no {name} found; use trainer=cpu.")
    if accelerator == "auto":
        accelerator = next((name for name, is_there in available.items() if is_there), "cpu")
    if accelerator == "gpu":
        return torch.device(
            "cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))
        )
    return torch.device(accelerator)


def resolve_precision(precision: str, fast: bool, device: torch.device) -> str:
    """Return ``32`` or ``bf16``: what is asked for, or for ``auto`` as stated above."""
    if precision != "auto":
        return precision
    return "bf16" if fast and has_bf16_units(device) else "32"


def has_bf16_units(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 matrices faster than float32, see above."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and not _is_intel()


@cache
def _is_intel() -> bool:
    with suppress(OSError):  # Linux, where platform knows no vendor
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    return "Intel" in platform.processor()
