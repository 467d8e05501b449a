"""Whole runs on the digits, in this process."""

import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from noisy_kd import runs
from noisy_kd.data import files
from noisy_kd.errors import InputError
from noisy_kd.runs.identity import config_hash
from noisy_kd.training import build, stages, students
from noisy_kd.training.callbacks import RunLogs, resume
from noisy_kd.training.logits import predict_logits
from noisy_kd.training.stages import count_errors, run

FIELDS = (
    "dataset student teacher method alpha sigma seed test_error val_error teacher_test_error "
    "test_errors test_size best_epoch epochs seconds samples_per_second multiplications "
    "teacher_multiplications compression parameters precision device versions stack_size "
    "config_hash status"
)


@pytest.fixture
def go(short, tmp_path):
    def make(*overrides, name="run"):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        return run([short(*overrides)], [directory])[0], directory

    return make


def test_a_run_leaves_its_result_its_student_and_its_curves(go, short):
    result, directory = go()
    assert set(FIELDS.split()) <= set(result)
    assert runs.read_result(directory) == result
    assert result["status"] == "done"
    assert result["test_error"] == result["test_errors"] / result["test_size"]
    assert result["teacher_test_error"] < 0.6
    assert result["config_hash"] == config_hash(short())
    assert result["compression"] == result["teacher_multiplications"] / result["multiplications"]
    assert (result["epochs"], result["stack_size"]) == (3, 1)
    assert torch.load(directory / "student.pt", weights_only=True)
    assert not list(directory.glob("last.*"))
    (events,) = directory.glob("events*")
    curves = EventAccumulator(str(events)).Reload()
    names = {"loss", "val_error", "agreement", "perturbation", "learning_rate"}
    found = {tag for tag in curves.Tags()["scalars"] if not tag.startswith("result/")}
    assert found == names
    assert [point.step for point in curves.Scalars("val_error")] == [1, 2, 3]


def test_the_student_is_loaded_as_a_module(go, digits):
    result, directory = go()
    net = runs.load_student(directory)
    assert not net.training
    errors = count_errors(predict_logits(net, digits.test_set()), digits.test_images.labels)
    assert errors == result["test_errors"]
    with pytest.raises(InputError, match="no finished student"):
        runs.load_student(directory / "nowhere")


def test_permuted_test_labels_change_no_checkpoint(go, monkeypatch):
    """The test set is looked at once, at the end: its labels choose nothing."""
    first, directory = go(name="one")
    chosen = torch.load(directory / "student.pt", weights_only=True)
    honest = build.data_module

    def permuted(config):
        data = honest(config)
        data.test_images.labels.copy_(data.test_images.labels[torch.randperm(360)])
        return data

    monkeypatch.setattr(stages, "_images", permuted)
    second, directory = go(name="other")
    again = torch.load(directory / "student.pt", weights_only=True)
    assert second["test_errors"] > first["test_errors"]
    assert all(torch.equal(chosen[name], again[name]) for name in chosen)
    assert {first[k] == second[k] for k in ("best_epoch", "val_error", "config_hash")} == {True}


def test_zero_noise_is_reported_as_logit_regression(go):
    result, _ = go("method.sigma=0")
    assert (result["method"], result["sigma"]) == ("logit_regression", 0)
    clean, _ = go("method=logit_regression", name="clean")
    assert clean["test_errors"] == result["test_errors"]
    assert (clean["alpha"], clean["sigma"]) == (None, None)


def test_the_baseline_is_found_beside_the_run(go, tmp_path):
    noisy, _ = go(name="noisy")
    assert runs.baseline_of(noisy, tmp_path) is None
    go("method=logit_regression", "seed=2", name="other_seed")
    assert runs.baseline_of(noisy, tmp_path) is None
    clean, _ = go("method=logit_regression", name="clean")
    assert runs.baseline_of(noisy, tmp_path) == clean


def test_a_supervised_student_has_no_teacher(go):
    result, _ = go("method=supervised")
    assert result["teacher_test_error"] is None
    assert result["test_error"] < 0.9


def test_without_a_validation_set_the_last_epoch_is_kept(go):
    result, _ = go("data.val_size=0")
    assert result["val_error"] is None
    assert result["best_epoch"] == 3


def test_a_subset_for_the_student_leaves_the_teacher_alone(go):
    whole, _ = go()
    part, _ = go("data.subset=100", name="part")
    assert part["subset"] == 100
    assert part["teacher_test_error"] == whole["teacher_test_error"]
    assert part["test_error"] != whole["test_error"]


