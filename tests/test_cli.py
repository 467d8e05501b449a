"""The real command line, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, SHORT

from noisy_kd.arguments import for_hydra

TRAIN = [sys.executable, str(ROOT / "train.py")]


@pytest.fixture
def command(tmp_path, store):
    def run(*arguments, module=None, env=None, **kwargs):
        start = [sys.executable, "-m", module] if module else TRAIN
        if not module and not {"--help", "--cfg"} & set(arguments):
            arguments = (*SHORT, f"store={store}", *arguments)
        return subprocess.run(
            [*start, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NOISY_KD_DATA": "", **(env or {})},
            timeout=120,
            **kwargs,
        )

    return run


def only_run(tmp_path):
    (directory,) = (tmp_path / "runs").iterdir()
    return directory


def test_a_run_a_rerun_and_a_forced_rerun(command, tmp_path):
    first = command()
    assert first.returncode == 0, first.stderr
    assert "test error" in first.stdout
    assert "not run yet" in first.stdout
    file = only_run(tmp_path) / "result.json"
    assert (only_run(tmp_path) / ".hydra" / "config.yaml").exists()
    result, written = json.loads(file.read_text()), file.stat().st_mtime_ns
    assert result["status"] == "done"

    again = command()
    assert again.returncode == 0
    assert "skipped" in again.stdout
    assert file.stat().st_mtime_ns == written

    for setting in ("trainer=mps", "store=/dev/null/x"):  # not on Linux
        assert command("force=true", setting).returncode == 2
        assert file.stat().st_mtime_ns == written
    forced = command("force=true")
    assert forced.returncode == 0
    assert file.stat().st_mtime_ns > written
    assert json.loads(file.read_text())["test_errors"] == result["test_errors"]

    baseline = command("method=logit_regression")
    assert "is this run" in baseline.stdout
    assert "errors)" in command().stdout
    for text in (first.stdout, first.stderr):
        assert "litlogger" not in text
        assert "Warning" not in text


def test_a_directory_of_ones_own(command, tmp_path):
    assert command("hydra.run.dir=mine").returncode == 0
    assert (tmp_path / "mine" / "result.json").exists()


BAD = {
    "data=imagenet": "no data named imagenet: choose cifar10",
    "model@teacher=resnet": "no model named resnet",
    "method=noisy": "no method named noisy",
    "method.sigma=-1": "method.sigma=-1.0 must be at least 0",
    "method.sigma=nan": "finite",
    "method.alpha=1.01": "at most 1",
    "student.layers=FC8-FCten": "position 5",
    "student.layers=FC8-FC9": "9 logits",
    "'student.layers=\"[C9(S1P0)@4]-FC10\"'": "does not fit images of 1x8x8",
    "nonsense=1": "nonsense is not a key",
    "+nonsense=1": "nonsense is not a key",
    "+method.nonsense=1": "no key method",
    "seed=-1": "seed=-1",
    "trainer.max_epochs=0": "trainer.max_epochs=0",
    "data.batch_size=0": "data.batch_size=0",
    "data.subset=99999": "data.subset=99999",
    "data.val_size=99999": "data.val_size=99999",
    "teacher.checkpoint=nowhere.pt": "nowhere.pt cannot be read",
    "hydra.run.dir=/dev/null/x": "choose an output folder",
    "store=/dev/null/x": "store=/dev/null/x cannot be written",
    "trainer=abacus": "no trainer named abacus",
    "optimizer._target_=torch.optim.Foo": "Foo",
    "+logger.tensorboard.foo=1": "logger.tensorboard.foo is not a key",
    "+callbacks.best.foo=1": "callbacks.best.foo is not a key",
    "logger=wandb": "pip install wandb",
    "~method.alpha": "needs the key",
    "teacher.subset=5": "teacher.subset=5",
    "broken=[": "quote a value with brackets twice",
    "seed=0,1": "add `-m hydra/launcher=stacked`",
    "student=fc800": "model@student=NAME",
    "seed": "they are KEY=VALUE",
    "--config-name=tabel3": "there is no sweep named tabel3: choose additive, alpha_sigma, ",
    "-cn": "-cn takes a sweep's name: choose additive, alpha_sigma, ",
    "--seed=3": "--seed: settings have no dashes",
    "-seed": "-seed: settings have no dashes",
    "--resolve": "can only be used in conjunction with --cfg",
    "-m method.sigma=range(0,1,0)": "must not be zero",
    "-cp sweeps -cn quick": "Could not load 'config'.",
}


@pytest.mark.parametrize("argument", BAD)
def test_bad_input_is_one_line_and_exit_code_2(command, tmp_path, argument):
    done = command(*argument.strip("'").split())
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert BAD[argument] in lines[0]
    assert not list(tmp_path.glob("runs/*/*"))  # and nothing is left behind


def test_what_options_take_stays_with_them():
    words = ["seed=3", "-cd", "lr=0.1", "~logger", "-m", "-cn", "table1", "+a=b"]
    there = ["-cd", "lr=0.1", "-m", "-cn", "table1", "seed=3", "~logger", "+a=b"]
    assert for_hydra(words) == there
    assert for_hydra(["seed=3", "--info"]) == ["--info", "all", "seed=3"]
    assert for_hydra(["--config-di", "a=b", "seed=3"]) == ["--config-di", "a=b", "seed=3"]


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["-cn", "table1"], True),
        (["seed=3", "--config-name=table1.yaml"], True),
        (["-cn", "table1", "--multirun"], False),  # Hydra takes one action
        (["-cn", "table1", "--cfg", "job"], False),
        (["-cn", "table1", "--hydra-h"], False),
        (["-cn", "table1", "hydra.mode=RUN"], False),
        (["-cn", "table1", "++hydra.mode=RUN"], False),
        (["-cn", "table1", "hydra.mode=nada"], True),
        (["--config-nam", "table1", "seed=3"], True),
        (["-cn", "table1", "--", "seed=3"], True),
        (["-cd", "own", "-cn", "mine"], False),  # its hydra.mode says it
        (["-cn", "config", "seed=3"], False),
        (["seed=3"], False),
    ],
)
def test_a_file_of_sweeps_is_a_sweep(words, added):
    assert (for_hydra(words)[0] == "--multirun" and words[-1] != "--multirun") == added


@pytest.mark.parametrize(
    "wrong", ["methd=hinton", "data=nada", "hydra.launcher.max_stack=1", "model@studnt=lenet"]
)
def test_a_wrong_setting_of_a_sweep_with_a_grid_is_what_is_told(command, wrong):
    done = command("-cn", "quick", "method.sigma=0,0.9", wrong)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert wrong.rpartition("=")[0] in line
    assert "method.sigma" not in line


def test_options_may_stand_between_settings(command):
    done = command("seed=3", "--cfg", "job", "trainer.max_epochs=7")
    assert done.returncode == 0, done.stderr
    assert "seed: 3\n" in done.stdout
    assert "max_epochs: 7\n" in done.stdout


@pytest.mark.parametrize("form", ["csv", "text"])
def test_who_reads_may_stop_early(form):
    words = (sys.executable, "-m", "noisy_kd.report", "table1", "--format", form)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(timeout=60) == 0
    running.stderr.close()


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "folder"])
def test_missing_data_is_one_line_that_says_where_it_must_lie(command, tmp_path, name):
    done = command(f"data={name}", "data.root=here", "data.download=false")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "here/" in line


def test_a_checkpoint_of_another_architecture(command, tmp_path):
    import torch

    torch.save({"0.weight": torch.zeros(3, 3)}, tmp_path / "t.pt")
    done = command("teacher.checkpoint=t.pt")
    assert done.returncode == 2
    assert "another architecture" in done.stderr


def test_the_traceback_is_there_for_those_who_want_it(command):
    done = command("method.sigma=-1", env={"HYDRA_FULL_ERROR": "1"})
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_diverged_run_exits_with_1_and_is_not_repeated(command, tmp_path):
    done = command("optimizer.lr=1e30")
    assert done.returncode == 1
    assert "smaller optimizer.lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((only_run(tmp_path) / "result.json").read_text())["status"] == "diverged"
    again = command("optimizer.lr=1e30")
    assert again.returncode == 1
    assert "skipped" in again.stdout


def test_help_opens_with_examples_and_lists_the_choices(command):
    done = command("--help")
    assert done.returncode == 0
    assert done.stdout.index("Examples") < 120
    assert "python train.py data=mnist" in done.stdout
    assert "data: cifar10, digits, folder, mnist, svhn" in done.stdout
    assert command("--cfg", "job").returncode == 0


def test_a_killed_run_goes_on(command, tmp_path):
    """kill -9 in the middle: the same command ends with the student of an undisturbed run."""
    settings = ("trainer.max_epochs=150", "optimizer.schedule=constant")
    whole = command(*settings, "hydra.run.dir=whole")
    assert whole.returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [*SHORT, *settings, "hydra.run.dir=killed", "store=store"]
    running = subprocess.Popen([*TRAIN, *arguments], cwd=tmp_path, env=environment)
    checkpoint = tmp_path / "killed" / "last.ckpt"
    deadline = time.time() + 60
    while not checkpoint.exists() and time.time() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert checkpoint.exists()
    assert not (tmp_path / "killed" / "result.json").exists()
    assert command(*settings, "hydra.run.dir=killed").returncode == 0
    results = [
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed")
    ]
    keys = ("test_errors", "val_error", "best_epoch", "epochs")
    assert [results[0][key] for key in keys] == [results[1][key] for key in keys]
    one, other = ((tmp_path / n / "student.pt").read_bytes() for n in ("whole", "killed"))
    assert one == other


def test_a_forced_run_that_is_killed_leaves_no_old_result_and_goes_on(command, tmp_path):
    settings = ("trainer.max_epochs=100", "hydra.run.dir=forced")
    assert command(*settings).returncode == 0
    assert (tmp_path / "forced" / "config.yaml").exists()
    arguments = [*SHORT, *settings, "store=store", "force=true"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen([*TRAIN, *arguments], cwd=tmp_path, env=environment)
    checkpoint = tmp_path / "forced" / "last.ckpt"
    deadline = time.time() + 60
    while not checkpoint.exists() and time.time() < deadline:
        time.sleep(0.02)
    running.kill()
    running.wait()
    assert not (tmp_path / "forced" / "result.json").exists()
    again = command(*settings)
    assert "Going on after epoch" in again.stdout
    assert (tmp_path / "forced" / "result.json").exists()


def test_the_same_run_twice_at_once_is_made_once(command, tmp_path, store):
    arguments = [*SHORT, f"store={store}", "trainer.max_epochs=60", "hydra.run.dir=same"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            [*TRAIN, *arguments], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    shown = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("skipped" in text for text in shown) == 1


def test_the_bare_command_trains_on_the_digits(tmp_path):
    done = subprocess.run(TRAIN, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("runs/digits-*/result.json")
    result = json.loads(file.read_text())
    assert (result["method"], result["status"]) == ("noisy_teacher", "done")
    assert result["test_error"] < 0.1


def test_ctrl_c_exits_with_1_and_says_how_to_go_on(command, tmp_path, store):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        [*TRAIN, *SHORT, f"store={store}", "trainer.max_epochs=5000", "hydra.run.dir=stopped"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoint = tmp_path / "stopped" / "last.ckpt"
    deadline = time.time() + 60
    while not checkpoint.exists() and time.time() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr


def test_one_run_on_two_devices(command, tmp_path):
    settings = ("trainer.max_epochs=30", "optimizer.lr=0.005")
    arguments = ("trainer=ddp", "trainer.accelerator=cpu", *settings, "hydra.run.dir=two")
    two = command(*arguments)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("test error") == 1
    assert "Traceback" not in two.stderr
    assert command(*settings, "hydra.run.dir=one").returncode == 0
    errors = [
        json.loads((tmp_path / name / "result.json").read_text())["val_error"]
        for name in ("one", "two")
    ]
    assert errors[0] == pytest.approx(errors[1], abs=0.06)


def test_describe_shows_what_would_be_done(command, tmp_path):
    place = "hydra.run.dir=elsewhere"
    done = command("data=mnist", "model@student=fc800", place, module="noisy_kd.describe")
    assert done.returncode == 0, done.stderr
    for text in ("FC800", "1,275,200", "2,293,000", "12 epochs", "9,384 steps", "elsewhere", "MB"):
        assert text in done.stdout
    assert not (tmp_path / "runs").exists()
    assert command(module="noisy_kd.describe").returncode == 0
    assert "python -m noisy_kd.describe" in command("--help", module="noisy_kd.describe").stdout
    for wrong in ("data=imagenet", "data.subset=99999", "data.val_size=2000"):
        bad = command(wrong, module="noisy_kd.describe")
        assert bad.returncode == 2
        assert len(bad.stderr.strip().splitlines()) == 1
