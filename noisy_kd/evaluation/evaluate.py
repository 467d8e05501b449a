"""A student beyond its clean error: ``evaluation.json`` of a finished run.

Its numbers and curves are written for TensorBoard, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisy_kd import runs
from noisy_kd.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from noisy_kd.data.datamodules import ImageDataModule
    from noisy_kd.evaluation.robustness import Evaluation

KINDS = ("clean", "noise", "corruptions", "fgsm", "pgd", "calibration", "ood")
ACCURACIES = ("noise", "corruptions", "fgsm", "pgd")  # those that are accuracies by strength


def evaluate(
    directory: Path, kinds: list[str], limit: int | None = None, again: bool = False
) -> dict[str, Any]:
    """Evaluate the student of a finished run and write ``evaluation.json``.

    Args:
        directory: of the run.
        kinds: of :data:`KINDS`.
        limit: only the first so many test images; the file is then ``evaluation-LIMIT.json``.
        again: compute also what the file holds already.

    Returns:
        What the file then holds.

    Raises:
        InputError: if the directory holds no finished student.
    """
    from noisy_kd.evaluation.robustness import Classifier, Evaluation
    from noisy_kd.training.finished import load_data

    net = runs.load_student(directory)
    file = directory / ("evaluation.json" if limit is None else f"evaluation-{limit}.json")
    student = runs.file_digest(str(directory / "student.pt"))
    found = runs.read_json(file) or {}
    if found.get("student") != student:
        found = {"student": student}
    todo = [kind for kind in kinds if again or kind not in found]
    result = runs.read_result(directory) or {}
    if not todo and result.get("dataset") != "folder":  # whose images may have changed
        return found
    data = load_data(directory)
    if not todo:
        return found
    images, labels = data.test_images.pixels[:limit], data.test_images.labels[:limit]
    evaluation = Evaluation(Classifier(data.preprocessing, net), images, labels)
    for kind in todo:
        found[kind] = _one(kind, evaluation, directory, data)
    found["images"] = len(labels)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(found, indent=1) + "\n")
    temporary.replace(file)
    _to_tensorboard(found, directory, file.stem)
    return found


def _one(
    kind: str, evaluation: Evaluation, directory: Path, data: ImageDataModule
) -> dict[str, Any]:
    if kind == "clean":
        from noisy_kd.training.finished import teacher_test_logits

        taught = teacher_test_logits(directory)
        result = runs.read_result(directory) or {}
        if taught is None and result.get("teacher_test_errors") is not None:
            print(f"{directory}: no agreement, the run kept no logits of its teacher (force=true)")
        return evaluation.clean(None if taught is None else taught[: len(evaluation.labels)])
    if kind == "ood":
        return evaluation.ood(other_images(data))
    measured: dict[str, Any] = getattr(evaluation, kind)()
    return measured


def other_images(data: ImageDataModule) -> dict[str, Tensor]:
    """Images that are not of the data set, uint8 in its shape.

    scikit-learn's digits for grey images; the other one of CIFAR-10 and SVHN where its files lie.
    """
    from torchvision.transforms.v2.functional import resize

    from noisy_kd.data.datamodules import CIFAR10DataModule, DigitsDataModule, SVHNDataModule

    channels, height, width = data.input_shape
    others: list[type[ImageDataModule]] = []
    if channels == 1 and data.name != "digits":
        others.append(DigitsDataModule)
    others += [
        kind
        for kind in (CIFAR10DataModule, SVHNDataModule)
        if channels == 3 and kind.name != data.name
    ]
    found = {}
    for kind in others:
        other = kind(root=data.root, download=False)
        try:
            images = other.read().test.pixels
        except InputError:  # its files are not here
            continue
        found[kind.name] = resize(images, [height, width], antialias=True)
    return found


def in_words(found: dict[str, Any]) -> str:
    """Return the numbers in words, a line for each kind."""
    lines = []
    for kind, numbers in found.items():
        if isinstance(numbers, dict):
            words = [f"{key} {one:.4f}" for key, one in numbers.items() if isinstance(one, float)]
            what = "accuracy at " if kind in ACCURACIES else ""
            lines.append(f"  {kind:12} {what}{', '.join(words)}")
    return "\n".join(lines)


def _to_tensorboard(found: dict[str, Any], directory: Path, name: str) -> None:
    """Numbers as text, curves over the strength in thousandths (severity for corruptions).

    Those that were written before by this name, ``evaluation`` or ``evaluation-LIMIT``, give way.
    """
    from torch.utils.tensorboard import SummaryWriter

    for old in directory.glob(f"events.out.tfevents.*.{name}"):
        old.unlink()
    curves = name.replace("evaluation", "accuracy")
    with SummaryWriter(str(directory), filename_suffix=f".{name}") as writer:
        writer.add_text(name, in_words(found).replace("\n", "  \n"))
        for kind in ("noise", "fgsm", "pgd"):
            for strength, accuracy in found.get(kind, {}).items():
                writer.add_scalar(f"{curves}/{kind}", accuracy, round(1000 * float(strength)))
        for corruption, severities in found.get("corruptions", {}).items():
            if isinstance(severities, list):
                for severity, accuracy in enumerate(severities, start=1):
                    writer.add_scalar(f"{curves}/{corruption}", accuracy, severity)
