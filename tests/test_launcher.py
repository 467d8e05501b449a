"""The stacking launcher: Hydra's conformance suite, and sweeps by the real command line."""

import copy
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, SHORT
from hydra import version
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite

from noisy_kd.plugins import add_to_path

add_to_path()
PLUGINS = str(ROOT / "noisy_kd" / "plugins")


@pytest.fixture(autouse=True)
def as_in_a_fresh_process(monkeypatch):
    """The plugin on the path; and none of the Hydra state that other tests have left."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([PLUGINS, str(ROOT)]))
    before = copy.deepcopy(Singleton.get_state())
    version.setbase("1.1")
    yield
    Singleton.set_state(before)


def test_hydra_finds_the_launcher():
    assert "StackedLauncher" in [
        plugin.__name__ for plugin in Plugins.instance().discover(Launcher)
    ]


@pytest.mark.parametrize("launcher_name, overrides", [("stacked", [])])
class TestStackedLauncher(LauncherTestSuite):
    """Hydra's own suite for launchers."""


@pytest.mark.parametrize(
    "task_launcher_cfg, extra_flags",
    [({"defaults": [{"override hydra/launcher": "stacked"}]}, ["-m"])],
)
class TestStackedLauncherIntegration(IntegrationTestSuite):
    """Hydra's own suite for launchers in applications."""


@pytest.fixture
def sweep(tmp_path, store):
    def run(*arguments, name="quick"):
        return subprocess.run(
            [
                sys.executable,
                str(ROOT / "train.py"),
                "-cn",
                name,
                *SHORT,
                f"store={store}",
                *arguments,
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def results(tmp_path):
    files = sorted((tmp_path / "runs").glob("*/result.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def test_a_sweep_is_trained_in_one_stack_and_every_run_is_as_if_alone(sweep, tmp_path, short):
    from noisy_kd.training.run import run

    grid = ("method.sigma=0,0.5", "seed=1,2")
    done = sweep(*grid)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path)
    assert len(found) == 4
    assert {result["stack_size"] for result in found.values()} == {4}
    assert {result["method"] for result in found.values()} == {"logit_regression", "noisy_teacher"}
    for name, result in found.items():
        assert (tmp_path / "runs" / name / ".hydra" / "overrides.yaml").exists()
        (tmp_path / name).mkdir()
        settings = (f"method.sigma={result['sigma']}", f"seed={result['seed']}")
        (alone,) = run([short(*settings)], [tmp_path / name])
        assert alone["test_errors"] == result["test_errors"]
        assert alone["config_hash"] == result["config_hash"]

    times = {f: f.stat().st_mtime_ns for f in (tmp_path / "runs").glob("*/result.json")}
    assert sweep(*grid).returncode == 0
    assert {f: f.stat().st_mtime_ns for f in times} == times
    assert sweep(*grid, "max_stack=1", "force=true").returncode == 0
    again = results(tmp_path)
    assert {result["stack_size"] for result in again.values()} == {1}
    assert [again[n]["test_errors"] for n in found] == [found[n]["test_errors"] for n in found]


def test_a_wrong_cell_stops_the_sweep_before_anything_is_trained(sweep, tmp_path):
    done = sweep("method.sigma=0.5,-1", "seed=1")
    assert done.returncode == 2
    assert done.stderr.strip() == "noisy-kd: method.sigma=-1.0 must be at least 0."
    assert not list(tmp_path.glob("runs/*/*"))


def test_missing_data_stops_a_sweep_in_one_line_and_leaves_nothing(sweep, tmp_path):
    done = sweep("data=mnist", "data.root=here", "data.download=false", "method.sigma=0,0.5")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("runs/mnist*"))


def test_a_diverging_run_is_marked_and_harms_no_other(sweep, tmp_path):
    done = sweep("method.sigma=0.5", "seed=1", "optimizer.lr=0.001,1e30")
    assert done.returncode == 1
    assert "smaller optimizer.lr" in done.stderr
    assert sorted(r["status"] for r in results(tmp_path).values()) == ["diverged", "done"]


def test_runs_of_different_length_of_training_are_different_stacks(sweep, tmp_path):
    done = sweep("method.sigma=0.1,0.5", "seed=1", "trainer.max_epochs=1,2")
    assert done.returncode == 0, done.stderr
    assert [r["stack_size"] for r in results(tmp_path).values()] == [2, 2, 2, 2]