def test_several_students_at_once_are_the_students_of_single_runs(short, go, tmp_path):
    settings = [("seed=1",), ("seed=2",), ("method.sigma=0.1",), ("student.dropout=0.3",)]
    directories = [tmp_path / f"stack{i}" for i in range(4)]
    for directory in directories:
        directory.mkdir()
    together = run([short(*s) for s in settings], directories)
    assert {result["stack_size"] for result in together} == {4}
    for i, setting in enumerate(settings):
        alone, directory = go(*setting, name=f"alone{i}")
        assert alone["test_errors"] == together[i]["test_errors"]
        one, other = (
            torch.load(d / "student.pt", weights_only=True) for d in (directory, directories[i])
        )
        assert all(torch.equal(one[name], other[name]) for name in one)


SIX = [
    ("method.alpha=0.3", "method.sigma=0.1"),
    ("method.alpha=0.3", "method.sigma=0.9"),
    ("method.alpha=0.8", "method.sigma=0.5", "seed=2"),
    ("student.dropout=0.3",),
    ("student.dropout=0.6", "seed=2"),
    ("optimizer.lr=0.01",),
]


@pytest.mark.parametrize("student", ["fc800", "lenet_cifar"])
def test_six_students_in_a_stack_and_one_by_one(student, short, tmp_path):
    common = (f"model@student={student}", "data.subset=130", "precision=32", "logger=csv")
    for name in ("stack", "alone"):
        for i in range(6):
            (tmp_path / name / str(i)).mkdir(parents=True)
    configs = [short(*common, *cell) for cell in SIX]
    together = run(configs, [tmp_path / "stack" / str(i) for i in range(6)])
    assert [result["stack_size"] for result in together] == [6] * 6
    for i, config in enumerate(configs):
        (alone,) = run([config], [tmp_path / "alone" / str(i)])
        assert alone["test_errors"] == together[i]["test_errors"]
        one, other = (tmp_path / name / str(i) for name in ("alone", "stack"))
        assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
        mine, theirs = (torch.load(d / "student.pt", weights_only=True) for d in (one, other))
        assert all(torch.allclose(mine[k], theirs[k], rtol=1e-5, atol=1e-7) for k in mine)


def test_a_diverged_student_is_marked(go):
    result, directory = go("optimizer.lr=1e30")
    assert result["status"] == "diverged"
    assert result["test_error"] is None
    assert runs.finished(directory, result["config_hash"])


class StepCounter:
    """Counts optimiser steps and raises after so many."""

    def __init__(self, monkeypatch, stop_after=None):
        self.steps, step = 0, torch.optim.Adam.step

        def counted(optimizer, *args, **kwargs):
            if optimizer.param_groups[0]["params"][0].numel() == 1:  # tried with one weight
                return step(optimizer, *args, **kwargs)
            if stop_after is not None and self.steps == stop_after:
                raise RuntimeError("interrupted")
            self.steps += 1
            return step(optimizer, *args, **kwargs)

        monkeypatch.setattr(torch.optim.Adam, "step", counted)


@pytest.mark.parametrize("epoch", [0, 1, 4])
def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_happened(
    go, monkeypatch, tmp_path, epoch
):
    settings = ("trainer.max_epochs=6", "student.dropout=0.2")
    whole, directory = go(*settings, name="whole")
    expected = torch.load(directory / "student.pt", weights_only=True)
    with monkeypatch.context() as patch:
        before = StepCounter(patch, stop_after=20 * epoch + 13)
        with pytest.raises(RuntimeError, match="interrupted"):
            go(*settings, name="broken")
    with monkeypatch.context() as patch:
        after = StepCounter(patch)
        resumed, directory = go(*settings, name="broken")
    assert before.steps + after.steps <= 6 * 20 + 20
    assert after.steps == (6 - epoch) * 20
    weights = torch.load(directory / "student.pt", weights_only=True)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    same = ("test_errors", "val_error", "best_epoch", "epochs", "config_hash")
    assert {key: resumed[key] for key in same} == {key: whole[key] for key in same}
    assert not (directory / "last.ckpt").exists()


def test_an_interrupted_teacher_goes_on(short, tmp_path, monkeypatch):
    def config(name):
        return short("teacher.max_epochs=4", "trainer.max_epochs=1", f"store={tmp_path / name}")

    def directory(name):
        (tmp_path / name).mkdir(exist_ok=True)
        return tmp_path / name

    (whole,) = run([config("s1")], [directory("r1")])
    with monkeypatch.context() as patch:
        StepCounter(patch, stop_after=50)
        with pytest.raises(RuntimeError, match="interrupted"):
            run([config("s2")], [directory("r2")])
    with monkeypatch.context() as patch:
        after = StepCounter(patch)
        (resumed,) = run([config("s2")], [directory("r2")])
    assert after.steps == 2 * 20 + 20
    assert resumed["teacher_test_errors"] == whole["teacher_test_errors"]


