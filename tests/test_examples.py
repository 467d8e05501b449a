"""Each example runs, in under 40 lines, and its student learns."""

import re
import runpy
import sys

import pytest
from conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_runs_and_its_student_learns(file, tmp_path, monkeypatch, capsys):
    assert len(file.read_text().splitlines()) < 40
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(file)])
    runpy.run_path(str(file), run_name="__main__")
    errors = re.findall(r"(\d+\.\d+)% (?:validation|test) errors", capsys.readouterr().out)
    assert errors and all(float(error) < 20 for error in errors)
