"""What TensorBoard reads back from a run's files."""

import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from noisy_kd.report.tables import Table, add_to_tensorboard
from noisy_kd.training import dashboard
from noisy_kd.training.stages import run


@pytest.fixture
def shown(short, tmp_path):
    """TensorBoard's view of a short run with these settings, and its result."""

    def make(*overrides):
        (result,) = run([short(*overrides)], [tmp_path])
        return read(tmp_path), result

    return make


def read(directory):
    assert len(list(directory.glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(directory), size_guidance={"images": 0, "tensors": 0})
    return events.Reload()


def row(events):
    """Columns in the order of the tab, and the values of this run."""
    tags = events.summary_metadata
    plugin = {t: HParamsPluginData.FromString(m.plugin_data.content) for t, m in tags.items()}
    columns = plugin["_hparams_/experiment"].experiment.hparam_infos
    values = plugin["_hparams_/session_start_info"].session_start_info.hparams
    plain = {k: v.number_value or v.string_value for k, v in values.items()}
    return [c.name for c in sorted(columns, key=lambda c: (not c.differs, c.name))], plain


def test_a_run_is_a_row_of_the_hparams_tab(shown):
    events, result = shown("method.sigma=0.3", "seed=5")
    columns, values = row(events)
    assert set(columns[:4]) == set(dashboard.FIRST)
    assert (values["method"], values["sigma"], values["seed"]) == ("noisy_teacher", 0.3, 5)
    for key in ("test_error", "val_error", "seconds"):
        assert events.Scalars(f"result/{key}")[-1].value == pytest.approx(result[key])
    assert "custom_scalars__config__" in events.Tags()["tensors"]


def test_methods_without_noise_have_the_same_columns(shown, short, tmp_path):
    noisy, _ = shown("method=noisy_teacher")
    (tmp_path / "other").mkdir()
    run([short("method=supervised")], [tmp_path / "other"])
    other = read(tmp_path / "other")
    assert row(noisy)[0] == row(other)[0]
    assert noisy.Tags()["scalars"] != []
    assert "perturbed logits" not in other.Tags()["images"]


@pytest.mark.figures
@pytest.mark.parametrize(
    ("settings", "moved"),
    [
        (["method=noisy_teacher"], True),
        (["method=noisy_teacher", "method.sigma=0"], False),
        (["method=noisy_teacher", "method.resample=once"], True),
        (["method=noisy_student", "method.alpha=1"], True),
        (["method=fickle_teacher", "method.passes=0"], True),
        (["method=fickle_teacher", "method.passes=2"], True),
        (["method=logit_regression"], False),
        (["data.subset=20"], True),
    ],
)
def test_the_perturbation_is_seen_where_there_is_one(shown, settings, moved):
    events, _ = shown(*settings)
    images = events.Tags()["images"]
    assert {"inputs", "confusion matrix of the test set"} <= set(images)
    assert ("perturbed logits" in images) == moved


def test_the_text_names_settings_networks_and_cost(shown):
    events, result = shown()
    text = {
        tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in ("run/configuration/text_summary", "run/networks/text_summary")
    }
    assert "sigma: 0.5" in text["run/configuration/text_summary"]
    assert f"{result['multiplications']:,}" in text["run/networks/text_summary"]


def test_the_teachers_curves_stay_out_of_the_students_charts(shown, tmp_path):
    events, _ = shown("teacher.seed=77")
    assert "val_error" in events.Tags()["scalars"]
    assert "val_error" not in read(tmp_path / "teacher").Tags()["scalars"]


def test_weights_are_histograms_when_asked(shown):
    events, _ = shown("callbacks=histograms", "callbacks.progress=null")
    assert len(events.Tags()["histograms"]) == 4


def test_a_failing_dashboard_does_not_harm_the_result(short, tmp_path, monkeypatch, caplog):
    caplog.set_level("WARNING")  # whatever other tests have left
    monkeypatch.setattr(dashboard, "_bars", lambda *_: 1 / 0)
    (result,) = run([short()], [tmp_path])
    assert result["status"] == "done"
    assert "dashboard of this run is not complete" in caplog.text


def test_a_diverged_run_is_shown(shown):
    more = ("callbacks=histograms", "callbacks.progress=null")
    events, result = shown("optimizer.lr=1e20", "precision=32", *more)
    assert result["status"] == "diverged"
    assert math.isnan(events.Scalars("result/test_error")[0].value)
    assert "confusion matrix of the test set" not in events.Tags()["images"]


def test_a_sweeps_table_is_written_anew(tmp_path):
    for title in ("old", "new"):
        add_to_tensorboard([Table(title, ["a"], [["1"]])], tmp_path / "quick")
    (tag,) = read(tmp_path / "quick").Tags()["tensors"]
    text = read(tmp_path / "quick").Tensors(tag)[0].tensor_proto.string_val[0].decode()
    assert "new" in text
    assert "old" not in text


def test_a_matrix_of_many_classes_has_no_numbers():
    for classes, has_numbers in ((30, False), (10, True)):
        names = [f"class{k}" for k in range(classes)]
        figure = dashboard.confusion_matrix(torch.eye(classes), torch.arange(classes), names)
        assert bool(figure.axes[0].texts) == has_numbers
