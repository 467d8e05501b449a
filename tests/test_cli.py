"""The command line: in this process; in others where the process is what is tested."""

import json
import os
import signal
import time

import pytest
import torch
from conftest import ROOT, SHORT

import noisy_kd
from noisy_kd.cli.arguments import as_typed, compose, for_hydra

TRAIN = ROOT / "train.py"


@pytest.fixture
def train(command, store):
    """``noisy-kd train`` with a short run's settings, in this process."""

    def run(*arguments, **settings):
        return command("train", *SHORT, f"store={store}", *arguments, **settings)

    return run


@pytest.fixture
def train_process(process, store):
    """``python train.py`` with a short run's settings."""

    def run(*arguments, **settings):
        return process(TRAIN, *SHORT, f"store={store}", *arguments, **settings)

    return run


def only_run(tmp_path):
    (directory,) = (tmp_path / "runs").iterdir()
    return directory


def result_of(directory):
    return json.loads((directory / "result.json").read_text())


def wait_for(file):
    deadline = time.time() + 60
    while not file.exists() and time.time() < deadline:
        time.sleep(0.02)


def test_a_run_a_rerun_and_a_forced_rerun(train, train_process, tmp_path):
    first = train_process()
    assert first.returncode == 0, first.stderr
    assert "test error" in first.stdout
    assert "not run yet" in first.stdout
    file = only_run(tmp_path) / "result.json"
    assert (only_run(tmp_path) / ".hydra" / "config.yaml").exists()
    result, written = json.loads(file.read_text()), file.stat().st_mtime_ns
    assert result["status"] == "done"

    again = train()
    assert again.returncode == 0
    assert "skipped" in again.stdout
    assert file.stat().st_mtime_ns == written

    for setting in ("trainer=mps", "store=/dev/null/x"):  # not on Linux
        assert train("force=true", setting).returncode == 2
        assert file.stat().st_mtime_ns == written
    forced = train("force=true")
    assert forced.returncode == 0
    assert file.stat().st_mtime_ns > written
    assert json.loads(file.read_text())["test_errors"] == result["test_errors"]

    baseline = train("method=logit_regression")
    assert "is this run" in baseline.stdout
    assert "errors)" in train().stdout
    for text in (first.stdout, first.stderr):
        assert "not complete" not in text  # its dashboard
        assert "litlogger" not in text
        assert "Warning" not in text


def test_a_custom_directory(train, tmp_path):
    assert train("hydra.run.dir=mine").returncode == 0
    assert (tmp_path / "mine" / "result.json").exists()


ENTRY_POINTS = {
    "-m noisy_kd train": "Examples",
    "-m noisy_kd": "noisy-kd VERB",
    "-m noisy_kd.report": "SWEEP",
    "-m noisy_kd.evaluation": "RUN_DIR",
    "train.py": "Examples",
}


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_every_entry_point_shows_its_help_and_refuses_bad_arguments(process, entry):
    start = entry.replace("train.py", str(TRAIN)).split()
    done = process(*start, "--help")
    assert done.returncode == 0, done.stderr
    assert ENTRY_POINTS[entry] in done.stdout
    assert done.stderr == ""
    wrong = process(*start, "nowhere", "--nonsense")
    assert wrong.returncode == 2
    (line,) = wrong.stderr.strip().splitlines()
    assert "nowhere" in line or "--nonsense" in line


def test_an_unknown_verb_is_refused(command):
    done = command("trian")
    assert done.returncode == 2
    assert done.stderr == (
        "noisy-kd: there is no command trian: choose train, report, evaluate, export, predict, "
        "store, reproduce, describe.\n"
    )


def test_the_version_is_shown(command):
    assert command("--version").stdout.strip() == noisy_kd.__version__


def test_arguments_of_other_classes_become_additions():
    """The schema does not know them, and Hydra takes unknown keys with ``++`` alone."""
    own = ["student.width=2", "optimizer.momentum=0.9", "trainer.gradient_clip_val=1"]
    assert for_hydra(own) == [f"++{argument}" for argument in own]
    known = ["student.dropout=0.1", "optimizer.lr=0.1", "+optimizer.momentum=0.9", "~logger", "-m"]
    assert for_hydra(known) == ["-m", *known[:-1]]


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        (["-cn", "table1"], True),
        (["seed=3", "--config-name=table1.yaml"], True),
        (["-cn", "table1", "--multirun"], False),  # Hydra takes one action
        (["-cn", "table1", "--cfg", "job"], False),
        (["-cn", "table1", "hydra.mode=RUN"], False),
        (["-cn", "table1", "hydra.mode=nada"], True),
        (["-cn", "table1", "--", "seed=3"], True),
        (["-cd", "own", "-cn", "mine"], False),  # its hydra.mode says it
        (["-cn", "config", "seed=3"], False),
        (["seed=3"], False),
        (["-cn", "table1", "-m", "seed=3"], False),
    ],
)
def test_a_file_of_sweeps_is_a_sweep(arguments, added):
    assert sorted(for_hydra(arguments)) == sorted(["--multirun"] * added + arguments)


