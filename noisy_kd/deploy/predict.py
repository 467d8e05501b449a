"""Classify images with a run's own student, or an exported one (.onnx, .pt2, .safetensors)."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisy_kd import runs
from noisy_kd.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Answer = dict[str, Any]
"""``file``, and ``classes`` with their ``probabilities``, the most probable first; or ``error``."""


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
    import torch

    from noisy_kd.data.decode import Pixels, decode, inspect

    run, about = load(model)
    channels, height, width = about["input_shape"]
    pixels = Pixels((height, width), channels, about.get("bits"))
    for file in files:
        try:
            header, image = inspect(file), decode(file, pixels)
        except InputError as error:
            yield {"file": str(file), "error": str(error)}
            continue
        remarks = list(header.remarks)
        if header.size != (height, width):
            remarks.append(f"scaled from {header.size[1]}x{header.size[0]} to {width}x{height}")
        if remarks:
            print(f"{file}: {', '.join(remarks)}", file=sys.stderr)
        x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
        best = run(x).detach().softmax(dim=1).topk(min(top, len(about["classes"])))
        names = [about["classes"][k] for k in best.indices[0].tolist()]
        yield {"file": str(file), "classes": names, "probabilities": best.values[0].tolist()}


def write(answers: Sequence[Answer], form: str) -> None:
    """Print answers as ``text`` (those with an error are left out), ``json`` or ``csv``."""
    if form == "json":
        print(json.dumps(answers, indent=1, ensure_ascii=False))
        return
    rows = [
        (answer["file"], name, probability)
        for answer in answers
        for name, probability in zip(
            answer.get("classes", ()), answer.get("probabilities", ()), strict=True
        )
    ]
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["file", "class", "probability"])
        writer.writerows((file, name, f"{p:.6f}") for file, name, p in rows)
    else:
        for file, name, probability in rows:
            print(f"{file}: {name} ({probability:.1%})")


def load(model: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
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
    from noisy_kd.deploy.formats import metadata, runner

    try:
        about, run = metadata(model), runner(model)
    except InputError:
        raise
    except Exception as error:  # each library raises its own for a damaged file
        raise InputError(f"{model} cannot be read: {' '.join(str(error).split())}") from error
    if not about["preprocessing"]:
        raise InputError(f"{model} takes preprocessed images: export it --with-preprocessing.")
    return run, about