def test_a_checkpoint_of_other_settings_is_not_used(go, monkeypatch):
    with monkeypatch.context() as patch:
        StepCounter(patch, stop_after=30)
        with pytest.raises(RuntimeError):
            go(name="same")
    with monkeypatch.context() as patch:
        after = StepCounter(patch)
        go("method.sigma=0.2", name="same")
    assert after.steps == 60


def test_a_damaged_checkpoint_is_not_used(go, caplog):
    _, directory = go()
    (directory / "last.ckpt").write_bytes(b"garbage")
    result, _ = go()
    assert result["epochs"] == 3
    assert "starting from the beginning" in caplog.text


@pytest.mark.parametrize(
    ("long", "share", "times"), [(1.0, 0.05, 6), (0.0, 1e9, 1), (0.0, 1e-9, 0)]
)
def test_checkpoints_that_take_long_are_written_seldom(go, monkeypatch, long, share, times):
    written, write = [], files.write_tensors
    monkeypatch.setattr(resume, "LONG", long)
    monkeypatch.setattr(resume, "SHARE", share)
    monkeypatch.setattr(
        files,
        "write_tensors",
        lambda file, content: written.append(file.name) or write(file, content),
    )
    result, _ = go("trainer.max_epochs=6", "method=supervised")
    assert written.count("last.ckpt") == times
    assert result["epochs"] == 6


def test_divergence_is_remembered(go, monkeypatch):
    """The checkpoint of the last epoch is there, the result is not: no epoch is left to notice."""
    settings = ("optimizer.lr=1e30", "trainer.max_epochs=1", "data.val_size=0")
    with monkeypatch.context() as patch:
        patch.setattr("noisy_kd.training.stages.save_run", lambda *_: None)
        go(*settings)
    result, _ = go(*settings)
    assert result["status"] == "diverged"


def test_each_run_of_a_process_has_its_own_views(go):
    """Other parameters of an augmentation are other images, though ``data`` is the same."""
    views = ("data.augment=crops", "data.views=2")
    runs = [go(*views, f"augment.crops.shift={shift}", name=f"{shift}") for shift in (0.1, 0.4)]
    curves = [(directory / "metrics.csv").read_text() for _, directory in runs]
    assert curves[0] != curves[1]


def test_the_curves_of_a_run_do_not_depend_on_whom_it_was_stacked_with(short, go, tmp_path):
    settings = ("callbacks.best.patience=1", "optimizer.lr=1e-12", "trainer.max_epochs=5")
    places = [tmp_path / "one", tmp_path / "other"]
    run([short(*settings), short(*settings[::2])], places)
    _, alone = go(*settings)
    assert (places[0] / "metrics.csv").read_text() == (alone / "metrics.csv").read_text()
    assert len((places[1] / "metrics.csv").read_text().splitlines()) == 1 + 5


def test_steps_are_counted_for_optimisers_that_do_not_count_them(go):
    adam, _ = go(name="adam")
    sgd, _ = go("optimizer=sgd", name="sgd")
    assert sgd["steps"] == adam["steps"] > 0


def test_a_run_that_patience_ended_does_not_go_on(go, monkeypatch):
    settings = ("callbacks.best.patience=1", "optimizer.lr=1e-12", "trainer.max_epochs=9")
    with monkeypatch.context() as patch:
        patch.setattr("noisy_kd.training.stages.save_run", lambda *_: None)
        first, _ = go(*settings)
    with monkeypatch.context() as patch:
        after = StepCounter(patch)
        again, _ = go(*settings)
    assert first["epochs"] == again["epochs"] == 2
    assert after.steps == 0


def test_metrics_csv_has_each_epoch_once_after_an_interruption(go, monkeypatch):
    settings = ("trainer.max_epochs=5",)
    with monkeypatch.context() as patch:
        StepCounter(patch, stop_after=50)
        with pytest.raises(RuntimeError):
            go(*settings)
    _, directory = go(*settings)
    rows = (directory / "metrics.csv").read_text().splitlines()
    assert rows[0] == "epoch,loss,perturbation,val_error,agreement,learning_rate"
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3", "4", "5"]


