"""The forms of an exported student: ONNX (also int8), torch.export, safetensors."""

import io
import json
import logging
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from noisy_kd.data import files
from noisy_kd.data.preprocessing import restored
from noisy_kd.errors import InputError
from noisy_kd.model.network import from_settings

Model = Callable[[Tensor], Tensor]
ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
TORCH_EXPORT = "torch.export"


def load(file: Path, allow: Sequence[str] = ()) -> tuple[Model, dict[str, Any]]:
    """Return the model in a file, and what the export has written of it.

    ``allow`` as in :func:`noisy_kd.load_student`; with ``torch.export`` a .pt2 file, which may hold
    any code, is read, too.

    Raises:
        InputError: if the file is no such file or damaged, its package is missing, or it needs code
            that is not allowed.
    """
    readers = {".onnx": _load_onnx, ".pt2": _load_torch_export, ".safetensors": _load_safetensors}
    if file.suffix not in readers:
        raise InputError(f"{file} is not exported: name a run, or a file in {', '.join(readers)}.")
    try:
        return readers[file.suffix](file, allow)
    except InputError:
        raise
    except Exception as error:  # each library raises its own for a damaged file
        raise InputError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def _about(file: Path, text: str | None) -> dict[str, Any]:
    if not text:
        raise InputError(f"{file} does not name its classes: name the run's directory instead.")
    about: dict[str, Any] = json.loads(text)
    return about


def _load_onnx(file: Path, _: Sequence[str]) -> tuple[Model, dict[str, Any]]:
    onnxruntime = _package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    about = _about(file, session.get_modelmeta().custom_metadata_map.get("noisy_kd"))
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), about


def _load_torch_export(file: Path, allow: Sequence[str]) -> tuple[Model, dict[str, Any]]:
    if TORCH_EXPORT not in allow:  # torch.export.load unpickles and runs what the file holds
        raise InputError(
            f"{file} may run any code: if you trust it, add --allow {TORCH_EXPORT}. Files of the "
            "forms onnx and safetensors run none."
        )
    extra = {"noisy_kd": ""}
    logging.disable(logging.WARNING)  # a traceback of a damaged file
    try:
        model = torch.export.load(file, extra_files=extra).module()
    finally:
        logging.disable(logging.NOTSET)
    return model, _about(file, extra["noisy_kd"])


def _load_safetensors(file: Path, allow: Sequence[str]) -> tuple[Model, dict[str, Any]]:
    """Build the network that the file's metadata describes, and load its weights."""
    with _package("safetensors").safe_open(file, "pt") as content:
        about = _about(file, (content.metadata() or {}).get("noisy_kd"))
        weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    preprocessing, student = about["preprocessing"], about["student"]
    shape, classes = tuple(about["input_shape"]), len(about["classes"])
    net: nn.Module = from_settings(student, about["layers"], shape, classes, allow)
    if preprocessing:
        buffers = {name[2:]: value for name, value in weights.items() if name.startswith("0.")}
        net = nn.Sequential(restored(preprocessing, buffers, allow), net)
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False), about


def write(form: str, model: nn.Module, example: Tensor, file: Path, about: dict[str, Any]) -> None:
    """Write a model in one of the forms.

    Raises:
        InputError: without the packages of the extra ``export``, if the file cannot be written, or
            if torch cannot trace the model.
    """
    text, batch = json.dumps(about), {0: torch.export.Dim("batch", min=1)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_symlink():  # of somebody else's folder: it may lead anywhere
            file.unlink()
        if form == "safetensors":
            tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            files.write(file, _package("safetensors.torch").save(tensors, {"noisy_kd": text}))
        elif form == "torch_export":
            exported = torch.export.export(model, (example,), dynamic_shapes=(batch,))
            buffer = io.BytesIO()
            torch.export.save(exported, buffer, extra_files={"noisy_kd": text})
            files.write(file, buffer.getvalue())
        else:
            onnx, _ = _package("onnx"), _package("onnxscript")  # torch.onnx needs both
            program: Any = torch.onnx.export(
                model,
                (example,),
                dynamic_shapes=(batch,),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
            content = program.model_proto
            del content.graph.value_info[:]  # inner shapes that quantisation would contradict
            onnx.helper.set_model_props(content, {"noisy_kd": text})
            files.write(file, content.SerializeToString())
    except InputError:
        raise
    except OSError as error:
        why = f"{file} cannot be written ({error.strerror})"
        raise InputError(f"{why}: choose another --output.") from error
    except Exception as error:  # torch.export's, of a network that it cannot trace
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # colours
        why = next(filter(str.strip, text.splitlines()), type(error).__name__).strip()
        raise InputError(f"the student cannot be exported as {form}: {why}") from error


def quantise(file: Path, small: Path, kind: str, calibration: Tensor) -> None:
    """Write an int8 model of an ONNX model.

    Raises:
        InputError: without the packages of the extra ``export``.
    """
    quantization = _package("onnxruntime.quantization")
    parts = ({"images": part.numpy()} for part in calibration.split(32))

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> dict[str, Any] | None:
            return next(parts, None)

    logging.disable(logging.WARNING)  # its advice on a step that changes nothing here
    try:
        with TemporaryDirectory() as work, files.writing(work):
            copy, made = Path(work) / "model.onnx", Path(work) / "int8.onnx"
            copy.write_bytes(file.read_bytes())
            if kind == "dynamic":
                quantization.quantize_dynamic(copy, made)
            else:
                quantization.quantize_static(copy, made, Reader())
            content = made.read_bytes()
    except (ValueError, RuntimeError) as error:  # InputError, and what onnxruntime raises
        raise InputError(f"{file} cannot be made int8: {files.reason(error)}") from error
    finally:
        logging.disable(logging.NOTSET)
    files.write(small, content)


def _package(name: str) -> Any:
    """Return a module of the extra ``export``."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"{name.partition('.')[0]} is missing: pip install 'noisy-kd[export]'."
        ) from error
