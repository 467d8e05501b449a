"""noisy-kd predict RUN_DIR|FILE image.jpg ...: classify image files.

A run's own student, or an exported one (.onnx, .pt2, .safetensors). Images are decoded as those of
the training were. Files that cannot be read are named, and the exit code is then 2.
"""

import argparse
import json
import sys
from pathlib import Path

from noisy_kd.cli.arguments import add_allow
from noisy_kd.errors import InputError


def main() -> None:
    """Print the most probable classes of each file."""
    parser = argparse.ArgumentParser(prog="noisy-kd predict", description=__doc__)
    parser.add_argument("model", type=Path, metavar="RUN_DIR|FILE")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="files, folders")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="print K classes (1)")
    parser.add_argument("--format", choices=["text", "json", "csv"], default="text")
    add_allow(parser)
    options = parser.parse_args()
    if options.top < 1:
        raise InputError(f"--top {options.top} must be at least 1.")
    if missing := [str(file) for file in options.images if not file.exists()]:
        raise InputError(f"there is no {', no '.join(missing)}: name image files.")
    import pandas as pd

    from noisy_kd.data.decode import images_in
    from noisy_kd.deploy.predict import predict

    files = [file for path in options.images for file in images_in(path)]
    answers = list(predict(options.model, files, options.top, options.allow))
    table = pd.DataFrame(answers).explode(["classes", "probabilities"])
    if options.format == "json":
        print(json.dumps(answers, indent=1, ensure_ascii=False))
    elif options.format == "csv":
        table["probabilities"] = table["probabilities"].map("{:.6f}".format, na_action="ignore")
        heads = ["file", "class", "probability", "error"]
        print(table.to_csv(index=False, header=heads, lineterminator="\n"), end="")
    else:
        for file, name, probability, _ in table.dropna().itertuples(index=False):
            printable = "".join(c if c.isprintable() else "?" for c in name)
            print(f"{file}: {printable} ({probability:.1%})")
    errors = [answer["error"] for answer in answers if answer["error"]]
    if errors:
        print(*errors, sep="\n", file=sys.stderr)
        raise InputError(f"{len(errors)} of {len(answers)} files cannot be read.")
