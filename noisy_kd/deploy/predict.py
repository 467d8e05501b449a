"""Classify images with a run's own student, or an exported one (.onnx, .pt2, .safetensors)."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from noisy_kd import runs
from noisy_kd.data.decode import Pixels, decode, inspect
from noisy_kd.deploy import formats
from noisy_kd.errors import InputError

Answer = dict[str, Any]
"""``file``; ``classes`` and their ``probabilities``, the most probable first; ``error``, or ""."""


def predict(
    model: Path, files: Sequence[Path], top: int = 1, allow: Sequence[str] = ()
) -> Iterator[Answer]:
    """Yield the most probable classes of each image file, or why it cannot be read.

    The images are decoded as the training's were.

    Args:
        model: a run's directory, or an exported file.
        files: the images.
        top: how many classes.
        allow: as in :func:`noisy_kd.load_student` and :func:`noisy_kd.deploy.formats.load`.

    Raises:
        InputError: if there is no such model, or its file takes preprocessed images only.
    """
    run, about = load(model, allow)
    channels, height, width = about["input_shape"]
    pixels = Pixels((height, width), channels, about.get("bits"))
    scaled = False
    for file in files:
        answer = {"file": str(file), "classes": [], "probabilities": [], "error": ""}
        try:
            header, image = inspect(file), decode(file, pixels)
        except InputError as error:
            yield {**answer, "error": str(error)}
            continue
        remarks = list(header.remarks)
        if header.size != (height, width) and not scaled:
            sizes = f"{header.size[1]}x{header.size[0]} to {width}x{height}"
            remarks.append(f"scaled and cropped from {sizes}, as all of other sizes are")
            scaled = True
        if remarks:
            print(f"{file}: {', '.join(remarks)}", file=sys.stderr)
        x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
        classes = about["classes"]
        try:
            logits = run(x).detach().view(1, len(classes))
        except Exception as error:  # a model that is not what its file says
            why = " ".join(str(error).split())[:120]
            raise InputError(f"{model} does not give {len(classes)} logits: {why}.") from error
        if not logits.isfinite().all():
            yield {**answer, "error": f"{file}: the student's logits are not finite."}
            continue
        best = logits.softmax(dim=1).topk(min(top, len(classes)))
        names = [classes[k] for k in best.indices[0].tolist()]
        yield {**answer, "classes": names, "probabilities": best.values[0].tolist()}


def load(model: Path, allow: Sequence[str] = ()) -> tuple[formats.Model, dict[str, Any]]:
    """Return a function from uint8 images to logits, and what is known of the model.

    Raises:
        InputError: if there is no such model, or its file takes preprocessed images only.
    """
    if model.is_dir():
        about = runs.read_result(model) or {}
        net = nn.Sequential(runs.load_preprocessing(model, allow), runs.load_student(model, allow))
        return net.eval(), _checked(model, about)
    if not model.exists():
        raise InputError(f"there is no {model}: name a run's directory or an exported file.")
    run, about = formats.load(model, allow)
    if not _checked(model, about).get("preprocessing"):
        raise InputError(f"{model} takes preprocessed images: export it --with-preprocessing.")
    return run, about


def _checked(model: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Refuse a model that does not say what images it takes, and what classes it has."""
    shape, classes, bits = map(about.get, ("input_shape", "classes", "bits"))
    sizes = [*shape, bits or 8] if isinstance(shape, list) and len(shape) == 3 else [0]
    names = classes if isinstance(classes, list) and classes else [None]
    if not all(type(size) is int and size > 0 for size in sizes):
        text = f"{model} does not say what images it takes (input_shape={shape}, bits={bits})"
        raise InputError(f"{text}: export it again.")
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{model} does not name its classes ({classes}): export it again.")
    return about
