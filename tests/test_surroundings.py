"""What lies around a run: odd names of folders, other files, what cannot be written, few cores."""

import shutil

import pytest
from commands import command as command_here
from conftest import SHORT

from noisy_kd import config
from noisy_kd.cli.arguments import compose
from noisy_kd.report import sweeps
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
    from image_files import write_folder

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
