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


def model_card(facts: dict[str, Any]) -> str:
    """The card: what the student is, how good, how large, how fast, and how to make it again."""
    run = facts["result"]
    lines = [f"# {run['student']} for {run['dataset']}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _rows(facts).items()]
    lines += [
        "",
        "Median milliseconds of one pass on one thread of the machine that exported it:",
        "",
    ]
    lines += ["| | ms |", "|---|---|"]
    lines += [f"| {name} | {time:.3f} |" for name, time in facts["latency"].items()]
    settings = ", ".join(f"{key} {value}" for key, value in run["versions"].items())
    lines += [
        "",
        f"Made by noisy-kd ({settings}), configuration {run['config_hash']}; the settings",
    ]
    lines += ["are in `config.yaml` beside it.", ""]
    return "\n".join(lines)


def _rows(facts: dict[str, Any]) -> dict[str, Any]:
    """What the card's table says, by name."""
    run, exported, about = facts["result"], facts["exported"], facts["about"]
    noise = ", ".join(f"{k} = {run[k]:g}" for k in ("alpha", "sigma") if run.get(k) is not None)
    takes = "uint8 images" if about["preprocessing"] else f"images after {facts['preprocessing']}"
    rows = {
        "file": f"`{Path(exported['file']).name}`",
        "data": run["dataset"],
        "licence of the data": LICENCES.get(run["dataset"], "unknown"),
        "student": f"`{run['student_layers']}`",
        "teacher": f"{run['teacher']}, `{run['teacher_layers']}`",
        "method": run["method"] + (f" ({noise})" if noise else ""),
        "seed": run["seed"],
        "input": f"{takes}, [B, {', '.join(str(n) for n in run['input_shape'])}]",
        "classes": ", ".join(run["classes"]),
        "test errors": f"{run['test_errors']} of {run['test_size']} ({run['test_error']:.2%})",
        "test errors of this file": exported["errors"],
        "test errors of the teacher": run["teacher_test_errors"],
        "largest difference of a logit": f"{exported['largest_difference']:.2g}",
        "multiplications": f"{run['multiplications']:,} "
        f"({run['compression']:.1f} times fewer than the teacher's)",
        "parameters": f"{run['parameters']:,}",
        "bytes of this file": f"{exported['bytes']:,}",
    }
    if "int8" in facts:
        small = facts["int8"]
        name = Path(small["file"]).name
        size = f"`{name}`, {small['bytes']:,} bytes, {small['errors']} test errors"
        rows[f"int8, {facts['int8_kind']}"] = size
    return rows
