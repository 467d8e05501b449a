"""Export a finished student: write it, check it, measure it, describe it."""

import logging
import statistics
import timeit
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noisy_kd import runs
from noisy_kd.data.dataset import at_once, keyed_generator
from noisy_kd.data.files import read_json, write_json
from noisy_kd.data.files import write as write_file
from noisy_kd.data.preprocessing import kind_of
from noisy_kd.deploy.card import model_card
from noisy_kd.deploy.formats import ENDINGS, TORCH_EXPORT, Model, load, quantise, write
from noisy_kd.errors import InputError
from noisy_kd.training.finished import load_data, untrained_teacher

log = logging.getLogger(__name__)

NAMES = {"exported": "student, ONNX Runtime", "int8": "student, ONNX Runtime, int8"}
CALIBRATION = 256  # training images that static quantisation looks at
BATCHES = (1, 64)
PREDICT = 250  # images at a time
PASSES = 30  # of which a latency is the median


def export(
    directory: Path,
    form: str = "onnx",
    with_preprocessing: bool = False,
    int8: str | None = None,
    output: Path | None = None,
    allow: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a run's student in another form, check it, measure it, describe it.

    Args:
        directory: of the finished run.
        form: a key of :data:`ENDINGS`.
        with_preprocessing: whether it takes uint8 images.
        int8: ``dynamic`` or ``static`` for a quantised model as well.
        output: the file; None for one beside the result.
        allow: as in :func:`noisy_kd.load_student`.

    Returns:
        What was measured; it is in the model card too.

    Raises:
        InputError: without a finished student or its data, without the packages of the extra, or
            if the file cannot be written.
    """
    net, preprocessing = (
        read(directory, allow) for read in (runs.load_student, runs.load_preprocessing)
    )
    result = runs.read_result(directory) or {}
    kind = kind_of(preprocessing)
    description = (type(preprocessing).__doc__ or "").partition("\n")[0]
    about = {key: result.get(key) for key in ("classes", "input_shape", "bits")}
    about |= {"layers": result["student_layers"], "student": result["settings"]["student"]}
    model, prepare, takes = net, preprocessing, f"images after {kind} ({description})"
    about["preprocessing"] = ""
    if with_preprocessing:
        about["preprocessing"], takes = kind, "uint8 images"
        model, prepare = nn.Sequential(preprocessing, net).eval(), nn.Identity()
    files = {"exported": output or directory / f"student{ENDINGS[form]}"}
    if files["exported"].suffix != ENDINGS[form]:
        raise InputError(f"--output {output}: a file of {form} ends in {ENDINGS[form]}.")
    _check_replaced(files["exported"], about["preprocessing"])
    data = load_data(directory, allow)
    write(
        form,
        model,
        prepare(data.test_images.pixels[:1].repeat(2, 1, 1, 1)),
        files["exported"],
        about,
    )
    if int8 is not None:
        files["int8"] = files["exported"].with_name(f"{files['exported'].stem}-int8.onnx")
        order = torch.randperm(len(data.train_rows), generator=keyed_generator(0, "calibration"))
        calibration = prepare(data.images.pixels[data.train_rows[order[:CALIBRATION]]])
        quantise(files["exported"], files["int8"], int8, calibration)
    facts: dict[str, Any] = {"result": result, "input": takes, "int8_kind": int8}
    pixels, labels = data.test_images.pixels, data.test_images.labels
    expected = _logits(net, preprocessing, pixels)
    facts["original_errors"] = int((expected.argmax(1) != labels).sum())
    models: dict[str, tuple[Model, Model]] = {"student, torch": (model, prepare)}
    try:
        teacher = untrained_teacher(directory, data, allow)
    except InputError as error:  # such as a file of its function that has moved
        log.warning("The teacher's latency is not measured: %s", error)
        teacher = None
    if teacher is not None:
        models["teacher, torch"] = (teacher, data.preprocessing)
    for name, file in files.items():
        loaded, _ = load(file, [*allow, TORCH_EXPORT])  # it was written just now
        logits = _logits(loaded, prepare, pixels)
        facts[name] = {
            "file": str(file),
            "bytes": file.stat().st_size,
            "errors": int((logits.argmax(1) != labels).sum()),
            "largest_difference": float((logits - expected).abs().max()),
            "largest_logit": float(expected.abs().max()),
        }
        if form == "onnx":
            models[NAMES[name]] = (loaded, prepare)
    facts["latency"] = latencies(models, pixels[:1])
    latency_file = directory / "latency.json"
    known = read_json(latency_file) or {}  # of the run's other forms
    with suppress(InputError):  # the run may lie on a read-only disk
        write_json(latency_file, known | facts["latency"])
    card = files["exported"].with_name(f"{files['exported'].name}.md")
    write_file(card, model_card(facts))
    return {**facts, "card": str(card)}


def _check_replaced(file: Path, preprocessing: str | None) -> None:
    """Refuse to replace an exported file by one that takes other images."""
    try:
        _, known = load(file, [TORCH_EXPORT]) if file.exists() else (None, {})
    except InputError:  # damaged, or of a network that is not allowed
        return
    if known.get("preprocessing", preprocessing) != preprocessing:
        takes = "uint8" if known["preprocessing"] else "preprocessed"
        raise InputError(f"{file} exists and takes {takes} images: name another by --output FILE.")


def latencies(models: dict[str, tuple[Model, Model]], image: Tensor) -> dict[str, float]:
    """Return the median milliseconds of one pass on one thread, for batches of 1 and 64.

    Args:
        models: by name; the model, and what makes its input of uint8 images (not measured).
        image: uint8, [1, C, H, W].
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    medians = {}
    with torch.inference_mode():
        for batch in BATCHES:
            images = image.expand(batch, -1, -1, -1).contiguous()
            for name, (model, prepare) in models.items():
                setting = {"model": model, "x": prepare(images)}
                times = timeit.repeat("model(x)", globals=setting, number=1, repeat=PASSES)
                medians[f"{name}, batch {batch}"] = 1000 * statistics.median(times)
    torch.set_num_threads(threads)
    return medians


def in_words(facts: dict[str, Any]) -> list[str]:
    """Return what was written and measured, line by line."""
    lines = [
        f"{file['file']}: {file['bytes'] / 1e6:.2f} MB, {file['errors']} test errors "
        f"(original {facts['original_errors']}), largest logit difference "
        f"{file['largest_difference']:.2g} (logits up to {file['largest_logit']:.3g})"
        for file in (facts[name] for name in NAMES if name in facts)
    ]
    times = facts["latency"]
    lines += [f"{time:8.3f} ms  {name}" for name, time in times.items()]
    for batch in BATCHES if "int8" in facts else ():
        whole, small = (times[f"{NAMES[name]}, batch {batch}"] for name in NAMES)
        if small > 1.1 * whole:  # timings differ by that much
            lines.append(f"int8 is slower here: {small / whole:.1f} times, batch {batch}")
    return [*lines, f"model card: {facts['card']}"]


def _logits(model: Model, prepare: Model, pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(prepare(part)) for part in pixels.split(at_once(pixels, PREDICT))])
