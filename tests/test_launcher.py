"""The stacking launcher: Hydra's conformance suite, and sweeps by the command line."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
import yaml
from conftest import ROOT, SHORT
from hydra import initialize_config_dir, version
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.types import RunMode
from omegaconf import OmegaConf

from noisy_kd.cli.arguments import add_to_path
from noisy_kd.config import CONF
from noisy_kd.sweep import compose, plugins
from noisy_kd.training.stages import run


@pytest.fixture
def as_in_a_fresh_process(monkeypatch):
    """The plugin on the path; and none of the Hydra state that other tests have left."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(plugins.HERE), str(ROOT)]))
    before = copy.deepcopy(Singleton.get_state())
    version.setbase("1.1")
    yield
    Singleton.set_state(before)


def test_hydra_finds_the_launcher():
    assert "StackedLauncher" in [
        plugin.__name__ for plugin in Plugins.instance().discover(Launcher)
    ]


JOBS = [
    ["method.sigma=0", "seed=1"],
    ["method.sigma=0.9", "seed=2"],
    ["method.sigma=0.9", "seed=2", "seed=3"],
    ["method.sigma=${method.alpha}", "seed='4'"],
    ["method=hinton", "method.temperature=2", "seed=1"],
    ["method=hinton", "method.temperature=5.5", "seed=1"],
    ["method=supervised", "data.val_size=0", "seed=1"],
    ["data=mnist", "+student.width=3"],
    ["data=mnist", "+student.width=4"],
    ["student.layers=FC5-FC10", "callbacks.best=null"],
    ["student.layers='[C3(S1P1)@4]-FC10'", "callbacks.best={patience: 3}"],
    ["~logger.tensorboard", "seed=7"],
    ["method.sigma=0.1", "++method.sigma=0.4"],
    ["method.sigma=0.2", "++method.sigma=0.4"],
    ["callbacks.best.patience=3", "callbacks={best: {patience: 5}}"],
    ["callbacks.best.patience=3", "callbacks.best=null"],
]


def test_jobs_are_composed_from_each_other_as_hydra_composes_each():
    add_to_path()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("quick", ["hydra.job.chdir=false"], RunMode.MULTIRUN)
        expected = [loader.load_sweep_config(master, job) for job in JOBS]
        load = compose.share(loader)
        for job in JOBS:  # as the sweeper does
            loader.load_sweep_config(master, job)
        shared = [load(master, job) for job in JOBS]
        for job, own, other in zip(JOBS, shared, expected, strict=True):
            a, b = (OmegaConf.to_container(one, resolve=False) for one in (own, other))
            assert a == b, job
            assert OmegaConf.is_struct(own) and not OmegaConf.is_readonly(own.hydra)


@pytest.mark.usefixtures("as_in_a_fresh_process")
@pytest.mark.parametrize("launcher_name, overrides", [("stacked", [])])
class TestStackedLauncher(LauncherTestSuite):
    """Hydra's own suite for launchers."""


@pytest.mark.usefixtures("as_in_a_fresh_process")
@pytest.mark.parametrize(
    "task_launcher_cfg, extra_flags",
    [({"defaults": [{"override hydra/launcher": "stacked"}]}, ["-m"])],
)
class TestStackedLauncherIntegration(IntegrationTestSuite):
    """Hydra's own suite for launchers in applications."""


@pytest.fixture
def arguments_of(store):
    """The arguments of a sweep of short runs; further ones change them."""

    def make(*arguments, name="quick"):
        return ["-cn", name, *SHORT, f"store={store}", "devices=1", *arguments]

    return make


@pytest.fixture
def sweep(command, arguments_of):
    """Run a sweep of short runs in this process."""

    def run(*arguments, name="quick"):
        return command("train", *arguments_of(*arguments, name=name))

    return run


@pytest.fixture
def sweep_process(process, arguments_of):
    """Run a sweep of short runs in a process of its own."""

    def run(*arguments, name="quick", **settings):
        return process(ROOT / "train.py", *arguments_of(*arguments, name=name), **settings)

    return run