def test_options_may_stand_between_settings():
    settings = ["seed=3", "+trainer.x=1", "~logger"]
    expected = ["-m", "-cn", "mine", *settings]
    assert for_hydra(["-cd", "own", "seed=3", "-m", "+trainer.x=1", "-cn", "mine", "~logger"]) == [
        *("-cd", "own"),
        *expected,
    ]


@pytest.mark.parametrize(
    "wrong", ["methd=hinton", "data=nada", "hydra.launcher.max_stack=1", "model@studnt=lenet"]
)
def test_a_wrong_setting_of_a_sweep_with_a_grid_is_named(command, wrong):
    done = command("train", "-cn", "quick", "method.sigma=0,0.9", wrong)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert wrong.rpartition("=")[0] in line
    assert "method.sigma" not in line


@pytest.mark.parametrize(
    "arguments", ["--cfg job seed=3 trainer.max_epochs=7", "seed=3 trainer.max_epochs=7 --cfg job"]
)
def test_options_stand_before_or_behind_the_settings(command, arguments):
    done = command("train", *arguments.split())
    assert done.returncode == 0, done.stderr
    assert "seed: 3\n" in done.stdout
    assert "max_epochs: 7\n" in done.stdout


@pytest.mark.parametrize("form", ["csv", "text"])
def test_who_reads_may_stop_early(process, form):
    running = process("-m", "noisy_kd", "report", "table1", "--format", form, wait=False)
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(timeout=60) == 0
    running.stderr.close()


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "folder"])
def test_missing_data_is_one_line_that_says_where_it_must_lie(train, name):
    done = train(f"data={name}", "data.root=here", "data.download=false")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "here" in line


def test_a_checkpoint_of_another_architecture(train, tmp_path):
    torch.save({"0.weight": torch.zeros(3, 3)}, tmp_path / "t.pt")
    done = train("teacher.checkpoint=t.pt")
    assert done.returncode == 2
    assert "does not fit the teacher" in done.stderr


def test_the_traceback_is_there_for_those_who_want_it(train):
    done = train("method.sigma=-1", env={"HYDRA_FULL_ERROR": "1"})
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_diverged_run_exits_with_1_and_is_not_repeated(train, tmp_path):
    done = train("optimizer.lr=1e30")
    assert done.returncode == 1
    assert "smaller optimizer.lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert result_of(only_run(tmp_path))["status"] == "diverged"
    again = train("optimizer.lr=1e30")
    assert again.returncode == 1
    assert "skipped" in again.stdout


def test_help_opens_with_examples_and_lists_the_choices(command, process):
    done = command("train", "--help")
    assert done.returncode == 0
    assert done.stdout.index("Examples") < 120
    assert "  noisy-kd train data=mnist" in done.stdout
    assert "train.py" not in done.stdout
    assert "  python train.py data=mnist" in process(TRAIN, "--help").stdout
    assert "data.size" in done.stdout and "data.on_error" in done.stdout
    assert "data: cifar10, digits, folder, mnist, svhn" in done.stdout


def test_a_killed_run_goes_on(train, train_process, tmp_path):
    """kill -9 in the middle: the same command ends with the student of an undisturbed run."""
    settings = ("trainer.max_epochs=60", "optimizer.schedule=constant")
    whole = train(*settings, "hydra.run.dir=whole")
    assert whole.returncode == 0
    running = train_process(*settings, "hydra.run.dir=killed", wait=False)
    checkpoint = tmp_path / "killed" / "last.ckpt"
    wait_for(checkpoint)
    running.kill()
    running.communicate()
    assert checkpoint.exists()
    assert not (tmp_path / "killed" / "result.json").exists()
    resumed = train(*settings, "hydra.run.dir=killed")
    assert "Resuming after epoch" in resumed.stdout
    results = [result_of(tmp_path / name) for name in ("whole", "killed")]
    keys = ("test_errors", "val_error", "best_epoch", "epochs")
    assert [results[0][key] for key in keys] == [results[1][key] for key in keys]
    one, other = ((tmp_path / n / "student.pt").read_bytes() for n in ("whole", "killed"))
    assert one == other


@pytest.mark.slow
def test_a_forced_run_that_is_killed_leaves_no_old_result_and_goes_on(
    train, train_process, tmp_path
):
    settings = ("trainer.max_epochs=60", "hydra.run.dir=forced")
    assert train(*settings).returncode == 0
    assert (tmp_path / "forced" / "config.yaml").exists()
    running = train_process(*settings, "force=true", wait=False)
    wait_for(tmp_path / "forced" / "last.ckpt")
    running.kill()
    running.communicate()
    assert not (tmp_path / "forced" / "result.json").exists()
    again = train(*settings)
    assert "Resuming after epoch" in again.stdout
    assert (tmp_path / "forced" / "result.json").exists()


