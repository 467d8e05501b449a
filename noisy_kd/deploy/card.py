"""A model card in Markdown for an exported student."""

from pathlib import Path
from typing import Any

LICENCES = {
    "mnist": "MNIST: CC BY-SA 3.0 (LeCun, Cortes)",
    "svhn": "SVHN: for non-commercial use only (Netzer et al. 2011)",
    "cifar10": "CIFAR-10: no licence given (Krizhevsky 2009)",
    "digits": "Optical recognition of handwritten digits: CC BY 4.0 (Alpaydin, Kaynak 1998)",
    "folder": "your own images",
}

CARD = """# {student} for {dataset}

| | |
|---|---|
| file | `{file}` |
| data | {dataset} |
| licence of the data | {licence} |
| student | `{student_layers}` |
| teacher | {teacher}, `{teacher_layers}` |
| method | {method}{noise} |
| seed | {seed} |
| input | {input}, [B, {shape}] |
| images of other sizes | shorter side scaled (antialiased, bilinear), centre cut out |
| classes | {names} |
| test errors | {test_errors} of {test_size} ({test_error:.2%}) |
| test errors of this file | {errors} |
| test errors of the teacher | {teacher_test_errors} |
| largest difference of a logit | {largest_difference:.2g} |
| multiplications | {multiplications:,} ({compression:.1f} times fewer than the teacher's) |
| parameters | {parameters:,} |
| bytes of this file | {bytes:,} |{int8}

Median milliseconds of one pass on one thread of the machine that exported it:

| | ms |
|---|---|
{times}

Made by noisy-kd ({packages}), configuration {config_hash}; the settings
are in `config.yaml` beside it.
"""
INT8 = "\n| int8, {int8_kind} | `{file}`, {bytes:,} bytes, {errors} test errors |"


def model_card(facts: dict[str, Any]) -> str:
    """Return the card: what the student is, how good, large and fast, and how to train it again."""
    run, file = facts["result"], facts["exported"]
    noise = ", ".join(f"{k} = {run[k]:g}" for k in ("alpha", "sigma") if run.get(k) is not None)
    texts = {
        "file": Path(file["file"]).name,
        "licence": LICENCES.get(run["dataset"], "unknown"),
        "noise": f" ({noise})" if noise else "",
        "input": facts["input"],
        "shape": ", ".join(map(str, run["input_shape"])),
        "names": ", ".join(run["classes"]),
        "int8": "",
        "times": "\n".join(f"| {name} | {ms:.3f} |" for name, ms in facts["latency"].items()),
        "packages": ", ".join(f"{key} {value}" for key, value in run["versions"].items()),
    }
    if small := facts.get("int8"):
        name = Path(small["file"]).name
        texts["int8"] = INT8.format(**small | {"file": name, "int8_kind": facts["int8_kind"]})
    return CARD.format(**run | file | texts)
