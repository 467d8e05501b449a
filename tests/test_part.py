"""What one process does in a sweep: memory, failures, what others have done meanwhile."""

import json
from dataclasses import replace

import pytest
import torch
from filelock import FileLock

from noisy_kd.errors import InputError
from noisy_kd.runs import finished, read_result, remove_if_untouched
from noisy_kd.runs.identity import config_hash
from noisy_kd.sweep.grid import Part
from noisy_kd.sweep.part import fail, prepare, train
from noisy_kd.training import stages


@pytest.fixture
def part(short, tmp_path):
    configs = [short(f"seed={seed}", "trainer.max_epochs=1") for seed in (1, 2, 3)]
    return Part(configs, [tmp_path / f"seed{config.seed}" for config in configs])


def statuses(part):
    return [(read_result(directory) or {}).get("status") for directory in part.directories]


def test_a_stack_that_does_not_fit_in_memory_is_halved_and_goes_on(part, monkeypatch):
    real, tried = stages.run, []

    def small_memory(configs, *rest):
        tried.append(len(configs))
        if len(configs) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return real(configs, *rest)

    monkeypatch.setattr(stages, "run", small_memory)
    assert train(part) == {}
    assert statuses(part) == ["done"] * 3
    assert tried == [3, 2, 1, 1, 1]


def test_a_single_run_that_does_not_fit_has_failed(part, monkeypatch):
    def no_memory(*_):
        raise MemoryError("none left")

    monkeypatch.setattr(stages, "run", no_memory)
    failed = train(part)
    assert sorted(failed) == [str(place) for place in part.directories]
    assert statuses(part) == ["failed"] * 3
    assert "none left" in (part.directories[0] / "train.log").read_text()


def test_a_failed_run_is_tried_again_and_a_finished_one_is_not(part, monkeypatch):
    fail(part, RuntimeError("the disk is full"))
    assert read_result(part.directories[0])["error"] == "RuntimeError: the disk is full"
    assert all(
        finished(directory, config_hash(config)) is None
        for config, directory in zip(part.configs, part.directories, strict=True)
    )
    first = part.split(3)[0]
    assert train(first) == {}
    written = (first.directories[0] / "result.json").stat().st_mtime_ns
    refreshed = []
    assert train(part, lambda: refreshed.append(1)) == {}
    assert statuses(part) == ["done"] * 3
    assert (first.directories[0] / "result.json").stat().st_mtime_ns == written
    assert refreshed == [1]  # the epoch of the two others


def test_a_group_that_does_not_fit_its_data_is_refused_before_any_teacher(part, short, tmp_path):
    bad = Part([short("student.layers=FC9-FC3")], [tmp_path / "bad"])
    with pytest.raises(InputError):
        prepare([part, bad])


def test_a_group_of_another_process_is_left_alone(part):
    train(part)
    times = [(d / "result.json").stat().st_mtime_ns for d in part.directories]
    assert train(part) == {}
    assert [(d / "result.json").stat().st_mtime_ns for d in part.directories] == times
    json.loads((part.directories[0] / "result.json").read_text())


def test_a_failure_leaves_finished_runs_alone(part):
    first = part.split(3)[0]
    train(first)
    assert sorted(fail(part, RuntimeError("late"))) == [str(d) for d in part.directories[1:]]
    assert statuses(part) == ["done", "failed", "failed"]


def test_a_forced_group_whose_teacher_fails_keeps_its_results_and_is_told(part, monkeypatch):
    train(part)
    before = [read_result(directory) for directory in part.directories]

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(stages, "teacher_outputs", full)
    forced = [replace(config, force=True) for config in part.configs]
    ready, failed = prepare([Part(forced, part.directories)])
    assert ready == []
    assert failed == {str(place): "OSError: no space left" for place in part.directories}
    assert [read_result(directory) for directory in part.directories] == before


def test_a_refused_sweep_costs_no_forced_result(part, short, tmp_path):
    """The second group's checkpoint does not fit."""
    train(part)
    file = tmp_path / "bad.pt"
    torch.save({"other.weight": torch.zeros(3)}, file)
    bad = Part([short(f"teacher.checkpoint={file}")], [tmp_path / "bad"])
    forced = [replace(config, force=True) for config in part.configs]
    with pytest.raises(InputError, match=r"bad\.pt"):
        prepare([Part(forced, part.directories), bad])
    assert statuses(part) == ["done"] * 3


def test_the_directory_of_a_live_run_is_not_removed(tmp_path):
    """Another sweep of the same runs was refused."""
    for name in ("live", "left"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
    with FileLock(tmp_path / "live" / "run.lock"):
        for name in ("live", "left", "gone"):
            remove_if_untouched(tmp_path / name)
    assert [place.name for place in tmp_path.iterdir()] == ["live"]