@pytest.mark.slow
def test_the_same_run_twice_at_once_is_made_once(train_process):
    arguments = ("trainer.max_epochs=60", "hydra.run.dir=same")
    both = [train_process(*arguments, wait=False) for _ in range(2)]
    shown = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("skipped" in text for text in shown) == 1


@pytest.mark.slow
def test_the_bare_command_trains_on_the_digits(process, tmp_path):
    done = process(TRAIN)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("runs/digits-*/result.json")
    result = result_of(file.parent)
    assert (result["method"], result["status"]) == ("noisy_teacher", "done")
    assert result["test_error"] < 0.1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=["Ctrl-C", "Slurm's"])
def test_an_interrupt_exits_with_1_and_says_how_to_go_on(number, train_process, tmp_path):
    running = train_process("trainer.max_epochs=5000", "hydra.run.dir=stopped", wait=False)
    wait_for(tmp_path / "stopped" / "last.ckpt")
    running.send_signal(number)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_one_run_on_two_devices(train, train_process, tmp_path):
    settings = ("trainer.max_epochs=30", "optimizer.lr=0.005")
    two = train_process("trainer=ddp", "trainer.accelerator=cpu", *settings, "hydra.run.dir=two")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("test error") == 1
    assert "Traceback" not in two.stderr
    assert train(*settings, "hydra.run.dir=one").returncode == 0
    errors = [result_of(tmp_path / name)["val_error"] for name in ("one", "two")]
    assert errors[0] == pytest.approx(errors[1], abs=0.06)


def test_describe_shows_what_would_be_done(command, tmp_path):
    place = "hydra.run.dir=elsewhere"
    done = command("describe", "data=mnist", "model@student=fc800", place)
    assert done.returncode == 0, done.stderr
    for text in ("FC800", "1,275,200", "2,293,000", "12 epochs", "9,384 steps", "elsewhere", "MB"):
        assert text in done.stdout
    assert not (tmp_path / "runs").exists()
    assert command("describe").returncode == 0
    assert "noisy-kd describe" in command("describe", "--help").stdout
    for wrong in ("data=imagenet", "data.subset=99999", "data.val_size=2000"):
        bad = command("describe", wrong)
        assert bad.returncode == 2
        assert len(bad.stderr.strip().splitlines()) == 1


def test_describe_counts_the_samples_of_a_folder(command, tmp_path):
    import shutil

    from image_files import write_folder

    images = write_folder(tmp_path / "images")
    shutil.copytree(images / "train", images / "val")
    shutil.copytree(images / "train" / "cat", images / "unlabelled")
    size = ["data.size=16", "student.layers=FC3", "teacher.layers=FC4-FC3"]
    shown = command("describe", "data=folder", f"data.root={images}", *size).stdout
    assert "of 18 samples" in shown  # the teacher's
    assert "of 24 samples" in shown  # 6 without a label more


def test_describe_opens_the_checkpoint(command, tmp_path):
    net = noisy_kd.network("FC20-FC10", (1, 8, 8))
    torch.save(net.state_dict(), tmp_path / "t.pt")
    arguments = ("describe", "teacher.checkpoint=t.pt")
    done = command(*arguments, "teacher.layers=FC20-FC10")
    assert "teacher      t.pt fits: 4 tensors, 1,510 values" in done.stdout
    bad = command(*arguments, "teacher.layers=FC30-FC10")
    assert bad.returncode == 2
    (line,) = bad.stderr.strip().splitlines()
    assert "teacher.checkpoint=t.pt does not fit the teacher" in line


@pytest.mark.parametrize(
    "value",
    [
        *("~/pics", "/d/été", "/d/pics (1)", "/d/it's", "/d/a&b", "/d/[old]", "2024_01", "1e3"),
        *("\\\\srv\\share", "/d/a,b", "epoch=1-step=2.ckpt", "/d/#x", "C:\\a\\", "a\\'b"),
        *("/d/{x}", "true"),
    ],
)
@pytest.mark.parametrize("key", ["data.root", "teacher.checkpoint", "store"])
def test_a_path_reaches_the_program_as_it_was_typed(key, value):
    config = compose(["data=folder", "data.root=images", f"{key}={value}"])
    node, _, name = key.rpartition(".")
    found = getattr(getattr(config, node) if node else config, name)
    assert found == os.path.expanduser(value)
    (quoted,) = for_hydra([f"{key}={value}"])
    assert as_typed(quoted) == f"{key}={value}" or value.endswith("\\") or "\\'" in value
