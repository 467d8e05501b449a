"""A student beyond its clean error: ``evaluation.json`` of a finished run.

Its numbers and curves are written for TensorBoard, too.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.v2.functional import resize

from noisy_kd import runs
from noisy_kd.data import datamodules
from noisy_kd.data.dataset import keyed_generator
from noisy_kd.data.files import write_json, writing
from noisy_kd.data.sources import stratified
from noisy_kd.errors import InputError
from noisy_kd.evaluation.robustness import Evaluation, classifier
from noisy_kd.training.finished import load_data, teacher_test_logits

WHAT = {
    "noise": "accuracy at σ ",
    "corruptions": "accuracy, ",
    **dict.fromkeys(("fgsm", "pgd"), "accuracy at ε "),
    "ood": "AUROC, ",
}
"""What the numbers of an evaluation are."""


def evaluate(
    directory: Path,
    kinds: list[str],
    limit: int | None = None,
    again: bool = False,
    allow: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate the student of a finished run and write ``evaluation.json``.

    Args:
        directory: of the run.
        kinds: of :data:`noisy_kd.evaluation.KINDS`.
        limit: only so many test images, of all classes; the file is then ``evaluation-LIMIT.json``.
        again: compute also what the file holds already.
        allow: as in :func:`noisy_kd.load_student`.

    Returns:
        What the file then holds.

    Raises:
        InputError: if the directory holds no finished student.
    """
    net = runs.load_student(directory, allow)
    file = directory / ("evaluation.json" if limit is None else f"evaluation-{limit}.json")
    student = runs.file_digest(str(directory / "student.pt"))
    evaluated = runs.read_json(file) or {}
    if evaluated.get("student") != student:
        evaluated = {"student": student}
    todo = [kind for kind in kinds if again or kind not in evaluated]
    result = runs.read_result(directory) or {}
    if not todo and result.get("dataset") != "folder":  # whose images may have changed
        return evaluated
    data = load_data(directory, allow)
    if not todo:
        return evaluated
    labels, rows = data.test_images.labels, torch.arange(len(data.test_images))
    if limit is not None and limit < len(labels):
        rows, _ = stratified(labels, limit, keyed_generator(0, "limit"))
    images, labels = data.test_images.pixels[rows], labels[rows]
    evaluation = Evaluation(classifier(data.preprocessing, net), images, labels)
    inputs: dict[str, list[Any]] = {}
    if "clean" in todo:
        taught = teacher_test_logits(directory)
        if taught is None and result.get("teacher_test_errors") is not None:
            print(f"{directory}: no agreement, the run kept no logits of its teacher (force=true)")
        inputs["clean"] = [None if taught is None else taught[rows]]
    if "ood" in todo:
        inputs["ood"] = [other_images(data)]
    for kind in todo:
        evaluated[kind] = getattr(evaluation, kind)(*inputs.get(kind, ()))
    evaluated["images"] = len(labels)
    try:
        write_json(file, evaluated)
        with writing(directory):
            _to_tensorboard(evaluated, directory, file.stem)
    except InputError as error:  # the run may lie on a read-only disk
        print(f"{error} These numbers are not kept.")
    return evaluated


def other_images(data: datamodules.ImageDataModule) -> dict[str, Tensor]:
    """Return images that are not of the data set, uint8 in its shape, by their data set.

    scikit-learn's digits for grey images; the other one of CIFAR-10 and SVHN where its files lie.
    """
    channels, height, width = data.input_shape
    images_of = {}
    colour = (datamodules.CIFAR10DataModule, datamodules.SVHNDataModule)
    for kind in (datamodules.DigitsDataModule,) if channels == 1 else colour:
        if kind.name == data.name:
            continue
        with suppress(InputError):  # its files are not here
            images = kind(root=data.root, download=False).read().test.pixels
            images_of[kind.name] = resize(images, [height, width], antialias=True)
    return images_of


def in_words(evaluation: dict[str, Any]) -> str:
    """Return the numbers in words, a line for each kind."""
    lines = []
    for kind, numbers in evaluation.items():
        if isinstance(numbers, dict):
            shares = {k: v for k, v in numbers.items() if isinstance(v, float)}
            texts = [f"{k} {v:.4g}" if k == "nll" else f"{k} {v:.2%}" for k, v in shares.items()]
            lines.append(f"  {kind:12} {WHAT.get(kind, '')}{', '.join(texts)}")
    return "\n".join(lines)


def _to_tensorboard(evaluated: dict[str, Any], directory: Path, name: str) -> None:
    """Numbers as text, curves over the strength in thousandths (severity for corruptions).

    Those that were written before by this name, ``evaluation`` or ``evaluation-LIMIT``, give way.
    """
    for old in directory.glob(f"events.out.tfevents.*.{name}"):
        old.unlink()
    curves = name.replace("evaluation", "accuracy")
    with SummaryWriter(str(directory), filename_suffix=f".{name}") as writer:
        writer.add_text(name, in_words(evaluated).replace("\n", "  \n"))
        for kind in ("noise", "fgsm", "pgd"):
            for strength, accuracy in evaluated.get(kind, {}).items():
                writer.add_scalar(f"{curves}/{kind}", accuracy, round(1000 * float(strength)))
        for corruption, severities in evaluated.get("corruptions", {}).items():
            if isinstance(severities, list):
                for severity, accuracy in enumerate(severities, start=1):
                    writer.add_scalar(f"{curves}/{corruption}", accuracy, severity)
