"""Evaluation of finished runs: the numbers, the file, the command line."""

import shutil

import pytest
import torch
from commands import command
from conftest import SHORT
from torch import nn

from noisy_kd import runs
from noisy_kd.cli.arguments import compose
from noisy_kd.errors import InputError
from noisy_kd.evaluation import KINDS
from noisy_kd.evaluation.evaluate import evaluate
from noisy_kd.evaluation.robustness import Evaluation, classifier
from noisy_kd.report import robustness
from noisy_kd.runs import load_student, read_json, read_result
from noisy_kd.training.finished import load_data
from noisy_kd.training.stages import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, store):
    folder = tmp_path_factory.mktemp("evaluated")
    directories = []
    for seed in (1, 2):
        directory = folder / f"seed{seed}"
        directory.mkdir()
        run([compose([*SHORT, f"store={store}", f"seed={seed}"])], [directory])
        directories.append(directory)
    return directories


def test_everything_is_measured_and_kept(finished):
    found = evaluate(finished[0], list(KINDS), limit=100)
    assert set(found) == {*KINDS, "student", "images"}
    file = finished[0] / "evaluation-100.json"
    assert read_json(file) == found
    assert found["images"] == 100
    assert list(found["noise"]) == ["0.05", "0.1", "0.2", "0.3", "0.5"]
    assert list(found["pgd"]) == ["0.05", "0.1", "0.2", "0.3"]
    assert found["pgd"]["0.3"] <= found["fgsm"]["0.3"] <= 1 - found["clean"]["error"] + 1e-6
    assert 0 <= found["ood"]["uniform_noise"] <= 1
    assert len(found["corruptions"]["jpeg"]) == 5
    written = file.stat().st_mtime_ns
    assert evaluate(finished[0], ["clean"], limit=100) == found
    assert file.stat().st_mtime_ns == written
    assert evaluate(finished[0], ["pgd"], limit=100, again=True)["pgd"] == found["pgd"]


def test_a_part_of_the_images_has_all_classes(finished, monkeypatch):
    """Images in folders lie in the order of their classes."""
    from noisy_kd.evaluation import evaluate as evaluating

    seen = []
    whole = evaluating.Evaluation
    monkeypatch.setattr(
        evaluating, "Evaluation", lambda model, x, y: seen.append(y) or whole(model, x, y)
    )
    evaluate(finished[0], ["clean"], limit=40)
    assert len(seen[0]) == 40
    assert len(seen[0].unique()) == 10


def test_the_clean_error_is_that_of_the_result(finished):
    found = evaluate(finished[1], ["clean"])
    result = read_result(finished[1])
    assert found["clean"]["error"] == pytest.approx(result["test_error"])
    assert 0 < found["clean"]["agreement"] <= 1


def test_the_report_has_a_row_for_the_method_over_its_seeds(finished):
    for directory in finished:
        evaluate(directory, ["clean", "noise"], limit=90)
    found = robustness.evaluated(finished[0].parent)
    found = [one for one in found if one["evaluation"]["images"] == 90]
    (table,) = robustness.tables(found, {})
    (line,) = [dict(zip(table.heads, row, strict=True)) for row in table.rows]
    assert line["method"] == "noisy_teacher (alpha 0.5, sigma 0.5)"
    assert line["n"] == "2"
    errors = [100 * one["evaluation"]["clean"]["error"] for one in found]
    assert line["error %"].startswith(f"{sum(errors) / 2:.3g}")
    with pytest.raises(InputError, match="no run has data=mnist"):
        robustness.tables(found, {"data": ["mnist"]})


def test_a_classifier_takes_pixels_in_0_to_1(finished):
    data, net = load_data(finished[0]), load_student(finished[0])
    model = classifier(data.preprocessing, net)
    x, _ = data.test_set()[torch.arange(20)]
    assert torch.allclose(model(data.test_images.pixels[:20].float() / 255), net(x), atol=1e-5)
    assert not any(parameter.requires_grad for parameter in net.parameters())


