"""noisy-kd predict RUN_DIR|FILE image.jpg ...: classify image files.

A run's own student, or an exported one (.onnx, .pt2, .safetensors). Images are decoded as those of
the training were. Files that cannot be read are named, and the exit code is then 1.
"""

import argparse
import sys
from pathlib import Path

from noisy_kd.errors import InputError, TrainingError


def main() -> None:
    """Print the most probable classes of each file."""
    parser = argparse.ArgumentParser(prog="noisy-kd predict", description=__doc__)
    parser.add_argument("model", type=Path, metavar="RUN_DIR|FILE")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="print K classes (1)")
    parser.add_argument("--format", choices=["text", "json", "csv"], default="text")
    options = parser.parse_args()
    if options.top < 1:
        raise InputError(f"--top {options.top} must be at least 1.")
    from noisy_kd.deploy.predict import predict, write

    answers = list(predict(options.model, options.images, options.top))
    write(answers, options.format)
    broken = [answer["error"] for answer in answers if "error" in answer]
    if len(broken) == len(answers) == 1:
        raise InputError(broken[0])
    if broken:
        print(*broken, sep="\n", file=sys.stderr)
        raise TrainingError(f"{len(broken)} of {len(answers)} files cannot be read.")
