"""The forms of an exported student: ONNX (also int8), torch.export, safetensors."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisy_kd.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
NO_ONNX = "ONNX needs packages: pip install 'noisy-kd[export]'."


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
    """The module in a file that this command wrote; its network stands in the file's metadata.

    Raises:
        InputError: if the file is not one of this command's.
    """
    from safetensors import safe_open
    from torch import nn

    from noisy_kd.data.preprocessing import restored
    from noisy_kd.model.network import from_settings

    with safe_open(file, "pt") as content:
        about = json.loads((content.metadata() or {}).get("noisy_kd", "{}"))
        weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    if "layers" not in about:
        raise InputError(f"{file} was not written by noisy-kd export.")
    preprocessing, student = about["preprocessing"], about["student"]
    for code in (preprocessing, student.get("_target_", "")):
        if "." in code and not code.startswith("torchvision.models."):
            raise InputError(f"{file} names code of its own, {code}: take the ONNX form.")
    shape, classes = tuple(about["input_shape"]), len(about["classes"])
    net: nn.Module = from_settings(student, about["layers"], shape, classes)
    if preprocessing:
        buffers = {name[2:]: one for name, one in weights.items() if name.startswith("0.")}
        net = nn.Sequential(restored(preprocessing, buffers), net)
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)


def write(form: str, model: nn.Module, example: Tensor, file: Path, about: dict[str, Any]) -> None:
    """Write a model in one of the forms.

    Raises:
        InputError: without the packages of the extra ``export``.
    """
    import torch

    batch = {0: torch.export.Dim("batch", min=1)}
    try:
        if form == "safetensors":
            from safetensors.torch import save_file

            tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            save_file(tensors, file, {"noisy_kd": json.dumps(about)})
        elif form == "torch_export":
            exported = torch.export.export(model, (example,), dynamic_shapes=(batch,))
            torch.export.save(exported, file, extra_files={"noisy_kd": json.dumps(about)})
        else:
            _write_onnx(model, example, file, about, batch)
    except (InputError, OSError):
        raise
    except Exception as error:  # torch.export's, of a network that it cannot trace
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"the student cannot be exported as {form}: {why}") from error


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


def quantise(file: Path, small: Path, kind: str, calibration: Tensor) -> None:
    """Write an int8 model of an ONNX model.

    Raises:
        InputError: without the packages of the extra ``export``.
    """
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


def metadata(file: Path) -> dict[str, Any]:
    """Return what the export has written into the file.

    Raises:
        InputError: if nothing is there.
    """
    text = None
    if file.suffix == ".onnx":
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
