"""What lies around a run: odd names of folders, other files, what cannot be written, few cores."""

import os
import shutil
import sys

import own_nets
import pytest
from commands import command as command_here
from conftest import SHORT
from image_files import write_folder
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from noisy_kd import ImageFolderDataModule, config, runs
from noisy_kd.cli.arguments import compose, for_hydra
from noisy_kd.data import store
from noisy_kd.data.decode import Pixels, decode
from noisy_kd.errors import InputError
from noisy_kd.model.network import architecture
from noisy_kd.report import sweeps, tables
from noisy_kd.runs.identity import config_hash
from noisy_kd.sweep.queue import available


def test_a_folder_may_have_any_name(command, tmp_path):
    """Signs of YAML's comments, of Hydra's lists, and of the markup of rich."""
    run = tmp_path / "it's a&b [old] (1) #2 é" / "r{1},x=2"
    settings = [*SHORT, f"store={run.parent / 'st,ore'}", f"hydra.run.dir={run}"]
    done = command("train", *settings)
    assert done.returncode == 0, done.stderr
    assert str(run) in done.stdout
    assert (run.parent / "st,ore").is_dir()
    done = command("evaluate", run, "--on", "clean")
    assert done.returncode == 0, done.stdout
    assert str(run) in done.stdout
    done = command("train", *SHORT, "-m", f"hydra.sweep.dir={run}", f"store={run.parent}/st,ore")
    assert done.returncode == 0, done.stderr


BAD = {
    "broken": b"layers: [1",
    "binary": b"\xff\xfe\x00\x01",
    "list": b"- 1\n",
    "wrong": b"layers: FC-\n",
    "number": b"layers: 5\n",
    "empty": b"",
    "._nin": b"\x00\x05\x16\x07\xff",
}
"""Files of one's own beside those of conf/model."""


@pytest.fixture
def bad_files(tmp_path, monkeypatch):
    """A configuration with bad files among its networks and sweeps."""
    conf, folder = tmp_path / "conf", tmp_path / "sweeps"
    shutil.copytree(config.CONF, conf)
    shutil.copytree(config.SWEEPS, folder)
    for name, content in BAD.items():
        (conf / "model" / f"{name}.yaml").write_bytes(content)
        (folder / f"{name}.yaml").write_bytes(content)
    monkeypatch.setattr(config, "CONF", conf)
    monkeypatch.setattr(sweeps, "SWEEPS", folder)
    config.named_networks.cache_clear()
    yield conf
    config.named_networks.cache_clear()


def test_a_bad_file_of_ones_own_stops_no_other_command(bad_files, tmp_path):
    named = config.named_networks()
    assert {"nin", "fc800"} <= set(named.values())
    assert not set(BAD) & set(named.values())
    assert command_here("report", "table1", "--results", tmp_path).code == 0
    for name in set(BAD) - {"._nin"}:
        done = command_here("report", name, "--results", tmp_path)
        assert done.code == 2
        assert f"{name}.yaml" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["broken", "binary", "._nin"])
def test_a_bad_file_is_named_where_it_is_used(command, tmp_path, name):
    folder = tmp_path / "own" / "model"
    folder.mkdir(parents=True)
    (folder / f"{name}.yaml").write_bytes(BAD[name])
    done = command("train", "-cd", folder.parent, f"model@student={name}")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert str(folder / f"{name}.yaml") in line


def test_an_output_folder_that_cannot_be_written_is_named(command, tmp_path):
    (tmp_path / "run" / "train.log").mkdir(parents=True)
    done = command("train", *SHORT, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "run/train.log" in line


def test_what_a_store_cannot_remember_is_computed_again(command, tmp_path):
    write_folder(tmp_path / "images")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "folders").write_text("in the way")
    settings = ["data=folder", f"data.root={tmp_path / 'images'}", f"store={tmp_path / 'store'}"]
    done = command("train", *SHORT, *settings)
    assert done.returncode == 0, done.stderr


