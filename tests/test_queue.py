"""The queue over the devices: processes of their own, and what becomes of one that dies."""

import os
import signal
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path

import pytest

from noisy_kd.runs import read_result
from noisy_kd.sweep import queue
from noisy_kd.sweep.grid import Part
from noisy_kd.sweep.part import prepare


@pytest.fixture
def part(short, tmp_path):
    def make(count, *overrides):
        configs = [short(f"seed={seed}", *overrides) for seed in range(1, count + 1)]
        (ready,), _ = prepare(
            [Part(configs, [tmp_path / f"seed{config.seed}" for config in configs])]
        )
        return ready

    return make


def test_the_devices_of_a_machine_without_gpus(short, monkeypatch):
    monkeypatch.setattr(queue, "cpu_count", lambda: 4)
    assert queue.available(short(), 10) == ["cpu"] * 4
    assert queue.available(short(), 3) == ["cpu"] * 3
    assert queue.available(short("devices=2"), 10) == ["cpu"] * 2
    assert queue.available(short("devices=6"), 10) == ["cpu"] * 6


def test_gpus_are_those_that_are_visible(short, monkeypatch):
    import torch

    config = short("trainer=default")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert queue.available(config, 10) == ["0", "1", "2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert queue.available(config, 10) == ["2", "3"]
    assert queue.available(config, 1) == ["2"]
    assert queue.available(short("trainer=cpu", "devices=1"), 9) == ["cpu"]


def test_two_processes_work_at_the_same_time(part, tmp_path):
    (tmp_path / "meeting").mkdir()
    meeting = ("_target_=own_callbacks.Meeting", f"folder={tmp_path / 'meeting'}", "count=2")
    part(1)  # trains the teacher, without the callback
    whole = part(4, *(f"+callbacks.meeting.{setting}" for setting in meeting))
    refreshed = []
    assert queue.train(whole.split(2), ["cpu", "cpu"], lambda: refreshed.append(1)) == {}
    results = [read_result(directory) for directory in whole.directories]
    assert {result["status"] for result in results} == {"done"}
    pids = {result["process"] for result in results}
    assert {file.name for file in (tmp_path / "meeting").iterdir()} == {str(pid) for pid in pids}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert refreshed
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_a_killed_process_harms_no_other_and_its_stack_is_halved(part):
    whole = part(3, "trainer.max_epochs=5")
    killed = []

    def kill_the_stack_of_two():
        begun = [directory for directory in whole.directories[:2] if read_metrics(directory)]
        if begun and not killed:
            killed.append(_process_of(begun[0]))
            os.kill(killed[0], signal.SIGKILL)

    failed = queue.train(whole.split(2), ["cpu", "cpu"], kill_the_stack_of_two)
    assert killed
    assert failed == {}
    results = [read_result(directory) for directory in whole.directories]
    assert [result["status"] for result in results] == ["done"] * 3
    assert {result["stack_size"] for result in results} == {1}


def test_a_run_whose_process_dies_each_time_has_failed(part, monkeypatch):
    whole = part(2)
    monkeypatch.setattr(queue.work, "train", _die)
    failed = queue.train(whole.split(2), ["cpu", "cpu"], lambda: None)
    assert sorted(failed) == [str(place) for place in whole.directories]
    assert "process was killed" in failed[str(whole.directories[0])]
    assert [read_result(d)["status"] for d in whole.directories] == ["failed"] * 2


def read_metrics(directory):
    file = directory / "metrics.csv"
    return file.exists() and len(file.read_text().splitlines()) > 1


def _process_of(directory):
    """The process that holds the lock of a run."""
    lock = os.stat(directory / "run.lock").st_ino
    for child in active_children():
        for link in Path(f"/proc/{child.pid}/fd").iterdir():
            with suppress(OSError):
                if link.stat().st_ino == lock:
                    return child.pid
    raise AssertionError("no process holds the lock")


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