def results(tmp_path, folder="runs"):
    files = sorted((tmp_path / folder).glob("*/result.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def test_a_sweep_is_trained_in_one_stack_and_every_run_is_as_if_alone(sweep, tmp_path, short):
    grid = ("method.sigma=0,0.5", "seed=1,2")
    done = sweep(*grid)
    assert done.returncode == 0, done.stderr
    assert "baseline" in done.stdout
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


@pytest.mark.slow  # test_devices tests the same below the command
def test_two_processes_share_a_sweep(sweep, tmp_path):
    done = sweep("devices=2", "seed=1,2", "method.sigma=0,0.5")
    assert done.returncode == 0, done.stderr
    found = results(tmp_path).values()
    assert len({result["process"] for result in found}) == 2
    assert [result["stack_size"] for result in found] == [2] * 4


@pytest.mark.slow
def test_the_jobs_of_a_cluster_share_a_sweep(sweep, tmp_path):
    """Through submitit's executor for this machine."""
    arguments = ("hydra/launcher=stacked_slurm", "hydra.launcher.cluster=local")
    done = sweep(*arguments, "hydra.launcher.jobs=2", "seed=1,2", "method.sigma=0,0.5")
    assert done.returncode == 0, done.stderr
    found = results(tmp_path).values()
    assert [r["stack_size"] for r in found] == [2] * 4
    assert len({r["process"] for r in found}) == 2
    assert "baseline" in done.stdout


def test_without_slurm_the_launcher_says_so(sweep, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    done = sweep("hydra/launcher=stacked_slurm", "seed=1", "method.sigma=0")
    assert done.returncode == 2
    assert "no sbatch" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


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


def test_ddp_is_refused_inside_a_sweep(sweep):
    done = sweep("trainer=ddp", "seed=1")
    assert done.returncode == 2
    assert "leave it out of a sweep" in done.stderr


@pytest.mark.parametrize(
    ("rate", "said", "status"),
    [
        ("optimizer.lr", "diverged, try a smaller optimizer.lr", "diverged"),
        ("teacher.lr", "the teacher's loss is no longer finite", "failed"),
    ],
)
def test_a_failing_run_is_marked_and_harms_no_other(rate, said, status, sweep, tmp_path):
    done = sweep("method.sigma=0.5", "seed=1", f"{rate}=0.001,1e30")
    assert done.returncode == 1
    assert "1 of 2 runs failed" in done.stderr
    assert said in done.stderr
    assert sorted(r["status"] for r in results(tmp_path).values()) == sorted(["done", status])


def test_a_failing_group_does_not_stop_the_others(sweep, tmp_path, monkeypatch):
    """Its own callback raises in one group; the other group is trained."""
    (tmp_path / "faulty.py").write_text(
        "import os\n"
        "from lightning import Callback\n"
        "class Faulty(Callback):\n"
        "    def on_train_epoch_end(self, trainer, stack):\n"
        "        if trainer.max_epochs == 1 and 'HEALED' not in os.environ:\n"
        "            raise RuntimeError('the disk is full')\n"
    )
    arguments = ("+callbacks.faulty._target_=faulty.Faulty", "trainer.max_epochs=1,2")
    done = sweep(*arguments, "method.sigma=0,0.5", "seed=1")
    assert done.returncode == 1
    assert "2 of 4 runs failed" in done.stderr
    assert "the disk is full" in done.stderr
    assert sorted(r["status"] for r in results(tmp_path).values()) == ["done"] * 2 + ["failed"] * 2
    monkeypatch.setenv("HEALED", "1")
    healed = sweep(*arguments, "method.sigma=0,0.5", "seed=1")
    assert healed.returncode == 0, healed.stderr
    assert [r["status"] for r in results(tmp_path).values()] == ["done"] * 4


def test_runs_of_different_length_of_training_are_different_stacks(sweep, tmp_path):
    done = sweep("method.sigma=0.1,0.5", "seed=1", "trainer.max_epochs=1,2")
    assert done.returncode == 0, done.stderr
    assert [r["stack_size"] for r in results(tmp_path).values()] == [2, 2, 2, 2]


def test_hydras_own_launcher_runs_the_same_sweep(sweep, tmp_path):
    grid = ("method.sigma=0,0.5", "seed=1")
    assert sweep(*grid).returncode == 0
    stacked = results(tmp_path)
    done = sweep(*grid, "hydra/launcher=basic", "hydra.sweep.dir=basic")
    assert done.returncode == 0, done.stderr
    basic = results(tmp_path, "basic")
    assert basic.keys() == stacked.keys()
    assert all(basic[n]["test_errors"] == stacked[n]["test_errors"] for n in basic)


@pytest.mark.slow
def test_a_sweep_that_is_killed_at_random_moments_goes_on(sweep, sweep_process, tmp_path):
    """The rerun completes, nothing is trained twice, and the table is that of a quiet sweep."""
    grid = ("seed=1,2", "method.sigma=0,0.5,0.9", "max_stack=2", "trainer.max_epochs=60")
    moments = random.Random(0)
    times = {}
    for _ in range(3):
        running = sweep_process(*grid, wait=False, start_new_session=True)
        with suppress(subprocess.TimeoutExpired):
            running.communicate(timeout=5 + 3 * moments.random())
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        for file in (tmp_path / "runs").glob("*/result.json"):
            assert times.setdefault(file, file.stat().st_mtime_ns) == file.stat().st_mtime_ns
    last = sweep(*grid)
    assert last.returncode == 0, last.stderr
    assert {file: file.stat().st_mtime_ns for file in times} == times
    killed = results(tmp_path)
    assert len(killed) == 6
    per_epoch = -(-1257 // 64)
    assert {r["steps"] for r in killed.values()} == {60 * per_epoch}
    quiet = sweep(*grid, "hydra.sweep.dir=quiet")
    assert quiet.stdout.partition("quick:")[2] == last.stdout.partition("quick:")[2] != ""


def test_runs_that_would_share_a_directory_are_refused(sweep, tmp_path):
    done = sweep("seed=1", "method.sigma=0,0.5", "hydra.sweep.subdir=x")
    assert done.returncode == 2
    assert "would share" in done.stderr


@pytest.mark.slow
def test_a_search_minimises_the_validation_error_through_the_stacking_launcher(sweep, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    done = sweep("hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=3", name="search")
    assert done.returncode == 0, done.stderr
    found = results(tmp_path)
    assert sorted(result["stack_size"] for result in found.values()) == [2, 2, 3, 3, 3]
    best = yaml.safe_load((tmp_path / "runs" / "optimization_results.yaml").read_text())
    assert best["best_value"] == min(result["val_error"] for result in found.values())
    chosen = [r for r in found.values() if r["val_error"] == best["best_value"]]
    assert best["best_params"]["method.sigma"] in [result["sigma"] for result in chosen]


@pytest.mark.slow
def test_a_search_goes_on_after_a_trial_that_diverges(sweep, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    few = ("hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "hydra.sweeper.max_failure_rate=1")
    grid = ("optimizer.lr=choice(1e-3,1e30)", "precision=32")
    done = sweep(*few, *grid, name="search")
    assert {result["status"] for result in results(tmp_path).values()} == {"done", "diverged"}
    assert done.returncode == 0, done.stderr
    assert "diverged" in done.stdout + done.stderr


def test_a_search_needs_validation_images(sweep, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    done = sweep("data.val_size=0", name="search")
    assert done.returncode == 2
    assert "needs validation images" in done.stderr
    assert not results(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["joblib", "submitit_local"])
def test_hydras_plugins_for_other_launchers_keep_working(other, sweep_process, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{other.partition('_')[0]}_launcher")
    done = sweep_process("method.sigma=0,0.5", "seed=1", f"hydra/launcher={other}")
    assert done.returncode == 0, done.stderr
    assert [r["status"] for r in results(tmp_path).values()] == ["done"] * 2