def test_a_sweep_has_as_many_processes_as_the_container_has_cores(monkeypatch):
    """joblib knows the limits of containers, and this variable for all others."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert available(compose(["trainer=cpu"]), runs=8) == ["cpu"]


# What belongs to others


def test_clean_takes_nothing_that_is_not_the_stores(tmp_path):
    for name in ("photos", "teacher-notes", "folders", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    (tmp_path / ".DS_Store").touch()
    entry = tmp_path / "teacher-0123456789abcdef"
    entry.mkdir()
    (entry / "entry.json").write_text("{}")
    (tmp_path / f"{entry.name}.unfinished").mkdir()
    (tmp_path / "folder-0123456789abcdef").touch()
    before = set(tmp_path.rglob("*"))
    assert store.clean(tmp_path) == (1, 0)
    gone = {path.name for path in before - set(tmp_path.rglob("*"))}
    assert gone == {entry.name, "entry.json", f"{entry.name}.unfinished", "folder-0123456789abcdef"}


def test_a_run_does_not_replace_another_one(command, tmp_path):
    same = (*SHORT, "hydra.run.dir=mine")
    assert command("train", *same).returncode == 0
    (tmp_path / "mine" / "student.onnx").touch()
    other = command("train", *same, "seed=9")
    assert other.returncode == 2
    assert "mine holds the result of another run (noisy_teacher, seed 1)" in other.stderr
    assert runs.read_result(tmp_path / "mine")["seed"] == 1
    assert command("train", *same, "seed=9", "force=true").returncode == 0
    assert runs.read_result(tmp_path / "mine")["seed"] == 9
    assert not (tmp_path / "mine" / "student.onnx").exists()  # of the other student


def test_files_of_others_are_not_replaced_by_a_run(command, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "last.ckpt").write_text("mine")
    done = command("train", *SHORT, "hydra.run.dir=mine")
    assert done.returncode == 2
    assert "mine holds last.ckpt, but not of a run" in done.stderr
    assert (tmp_path / "mine" / "last.ckpt").read_text() == "mine"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["last.ckpt"]


def test_a_callback_that_may_change_the_training_is_part_of_the_run():
    plain = compose([])
    own = compose(["+callbacks.own._target_=own_callbacks.Meeting"])
    shown = compose(["+callbacks.bar._target_=noisy_kd.training.callbacks.EpochBar"])
    assert config_hash(plain) == config_hash(shown) != config_hash(own)


def test_a_run_is_saved_whatever_rank_a_launcher_says(command, tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as SLURM_PROCID=1 makes it
    assert command("train", *SHORT, "hydra.run.dir=mine").returncode == 0
    assert runs.read_result(tmp_path / "mine")["status"] == "done"


def test_folders_that_link_to_each_other_end(tmp_path):
    write_folder(tmp_path)
    one, other = sorted((tmp_path / "train").iterdir())[:2]
    (one / "more").symlink_to(other)
    (other / "more").symlink_to(one)
    data = ImageFolderDataModule(tmp_path)
    data.setup()
    assert len(data.images.labels) == 18 + 6 + 6  # and those that each links to


def test_a_named_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="it is not a file"):
        decode(tmp_path / "pipe.png", Pixels(None, 1, None))


def test_values_of_ones_own_network_distinguish_its_logits():
    def scaled(factor):
        net = own_nets.Frozen()
        net.factor = factor
        return architecture(net)

    assert scaled(1.0) == scaled(1.0) != scaled(5.0)


def test_a_table_is_printed_without_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    tables.print_table(tables.Table("title", ["a"], [["1"]]))


def test_the_files_of_two_runs_are_not_mixed(command, tmp_path):
    for seed in (1, 2):
        assert command("train", *SHORT, f"seed={seed}", f"hydra.run.dir={seed}").returncode == 0
    for name in ("student.pt", "preprocessing.pt", "teacher_logits.pt"):
        content = (tmp_path / "1" / name).read_bytes()
        other = (tmp_path / "2" / name).read_bytes()
        (tmp_path / "1" / name).write_bytes(other if other != content else content[:-1] + b"\0")
        verb = ("predict", "1", "x.png") if name == "preprocessing.pt" else ("evaluate", "1")
        (tmp_path / "x.png").touch()
        done = command(*verb)
        assert done.returncode == 2
        assert f"1/{name}" in done.stdout + done.stderr
        (tmp_path / "1" / name).write_bytes(content)


def test_int8_does_not_follow_a_link_out_of_the_run(command, tmp_path):
    assert command("train", *SHORT, "hydra.run.dir=mine").returncode == 0
    (tmp_path / "precious").write_text("precious")
    for name in ("student-int8.onnx", "student-inferred.onnx"):
        (tmp_path / "mine" / name).symlink_to(tmp_path / "precious")
    done = command("export", "mine", "--int8", "dynamic")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "mine" / "student-int8.onnx").is_symlink()


# Networks of one's own that do not do what they seem to


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Frozen", "no weights to train"),
        ("Detached", "have no gradient"),
        ("AlwaysDropping", "in eval mode: does it draw random numbers"),
    ],
)
def test_a_student_that_cannot_learn_is_refused_at_once(command, name, said):
    own = ["model@student=module", f"student._target_=own_nets.{name}"]
    done = command("train", *SHORT, *own)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Training the teacher" not in done.stderr


def test_students_that_share_weights_are_not_stacked(command):
    own = ["model@student=module", "student._target_=own_nets.Sharing"]
    done = command("train", "-m", *SHORT, *own, "devices=1", "seed=1,2")
    assert done.returncode == 2
    assert "share weights" in done.stderr
    assert command("train", *SHORT, *own).returncode == 0


def test_a_teacher_whose_logits_are_all_zero_is_taken_with_a_warning(command):
    own = ["model@teacher=module", "teacher._target_=own_nets.ZeroHead", "teacher.max_epochs=0"]
    done = command("train", *SHORT, *own)
    assert done.returncode == 0, done.stderr
    assert "near chance" in done.stdout + done.stderr


def test_a_cell_that_occurs_twice_runs_once(command, tmp_path):
    sweep = ("-m", "devices=1", "seed=1,1")
    done = command("train", *SHORT, *sweep)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 1


def test_logits_that_are_not_finite_are_named(command, tmp_path):
    own = ["model@student=module", "student._target_=own_nets.Contrast"]
    done = command("train", *SHORT, *own, "hydra.run.dir=mine")
    assert done.returncode == 0, done.stderr
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    done = command("predict", "mine", "black.png", "--allow", "own_nets")
    assert done.returncode == 2
    assert "black.png: the student's logits are not finite" in done.stderr


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("hydra.run.dir=", "hydra.run.dir= must be a path"),
        ("method=null", "method=null: choose fickle_teacher"),
        (
            "+callbacks.show._target_=lightning.pytorch.callbacks.Callback +callbacks.show.x=1",
            "callbacks.show.x: Callback has no such argument",
        ),
        (
            "+callbacks.stop={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/error}",
            "lightning.pytorch.callbacks.EarlyStopping: use callbacks.best.patience instead",
        ),
        (
            "+callbacks.rate={_target_:lightning.pytorch.callbacks.LearningRateMonitor}",
            "Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger",
        ),
        ("method.temperature=inf", "must be a finite number"),
        ("data.batch_size=99999999999999999999", "below 2^63"),
    ],
)
def test_values_without_sense_are_named(command, argument, said):
    method = ["method=hinton"] if "temperature" in argument else []
    done = command("train", *SHORT, *method, *argument.split(" "))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert said in line


def test_home_is_expanded_in_the_output_folder():
    (argument,) = for_hydra(["hydra.run.dir=~/runs"])
    assert argument == f"hydra.run.dir='{os.path.expanduser('~')}/runs'"
