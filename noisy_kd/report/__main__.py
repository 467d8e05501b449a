"""python -m noisy_kd.report ...: the command ``noisy-kd report``."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "report")
    runpy.run_module("noisy_kd.cli.main", run_name="__main__")
