"""python -m noisy_kd.evaluation ...: the command ``noisy-kd evaluate``."""

import runpy

if __name__ == "__main__":
    runpy.run_module("noisy_kd.cli.evaluate", run_name="__main__")
