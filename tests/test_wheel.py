"""The wheel holds all that the command needs: it runs in an empty folder, without the clone."""

import os
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def noisy_kd(wheel, tmp_path_factory):
    """The command from the wheel, in an empty folder; its other packages are those of this run."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "NOISY_KD_DATA": ""}

    def run(*arguments):
        return subprocess.run(
            [str(site / "bin" / "noisy-kd"), *arguments],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    where = "import noisy_kd; print(noisy_kd.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=empty, env=environment, capture_output=True, text=True
    )
    assert str(site) in found.stdout
    return run, empty


def test_it_holds_configurations_sweeps_and_the_types_marker(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("conf", "sweeps"):
        here = {str(f.relative_to(ROOT)) for f in (ROOT / folder).rglob("*.yaml")}
        assert {f"noisy_kd/{name}" for name in here} <= set(names)
    assert "noisy_kd/py.typed" in names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_it_trains_and_reports_in_an_empty_folder(noisy_kd):
    run, _ = noisy_kd
    short = ("teacher.max_epochs=2", "trainer.max_epochs=2", "trainer=cpu", "callbacks=quiet")
    done = run("train", *short)
    assert done.returncode == 0, done.stderr
    assert "test error" in done.stdout
    assert "skipped" in run("train", *short).stdout
    swept = run("train", "-cn", "quick", "method.sigma=0,0.5", "seed=1,2", "devices=1", *short)
    assert swept.returncode == 0, swept.stderr
    report = run("report", "quick")
    assert report.returncode == 0, report.stderr
    assert "baseline" in report.stdout
    assert run("describe").returncode == 0
    bad = run("train", "method.sgima=1")
    assert bad.returncode == 2 and "method.sgima" in bad.stderr


def test_configurations_and_networks_of_the_current_folder_are_found(noisy_kd):
    run, empty = noisy_kd
    (empty / "own" / "method").mkdir(parents=True)
    (empty / "own" / "method" / "absolute.yaml").write_text("_target_: mine.absolute\nsigma: 0.3\n")
    (empty / "mine.py").write_text(
        "from torch import nn\n"
        "from noisy_kd import LogitNoise, Method\n\n\n"
        "def absolute(sigma):\n"
        "    loss = lambda g, z, y: (g - z).abs().mean()\n"
        "    return Method(loss=loss, target=LogitNoise(0.5, sigma))\n\n\n"
        "def net(width, num_classes):\n"
        "    layers = nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    done = run(
        *("train", "-cd", "own", "method=absolute", "teacher.max_epochs=1", "trainer.max_epochs=1"),
        *("model@student=module", "student._target_=mine.net", "student.width=7", "trainer=cpu"),
        *("+optimizer.amsgrad=true", "+trainer.gradient_clip_val=1"),
    )
    assert done.returncode == 0, done.stderr
    assert "mine.net(width=7)" in done.stdout.replace("\n", "")
