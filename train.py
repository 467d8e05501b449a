"""python train.py [GROUP=NAME] [KEY=VALUE] ...: `noisy-kd train`; --help lists them."""

import sys

from noisy_kd.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    sys.exit(main())
