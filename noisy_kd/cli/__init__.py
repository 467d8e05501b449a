"""The command ``noisy-kd`` and its verbs."""

import os
import sys

os.environ["MPLBACKEND"] = "agg"  # a notebook's own backend is not there for a program
for _stream in (sys.stdout, sys.stderr):
    if hasattr(_stream, "reconfigure"):
        _stream.reconfigure(errors="replace")  # a terminal that cannot print σ prints ?
