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
{facts}

Median milliseconds of one pass on one thread of the machine that exported it:

| | ms |
|---|---|
{latency}

Made by noisy-kd ({versions}), configuration {config_hash}; the settings
are in `config.yaml` beside it.
"""


def model_card(facts: dict[str, Any]) -> str:
    """Return the card: what the student is, how good, large and fast, and how to train it again."""
    run, exported = facts["result"], facts["exported"]
    noise = ", ".join(f"{k} = {run[k]:g}" for k in ("alpha", "sigma") if run.get(k) is not None)
    fewer = f"({run['compression']:.1f} times fewer than the teacher's)"
    rows = {
        "file": f"`{Path(exported['file']).name}`",
        "data": run["dataset"],
        "licence of the data": LICENCES.get(run["dataset"], "unknown"),
        "student": f"`{run['student_layers']}`",
        "teacher": f"{run['teacher']}, `{run['teacher_layers']}`",
        "method": run["method"] + (f" ({noise})" if noise else ""),
        "seed": run["seed"],
        "input": f"{facts['input']}, [B, {', '.join(map(str, run['input_shape']))}]",
        "classes": ", ".join(run["classes"]),
        "test errors": f"{run['test_errors']} of {run['test_size']} ({run['test_error']:.2%})",
        "test errors of this file": exported["errors"],
        "test errors of the teacher": run["teacher_test_errors"],
        "largest difference of a logit": f"{exported['largest_difference']:.2g}",
        "multiplications": f"{run['multiplications']:,} {fewer}",
        "parameters": f"{run['parameters']:,}",
        "bytes of this file": f"{exported['bytes']:,}",
    }
    if int8 := facts.get("int8"):
        name = Path(int8["file"]).name
        text = f"`{name}`, {int8['bytes']:,} bytes, {int8['errors']} test errors"
        rows[f"int8, {facts['int8_kind']}"] = text
    times = {name: f"{time:.3f}" for name, time in facts["latency"].items()}
    more = {
        "facts": _rows(rows),
        "latency": _rows(times),
        "versions": ", ".join(f"{key} {value}" for key, value in run["versions"].items()),
    }
    return CARD.format(**run | more)


def _rows(cells: dict[str, Any]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in cells.items())
