"""python -m noisy_kd VERB ...: the command ``noisy-kd``."""

import sys

from noisy_kd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
