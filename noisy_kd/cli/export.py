"""noisy-kd export RUN_DIR --format onnx|torch_export|safetensors: a student to take away.

Writes the student beside its result, checks it against the original on the whole test set, measures
its size and latency beside the teacher's, and writes a model card. --with-preprocessing makes it
take uint8 images; else it takes preprocessed ones. Needs the extra `export`.
"""

import argparse
from pathlib import Path

from noisy_kd.cli.arguments import add_allow
from noisy_kd.errors import InputError


def main() -> None:
    """Export a student and print what was measured."""
    parser = argparse.ArgumentParser(prog="noisy-kd export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a finished run")
    parser.add_argument("--format", choices=["onnx", "torch_export", "safetensors"], default="onnx")
    parser.add_argument("--with-preprocessing", action="store_true", help="it takes uint8 images")
    parser.add_argument(
        "--int8", choices=["dynamic", "static"], help="also a quantised ONNX model, with its error"
    )
    parser.add_argument("--output", type=Path, help="file to write (RUN_DIR/student.onnx, ...)")
    add_allow(parser)
    options = parser.parse_args()
    if options.int8 and options.format != "onnx":
        raise InputError(f"--int8 {options.int8} is made from an ONNX model: use --format onnx.")
    from noisy_kd.deploy.export import export, in_words

    facts = export(
        options.run,
        options.format,
        options.with_preprocessing,
        options.int8,
        options.output,
        options.allow,
    )
    print(*in_words(facts), sep="\n")
