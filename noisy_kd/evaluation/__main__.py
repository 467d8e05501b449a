"""python -m noisy_kd.evaluation ...: the command ``noisy-kd evaluate``."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    runpy.run_module("noisy_kd.cli.main", run_name="__main__")
