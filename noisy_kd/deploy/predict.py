"""Classify images with a run's own student, or an exported one (.onnx, .pt2, .safetensors)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisy_kd import runs
from noisy_kd.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def load(model: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """From uint8 images to logits, and what is known of the model: classes, input shape.

    Raises:
        InputError: if there is no such model, or its file takes preprocessed images only.
    """
    if model.is_dir():
        result = runs.read_result(model) or {}
        net, preprocessing = runs.load_student(model), runs.load_preprocessing(model)
        return lambda x: net(preprocessing(x)), result
    if not model.exists():
        raise InputError(f"there is no {model}: name a run's directory or an exported file.")
    from noisy_kd.deploy.formats import runner

    try:
        about, run = metadata(model), runner(model)
    except InputError:
        raise
    except Exception as error:  # each library raises its own for a damaged file
        raise InputError(f"{model} cannot be read: {' '.join(str(error).split())}") from error
    if not about["preprocessing"]:
        raise InputError(f"{model} takes preprocessed images: export it --with-preprocessing.")
    return run, about


def metadata(file: Path) -> dict[str, Any]:
    """What the export has written into the file.

    Raises:
        InputError: if nothing is there.
    """
    text = None
    if file.suffix == ".onnx":
        from noisy_kd.deploy.formats import session

        text = session(file).get_modelmeta().custom_metadata_map.get("noisy_kd")
    elif file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, "pt") as content:
            text = (content.metadata() or {}).get("noisy_kd")
    elif file.suffix == ".pt2":
        import torch

        extra = {"noisy_kd": ""}
        torch.export.load(file, extra_files=extra)
        text = extra["noisy_kd"] or None
    if text is None:
        raise InputError(f"{file} says nothing of its classes: name the run's directory instead.")
    about: dict[str, Any] = json.loads(text)
    return about


def read_image(file: Path, shape: list[int]) -> Tensor:
    """One image as uint8 [1, C, H, W].

    Raises:
        InputError: if the file cannot be read as an image.
    """
    import numpy as np
    import torch
    from PIL import Image

    channels, height, width = shape
    try:
        with Image.open(file) as image:
            fitted = image.convert("L" if channels == 1 else "RGB")
    except OSError as error:
        raise InputError(f"{file} cannot be read as an image ({error}).") from error
    if fitted.size != (width, height):
        was = "x".join(map(str, fitted.size))
        print(f"{file}: scaled from {was} to {width}x{height}", file=sys.stderr)
        fitted = fitted.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(fitted, dtype=np.uint8).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
