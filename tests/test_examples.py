"""Each example runs, in under 40 lines, and its student learns."""

import re
import runpy
import sys

import pytest
from conftest import ROOT
from image_files import write_shapes

from noisy_kd.runs import read_result

EXAMPLES = sorted(set((ROOT / "examples").glob("*.py")) - {ROOT / "examples/own_images.py"})


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_runs_and_its_student_learns(file, tmp_path, monkeypatch, capsys):
    assert len(file.read_text().splitlines()) < 40
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(file)])
    runpy.run_path(str(file), run_name="__main__")
    errors = re.findall(r"(\d+\.\d+)% (?:validation|test) errors", capsys.readouterr().out)
    assert errors and all(float(error) < 20 for error in errors)


@pytest.mark.slow
def test_from_a_folder_of_jpegs_to_a_checked_onnx_file(tmp_path, process):
    """300 JPEGs of all sizes, a ResNet-18, a student that is 58 times cheaper."""
    images = write_shapes(tmp_path / "images", 100)
    done = process(ROOT / "examples" / "own_images.py", images, timeout=600)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "own-images"
    result = read_result(run)
    assert result["teacher_test_error"] <= 0.05
    assert result["test_error"] <= result["teacher_test_error"] + 0.03
    assert result["compression"] >= 30
    errors = result["test_errors"]
    assert f"{errors} test errors (original {errors})" in done.stdout
    assert "58.3 times fewer" in (run / "student.onnx.md").read_text()
    first = re.search(r"/(\w+)/\d+\.jpg: (\w+) \(", done.stdout)
    assert first[1] == first[2]
