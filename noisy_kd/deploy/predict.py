"""Classify images with a run's own student, or an exported one (.onnx, .pt2, .safetensors)."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from noisy_kd import runs
from noisy_kd.data.decode import Pixels, decode, inspect
from noisy_kd.deploy import formats
from noisy_kd.errors import InputError

Answer = dict[str, Any]
"""``file``; ``classes`` and their ``probabilities``, the most probable first; ``error``, or ""."""


def predict(model: Path, files: Sequence[Path], top: int = 1) -> Iterator[Answer]:
    """Yield the most probable classes of each image file, or why it cannot be read.

    The images are decoded as the training's were.

    Args:
        model: a run's directory, or an exported file.
        files: the images.
        top: how many classes.

    Raises:
        InputError: if there is no such model, or its file takes preprocessed images only.
    """
    run, about = load(model)
    channels, height, width = about["input_shape"]
    pixels = Pixels((height, width), channels, about.get("bits"))
    for file in files:
        answer = {"file": str(file), "classes": [], "probabilities": [], "error": ""}
        try:
            header, image = inspect(file), decode(file, pixels)
        except InputError as error:
            yield {**answer, "error": str(error)}
            continue
        remarks = list(header.remarks)
        if header.size != (height, width):
            remarks.append(f"scaled from {header.size[1]}x{header.size[0]} to {width}x{height}")
        if remarks:
            print(f"{file}: {', '.join(remarks)}", file=sys.stderr)
        x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
        best = run(x).detach().softmax(dim=1).topk(min(top, len(about["classes"])))
        names = [about["classes"][k] for k in best.indices[0].tolist()]
        yield {**answer, "classes": names, "probabilities": best.values[0].tolist()}


def load(model: Path) -> tuple[formats.Model, dict[str, Any]]:
    """Return a function from uint8 images to logits, and what is known of the model.

    Raises:
        InputError: if there is no such model, or its file takes preprocessed images only.
    """
    if model.is_dir():
        result = runs.read_result(model) or {}
        net, preprocessing = runs.load_student(model), runs.load_preprocessing(model)
        return lambda x: net(preprocessing(x)), result
    if not model.exists():
        raise InputError(f"there is no {model}: name a run's directory or an exported file.")
    run, about = formats.load(model)
    if not about["preprocessing"]:
        raise InputError(f"{model} takes preprocessed images: export it --with-preprocessing.")
    return run, about
