"""Export a finished student: write it, check it, measure it, describe it.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisy_kd import runs
from noisy_kd.deploy.card import model_card
from noisy_kd.deploy.formats import ENDINGS, quantise, runner, write
from noisy_kd.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from noisy_kd.data.datamodules import ImageDataModule

INT8 = ("dynamic", "static")
ONNX = {"exported": "student, ONNX Runtime", "int8": "student, ONNX Runtime, int8"}
CALIBRATION = 256  # training images that static quantisation looks at
BATCHES = (1, 64)
PREDICT = 250  # images at a time
SECONDS = 0.5  # of measuring a latency, at least ten passes


def export(
    directory: Path,
    form: str = "onnx",
    with_preprocessing: bool = False,
    int8: str | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Write a run's student in another form, check it, measure it, describe it.

    Args:
        directory: of the finished run.
        form: a key of :data:`ENDINGS`.
        with_preprocessing: whether it takes uint8 images.
        int8: ``dynamic`` or ``static`` for a quantised model as well.
        output: the file; None for one beside the result.

    Returns:
        What was measured; it is in the model card too.

    Raises:
        InputError: without a finished student, without the packages of the extra, or if the
            output's folder cannot be made.
    """
    from torch import nn

    from noisy_kd.data.preprocessing import kind_of
    from noisy_kd.training.finished import load_data

    net, preprocessing = runs.load_student(directory), runs.load_preprocessing(directory)
    result = runs.read_result(directory) or {}
    about = {key: result.get(key) for key in ("classes", "input_shape", "bits")}
    about["preprocessing"] = ""
    about |= {"layers": result["student_layers"], "student": result["settings"]["student"]}
    model, takes = net.eval(), preprocessing
    if with_preprocessing:
        model, takes = nn.Sequential(preprocessing, net).eval(), nn.Identity()
        about["preprocessing"] = kind_of(preprocessing)
    files = {"exported": output or directory / f"student{ENDINGS[form]}"}
    if files["exported"].suffix != ENDINGS[form]:
        raise InputError(f"--output {output}: a file of {form} ends in {ENDINGS[form]}.")
    _make_folder(files["exported"].parent)
    data = load_data(directory)
    example = takes(data.test_images.pixels[:2])
    write(form, model, example, files["exported"], about)
    if int8 is not None:
        files["int8"] = files["exported"].with_name(f"{files['exported'].stem}-int8.onnx")
        calibration = takes(data.images.pixels[data.train_rows[:CALIBRATION]])
        quantise(files["exported"], files["int8"], int8, calibration)
    facts: dict[str, Any] = {"result": result, "about": about, "int8_kind": int8}
    description = (type(preprocessing).__doc__ or "").partition("\n")[0]
    facts["preprocessing"] = f"{kind_of(preprocessing)} ({description})"
    facts |= _checks(files, net, preprocessing, takes, data)
    onnx = {name: files[kind] for kind, name in ONNX.items() if kind in files and form == "onnx"}
    facts["latency"] = _kept_latencies(directory, data, model, example, onnx)
    card = files["exported"].with_name(f"{files['exported'].name}.md")
    card.write_text(model_card(facts), encoding="utf-8")
    return {**facts, "card": str(card)}


def latencies(
    directory: Path,
    data: ImageDataModule,
    student: nn.Module,
    example: Tensor,
    onnx: dict[str, Path],
) -> dict[str, float]:
    """Median milliseconds of one pass on one thread: teacher and student, batches of 1 and 64.

    The teacher's weights do not matter to that. ``onnx``: the student's files of that form, by
    name.
    """
    import torch

    from noisy_kd.training.finished import untrained_teacher

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    teacher = untrained_teacher(directory, data)
    contestants: dict[str, Callable[[Tensor], Any]] = {"student, torch": student}
    if teacher is not None:
        contestants["teacher, torch"] = teacher
    contestants |= {name: runner(file) for name, file in onnx.items()}
    found = {}
    with torch.inference_mode():
        for batch in BATCHES:
            image = data.test_images.pixels[:1].expand(batch, -1, -1, -1).contiguous()
            for name, run in contestants.items():
                takes_pixels = name.startswith("student") and example.dtype == torch.uint8
                x = image if takes_pixels else data.preprocessing(image)
                found[f"{name}, batch {batch}"] = _milliseconds(run, x)
    torch.set_num_threads(threads)
    return found


def in_words(facts: dict[str, Any]) -> list[str]:
    """Return what was written and measured, line by line."""
    lines = []
    for kind in ("exported", "int8"):
        if kind in facts:
            one = facts[kind]
            lines.append(
                f"{one['file']}: {one['bytes'] / 1e6:.2f} MB, {one['errors']} test errors "
                f"(original {facts['original_errors']}), largest logit difference "
                f"{one['largest_difference']:.2g}"
            )
    lines += [f"{time:8.3f} ms  {name}" for name, time in facts["latency"].items()]
    return [*lines, f"model card: {facts['card']}"]


def _kept_latencies(
    directory: Path, data: ImageDataModule, model: nn.Module, example: Tensor, onnx: dict[str, Path]
) -> dict[str, Any]:
    """Measured, and written beside those of the run's other forms."""
    measured = latencies(directory, data, model, example, onnx)
    file = directory / "latency.json"
    known = runs.read_json(file) or {}
    with suppress(OSError):  # the run may lie on a read-only disk
        file.write_text(json.dumps(known | measured, indent=1) + "\n")
    return measured


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error.strerror}): choose another --output."
        ) from error


def _checks(
    files: dict[str, Path],
    net: nn.Module,
    preprocessing: nn.Module,
    takes: nn.Module,
    data: ImageDataModule,
) -> dict[str, Any]:
    """Test errors of the run's student and of each file, and how far their logits are apart.

    ``takes`` makes of uint8 images what the files take.
    """
    pixels, labels = data.test_images.pixels, data.test_images.labels
    expected = _logits(net, preprocessing, pixels)
    found: dict[str, Any] = {"original_errors": int((expected.argmax(1) != labels).sum())}
    for kind, file in files.items():
        logits = _logits(runner(file), takes, pixels)
        found[kind] = {
            "file": str(file),
            "bytes": file.stat().st_size,
            "errors": int((logits.argmax(1) != labels).sum()),
            "largest_difference": float((logits - expected).abs().max()),
        }
    return found


def _logits(run: Callable[[Tensor], Tensor], takes: nn.Module, pixels: Tensor) -> Tensor:
    import torch

    from noisy_kd.data.dataset import at_once

    with torch.inference_mode():
        return torch.cat([run(takes(part)) for part in pixels.split(at_once(pixels, PREDICT))])


def _milliseconds(run: Callable[[Tensor], Any], x: torch.Tensor) -> float:
    for _ in range(3):
        run(x)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 10 or (time.perf_counter() - started < SECONDS and len(times) < 200):
        before = time.perf_counter()
        run(x)
        times.append(1000 * (time.perf_counter() - before))
    return statistics.median(times)