class Sure(nn.Module):
    """Always class 0, with a confidence of one's choice."""

    def __init__(self, confidence):
        super().__init__()
        self.logits = torch.tensor([confidence / (1 - confidence), 1.0]).log()

    def forward(self, x):
        return self.logits.expand(len(x), 2) + 0 * x.flatten(1).sum(1, keepdim=True)


def test_calibration_of_a_model_that_is_too_sure():
    images = torch.zeros(1000, 1, 4, 4, dtype=torch.uint8)
    labels = (torch.arange(1000) % 4 == 3).long()  # class 0 in three of four
    found = Evaluation(Sure(0.95), images, labels)
    assert found.clean()["error"] == pytest.approx(0.25)
    assert found.calibration()["ece"] == pytest.approx(0.2, abs=1e-4)
    assert found.calibration()["confidence"] == pytest.approx(0.95, abs=1e-4)
    assert Evaluation(Sure(0.75), images, labels).calibration()["ece"] < 1e-4


def test_auroc_of_a_model_that_is_surer_of_brighter_images():
    class Bright(nn.Module):
        def forward(self, x):
            return torch.stack([5 * x.flatten(1).mean(1), 0 * x.flatten(1).sum(1)], dim=1)

    bright = torch.full((50, 1, 4, 4), 255, dtype=torch.uint8)
    dark = torch.zeros(70, 1, 4, 4, dtype=torch.uint8)
    found = Evaluation(Bright(), bright, torch.zeros(50).long()).ood({"dark": dark, "same": bright})
    assert found["dark"] == 1.0
    assert found["same"] == 0.5


def test_the_command_line(finished):
    done = command("evaluate", finished[0], "--on", "clean,calibration", "--limit", "50")
    assert done.code == 0, done.stderr
    assert "ece" in done.stdout
    command("evaluate", finished[0], "--on", "noise", "--limit", "50")
    (curves,) = finished[0].glob("events*.evaluation-50")  # those before have been removed
    assert b"accuracy-50/noise" in curves.read_bytes()
    assert b"ece" in curves.read_bytes()
    command("evaluate", finished[0], "--on", "clean", "--limit", "60")
    assert curves.exists()


def test_wrong_arguments_are_refused_in_one_line(finished):
    for arguments, what in [
        ((finished[0], "--on", "clear"), "choose clean, noise"),
        ((finished[0], "--limit", "0"), "--limit 0: at least 1"),
        (("nowhere",), "1 of 1 runs skipped"),
    ]:
        done = command("evaluate", *arguments)
        assert done.code == 2
        assert what in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_another_student_is_evaluated_anew(finished):
    before = evaluate(finished[1], ["clean"], limit=80)
    result = runs.read_result(finished[1])
    runs.write_result(finished[1], result | {"digests": {}})  # as versions before 0.2 wrote it
    weights = torch.load(finished[1] / "student.pt", weights_only=True)
    torch.save({k: torch.zeros_like(v) for k, v in weights.items()}, finished[1] / "student.pt")
    assert evaluate(finished[1], ["clean"], limit=80) != before
    torch.save(weights, finished[1] / "student.pt")
    (finished[1] / "evaluation-80.json").write_text("{")
    assert evaluate(finished[1], ["clean"], limit=80)["clean"] == before["clean"]


def test_runs_that_cannot_be_evaluated_do_not_stop_the_others(finished, tmp_path):
    (tmp_path / "broken").mkdir()
    done = command("evaluate", tmp_path / "broken", finished[0], "--on", "clean", "--limit", "50")
    assert done.code == 2
    assert "1 of 2 runs skipped" in done.stderr
    assert "clean" in done.stdout


def test_a_damaged_student_is_refused(finished, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(finished[1], damaged)
    (damaged / "student.pt").write_bytes((finished[1] / "student.pt").read_bytes()[:300])
    with pytest.raises(InputError, match=r"student\.pt is damaged"):
        load_student(damaged)


def test_a_directory_without_a_student_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished student"):
        evaluate(tmp_path, ["clean"])
