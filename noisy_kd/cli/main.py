"""noisy-kd VERB ...: small students from large frozen teachers.

    noisy-kd train      train a teacher and a student; a sweep with -cn NAME
    noisy-kd report     show results beside the paper's
    noisy-kd evaluate   measure robustness and calibration of finished students
    noisy-kd export     write a student as ONNX, torch.export or safetensors, and check it
    noisy-kd predict    classify image files
    noisy-kd store      list or remove stored teachers and logits
    noisy-kd reproduce  train runs of a kept table again, and compare
    noisy-kd describe   show what a training would do

`noisy-kd VERB --help` says more. Exit codes: 0 done; 2 wrong settings or input; 1 anything else.
"""

import os
import sys
from importlib import import_module

import noisy_kd
from noisy_kd.cli.errors import run_command

VERBS = ("train", "report", "evaluate", "export", "predict", "store", "reproduce", "describe")
READERS = ("evaluate", "export", "predict")
"""Verbs that read somebody else's files; they import from the current folder only if told to."""


def main() -> int:
    """Run the verb that the command line begins with, and return its exit code.

    Arguments that begin with a setting or an option are those of ``train``: so Lightning starts the
    other processes of ``trainer=ddp``.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        return run_command(lambda: print((__doc__ or "").strip()))
    if arguments == ["--version"]:
        return run_command(lambda: print(noisy_kd.__version__))
    is_setting = arguments[0].startswith(("-", "+", "~")) or "=" in arguments[0]
    verb = "train" if is_setting else arguments.pop(0)
    if verb not in VERBS:
        print(f"noisy-kd: there is no command {verb}: choose {', '.join(VERBS)}.", file=sys.stderr)
        return 2
    sys.argv[1:] = arguments
    try:
        os.getcwd()
    except FileNotFoundError:
        print("noisy-kd: the current folder is gone: change to another.", file=sys.stderr)
        return 2
    takes_code = verb not in READERS or any(text.startswith("--al") for text in arguments)
    if takes_code and os.getcwd() not in sys.path:  # for networks and methods of the user's
        sys.path.append(os.getcwd())
    return run_command(lambda: import_module(f"noisy_kd.cli.{verb}").main())


if __name__ == "__main__":
    sys.exit(main())