def test_metrics_csv_has_each_epoch_after_a_kill_behind_a_checkpoint(go, monkeypatch):
    settings = ("trainer.max_epochs=4",)

    class Killed(BaseException):
        pass

    write, written = files.write_tensors, []

    def kill(file, content):
        write(file, content)
        written.append(file.name)
        if file.name == "last.ckpt" and "run" in str(file.parent) and content["epoch"] == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(resume.files, "write_tensors", kill)
        with pytest.raises(Killed):
            go(*settings)
    _, directory = go(*settings)
    rows = (directory / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3", "4"]


def test_curves_have_each_epoch_once_though_some_are_made_again(go, monkeypatch):
    log = RunLogs.on_train_epoch_end

    def flushed(callback, trainer, stack):
        log(callback, trainer, stack)
        callback.loggers[0][0].experiment.flush()

    write = resume.Resume.on_train_epoch_end

    def only_first(callback, trainer, stack):
        if trainer.current_epoch == 0:
            write(callback, trainer, stack)

    monkeypatch.setattr(resume.Resume, "on_train_epoch_end", only_first)
    monkeypatch.setattr(RunLogs, "on_train_epoch_end", flushed)
    with monkeypatch.context() as patch:
        StepCounter(patch, stop_after=90)
        with pytest.raises(RuntimeError):
            go("trainer.max_epochs=6")
    time.sleep(1.1)  # event files are ordered by the second
    with monkeypatch.context() as patch:
        after = StepCounter(patch)
        _, directory = go("trainer.max_epochs=6")
    assert after.steps == 5 * 20
    curves = EventAccumulator(str(directory)).Reload()
    assert [point.step for point in curves.Scalars("val_error")] == [1, 2, 3, 4, 5, 6]


def test_the_student_is_evaluated_where_the_images_are(go, monkeypatch):
    """Lightning moves its module to the CPU when it is done; the images stay on the device."""
    moved, to = [], torch.nn.Module.to

    def record(module, *args, **kwargs):
        moved.append((module, args))
        return to(module, *args, **kwargs)

    honest = students.fit_runs

    def watched(*args):
        fitted = honest(*args)
        moved.clear()
        return fitted

    monkeypatch.setattr(torch.nn.Module, "to", record)
    monkeypatch.setattr(students, "fit_runs", watched)
    go()
    assert moved[0][1] == (torch.device("cpu"),)


def test_a_damaged_result_beside_the_run_does_no_harm(go, tmp_path):
    for name, text in {"list": "[1]", "half": '{"settings_hash": ', "empty": "{}"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text)
    result, _ = go()
    assert runs.baseline_of(result, tmp_path) is None


def test_the_teacher_is_asked_once_per_image(go, monkeypatch):
    """The student stage works with the cache: no teacher in its loop."""
    go(name="first")
    asked = []

    def counted(net, images, view=0):
        asked.append(len(images.rows))
        return predict_logits(net, images, view)

    monkeypatch.setattr("noisy_kd.training.logits.predict_logits", counted)
    result, _ = go("seed=9", name="second")
    assert result["status"] == "done"
    assert asked == [2, 2]  # whether the entries of train and test are this teacher's


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_short_run_on_real_data(real_data, short, tmp_path, name):
    config = short(
        f"data={name}",
        f"data.root={real_data}",
        "data.download=false",
        "data.subset=600",
        "teacher.subset=600",
        "teacher.max_epochs=1",
        "trainer.max_epochs=1",
        "model@teacher=folder_teacher",
        "model@student=folder_student",
        f"store={tmp_path / 'store'}",
    )
    (result,) = run([config], [tmp_path])
    assert result["test_size"] == 10_000
    assert result["test_error"] < 0.92


def test_a_forced_run_forgets_what_it_made_and_nothing_else(tmp_path):
    made = ("result.json", "student.pt", "preprocessing.pt", "teacher_logits.pt", "last.ckpt")
    derived = ("evaluation.json", "evaluation-100.json", "student.onnx", "student.onnx.md")
    for name in (*made, *derived, "student-int8.onnx", "my_teacher.pt"):
        (tmp_path / name).touch()
    runs.remove_outputs(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["my_teacher.pt"]


def test_deterministic_runs_repeat_bit_by_bit(short, tmp_path, monkeypatch):
    digests = set()
    for threads, count in ((1, 1), (2, 1), (2, 2)):
        monkeypatch.setattr("noisy_kd.training.numerics.THREADS", threads)
        places = [tmp_path / f"{threads}-{count}-{seed}" for seed in range(count)]
        configs = [short("deterministic=true", f"seed={seed}") for seed in range(count)]
        run(configs, places)
        weights = torch.load(places[0] / "student.pt", weights_only=True)
        digests.add(b"".join(value.numpy().tobytes() for value in weights.values()))
    torch.use_deterministic_algorithms(False)
    assert len(digests) == 1
