"""python -m noisy_kd.export RUN_DIR --format onnx|torch_export|safetensors: a student to take away.

Writes the student beside its result, checks it against the original on the whole test set, measures
its size and latency beside the teacher's, and writes a model card. ``--with-preprocessing`` makes
it take uint8 images; else it takes preprocessed ones. Needs ``pip install -e '.[export]'``.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisy_kd import runs
from noisy_kd.card import model_card
from noisy_kd.errors import InputError, run_command

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from noisy_kd.data import ImageDataModule

ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
INT8 = ("dynamic", "static")
NO_ONNX = "ONNX needs packages: pip install -e '.[export]'."
ONNX = {"exported": "student, ONNX Runtime", "int8": "student, ONNX Runtime, int8"}
ABOUT = {"layers": "student_layers", "classes": "classes", "input_shape": "input_shape"}
"""What a file's metadata call it, and what a result does."""
CALIBRATION = 256  # training images that static quantisation looks at
BATCHES = (1, 64)
PREDICT = 250  # images at a time


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m noisy_kd.export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a finished run")
    parser.add_argument("--format", choices=ENDINGS, default="onnx")
    parser.add_argument("--with-preprocessing", action="store_true", help="takes uint8 images")
    parser.add_argument("--int8", choices=INT8, help="also a quantised ONNX model, with its error")
    parser.add_argument("--output", type=Path, help="file to write (RUN_DIR/student.onnx, ...)")
    options = parser.parse_args()
    if options.int8 and options.format != "onnx":
        raise InputError(f"--int8 {options.int8} is made of an ONNX model: take --format onnx.")
    facts = export(
        options.run, options.format, options.with_preprocessing, options.int8, options.output
    )
    for line in told(facts):
        print(line)


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

    from noisy_kd.data.preprocess import kind_of
    from noisy_kd.training.finished import load_data

    net, preprocessing = runs.load_student(directory), runs.load_preprocessing(directory)
    result = runs.read_result(directory) or {}
    about = {key: result[its_key] for key, its_key in ABOUT.items()} | {"preprocessing": ""}
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
    _write(form, model, example, files["exported"], about)
    if int8 is not None:
        files["int8"] = files["exported"].with_name(f"{files['exported'].stem}-int8.onnx")
        calibration = takes(data.images.pixels[data.train_rows[:CALIBRATION]])
        _quantise(files["exported"], files["int8"], int8, calibration)
    facts: dict[str, Any] = {"result": result, "about": about, "int8_kind": int8}
    told = (type(preprocessing).__doc__ or "").partition("\n")[0]
    facts["preprocessing"] = f"{kind_of(preprocessing)} ({told})"
    facts |= _checks(files, net, preprocessing, takes, data)
    onnx = {name: files[kind] for kind, name in ONNX.items() if kind in files and form == "onnx"}
    facts["latency"] = _kept_latencies(directory, data, model, example, onnx)
    card = files["exported"].with_name(f"{files['exported'].name}.md")
    card.write_text(model_card(facts))
    return {**facts, "card": str(card)}


def runner(file: Path) -> Callable[[Tensor], Tensor]:
    """The model in a file as a function from its input to logits, on one thread.

    Raises:
        InputError: if the file is of none of the forms, or its package is missing.
    """
    import torch

    if file.suffix == ".onnx":
        opened = session(file)
        name = opened.get_inputs()[0].name
        return lambda x: torch.from_numpy(opened.run(None, {name: x.numpy()})[0])
    if file.suffix == ".pt2":
        return torch.export.load(file).module()
    if file.suffix == ".safetensors":
        return load_safetensors(file)
    raise InputError(f"{file} ends in none of {', '.join(ENDINGS.values())}.")


def load_safetensors(file: Path) -> nn.Module:
    """The module in a file that this command wrote; its notation stands in the file's metadata.

    Raises:
        InputError: if the file is not one of this command's.
    """
    from safetensors import safe_open
    from torch import nn

    from noisy_kd.data.preprocess import restored
    from noisy_kd.model import notation
    from noisy_kd.model.network import build

    with safe_open(file, "pt") as content:
        about = json.loads((content.metadata() or {}).get("noisy_kd", "{}"))
        weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    if "layers" not in about:
        raise InputError(f"{file} was not written by python -m noisy_kd.export.")
    first, preprocessing = notation.parse(about["layers"])[0], about["preprocessing"]
    for code in (preprocessing, first.path if isinstance(first, notation.Module) else ""):
        if "." in code and not code.startswith("torchvision.models."):
            raise InputError(f"{file} names code of its own, {code}: take the ONNX form.")
    net: nn.Module = build(about["layers"], tuple(about["input_shape"]), len(about["classes"]))
    if preprocessing:
        buffers = {name[2:]: one for name, one in weights.items() if name.startswith("0.")}
        net = nn.Sequential(restored(preprocessing, buffers), net)
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)


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


def told(facts: dict[str, Any]) -> list[str]:
    """What was written and measured, line by line."""
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
    file.write_text(json.dumps(known | measured, indent=1) + "\n")
    return measured


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error.strerror}): choose another --output."
        ) from error


def _write(form: str, model: nn.Module, example: Tensor, file: Path, about: dict[str, Any]) -> None:
    import torch

    batch = {0: torch.export.Dim("batch", min=1)}
    if form == "safetensors":
        from safetensors.torch import save_file

        tensors = {name: one.contiguous() for name, one in model.state_dict().items()}
        save_file(tensors, file, {"noisy_kd": json.dumps(about)})
    elif form == "torch_export":
        exported = torch.export.export(model, (example,), dynamic_shapes=(batch,))
        torch.export.save(exported, file, extra_files={"noisy_kd": json.dumps(about)})
    else:
        _write_onnx(model, example, file, about, batch)


def _write_onnx(
    model: nn.Module, example: Tensor, file: Path, about: dict[str, Any], batch: dict[int, Any]
) -> None:
    import torch

    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise InputError(NO_ONNX) from error
    torch.onnx.export(
        model,
        (example,),
        str(file),
        dynamo=True,
        dynamic_shapes=(batch,),
        input_names=["images"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )
    content = onnx.load(str(file))
    del content.graph.value_info[:]  # inner shapes, which quantisation would find contradicted
    onnx.helper.set_model_props(content, {"noisy_kd": json.dumps(about)})
    onnx.save(content, str(file))


def _quantise(file: Path, small: Path, kind: str, calibration: Tensor) -> None:
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise InputError(NO_ONNX) from error

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts = iter(calibration.split(32))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {"images": part.numpy()}

    logging.disable(logging.WARNING)  # its advice on a step that changes nothing here
    try:
        if kind == "dynamic":
            quantization.quantize_dynamic(str(file), str(small))
        else:
            quantization.quantize_static(str(file), str(small), Reader())
    finally:
        logging.disable(logging.NOTSET)


def session(file: Path) -> Any:
    """ONNX Runtime's session of a file, on one thread.

    Raises:
        InputError: without the package.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(NO_ONNX) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])


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

    with torch.inference_mode():
        return torch.cat([run(takes(part)) for part in pixels.split(PREDICT)])


def _milliseconds(run: Callable[[Tensor], Any], x: torch.Tensor) -> float:
    for _ in range(3):
        run(x)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 10 or (time.perf_counter() - started < 0.5 and len(times) < 200):
        before = time.perf_counter()
        run(x)
        times.append(1000 * (time.perf_counter() - before))
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(run_command(main))
