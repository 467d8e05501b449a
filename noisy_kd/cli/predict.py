"""noisy-kd predict RUN_DIR|FILE image.png ...: classify image files.

A run's own student, or an exported one (.onnx, .pt2, .safetensors). Images are turned grey or RGB
and scaled to the student's size where they differ.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from noisy_kd.deploy.predict import load, read_image


def main() -> None:
    """Print each file's class and how sure the student is."""
    parser = argparse.ArgumentParser(prog="noisy-kd predict", description=__doc__)
    parser.add_argument("model", type=Path, metavar="RUN_DIR|FILE")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    options = parser.parse_args()
    run, about = load(options.model)
    for file in options.images:
        logits = run(read_image(file, about["input_shape"])).detach()
        best = logits.softmax(dim=1).max(dim=1)
        name = about["classes"][int(best.indices[0])]
        print(f"{file}: {name} ({float(best.values[0]):.1%})")
