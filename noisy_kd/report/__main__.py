"""python -m noisy_kd.report ...: the command ``noisy-kd report``."""

import runpy

if __name__ == "__main__":
    runpy.run_module("noisy_kd.cli.report", run_name="__main__")
