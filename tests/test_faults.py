"""A tenth of `make faults`: tests/faults/harness.py plays them in children of its own."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

FAULTS = ["kill crowd soak", "disk tmpfs power flips signals"]  # a process each, of equal length


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the shim is for Linux")
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler for the shim")
@pytest.mark.parametrize("faults", FAULTS)
def test_nothing_is_lost_and_nothing_wrong_is_used(faults, tmp_path):
    file = tmp_path / "figures.json"
    harness = [sys.executable, ROOT / "tests" / "faults" / "harness.py", *faults.split()]
    done = subprocess.run(
        [*harness, "--share", "0.1", "--json", file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert figures
    assert all(figure["cases"] for figure in figures)
