"""Results as tables beside the paper's: which runs belong where, and what is computed of them."""

import copy
import csv
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from noisy_kd.config import compose
from noisy_kd.errors import InputError
from noisy_kd.report import cells, cost, keep, plots, sweeps, tables
from noisy_kd.report.page import overview, read, report, settings
from noisy_kd.report.statistics import paired, spread
from noisy_kd.training.stages import names

FEW = ("data.subset=1000", "data.val_size=2000")  # what sweeps on few images fix


def result(error, *overrides, status="done", val_error=None, compression=2.0):
    """A result.json as a run of these settings would write it."""
    known = names(compose(list(overrides)))
    done = {"test_error": error, "val_error": val_error or error, "compression": compression}
    return known | {"status": status} | (done if status == "done" else {})


@pytest.fixture(scope="module")
def table1():
    """Table 1 with three seeds, sigma 0.2 one run short, 0.3 diverged once, 0.4 missing."""
    found = []
    for seed in (0, 1, 2):
        for sigma in (0, 0.1, 0.2, 0.3):
            status = "diverged" if (sigma, seed) == (0.3, 1) else "done"
            error = 0.01 + 0.001 * seed - 0.0005 * sigma * (1 + seed)
            if (sigma, seed) != (0.2, 2):
                found.append(
                    result(
                        error, "data=mnist", f"method.sigma={sigma}", f"seed={seed}", status=status
                    )
                )
    return found


def only(sweep, found, **chosen):
    (block,) = cells.blocks(sweeps.read(sweep), found, chosen or None)
    return block


def row(table, first):
    return next(dict(zip(table.heads, one, strict=True)) for one in table.rows if one[0] == first)


def test_a_row_has_mean_spread_improvement_paired_test_and_the_papers_number(table1):
    table = tables.table(sweeps.read("table1"), only("table1", table1))
    clean = row(table, "0")
    assert (clean["error %"], clean["n"], clean["improvement"]) == ("1.10", "3", "baseline")
    assert (clean["paper %"], clean["difference"]) == ("0.97", "+0.13")
    noisy = row(table, "0.1")
    assert (noisy["error %"], noisy["± s.d."]) == ("1.09", "0.09")
    differences = [-0.005, -0.010, -0.015]
    mean, half = -0.01, 4.302652729911275 * 0.005 / math.sqrt(3)
    assert noisy["to baseline [95 %]"] == f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
    pair = paired(dict(enumerate(differences)), dict.fromkeys(range(3), 0.0))
    assert (pair.mean, pair.n) == (pytest.approx(mean), 3)
    assert pair.low == pytest.approx(mean - half)
    assert pair.p == pytest.approx(0.07417990022744853)
    assert noisy["improvement"] == "+0.9 %"
    assert (noisy["paper %"], noisy["paper impr."]) == ("0.96", "+1.0 %")


def test_a_table_says_how_good_its_teacher_is_or_its_teachers(table1):
    def told(*errors):
        taught = [
            run | {"teacher_test_error": error}
            for run, error in zip(table1, errors * len(table1), strict=False)
        ]
        return tables.table(sweeps.read("table1"), only("table1", taught)).notes[0]

    assert told(0.0069) == "mnist, lenet (0.69 % test error) -> fc800, 30 epochs."
    assert "lenet (0.69 to 0.75 % test error)" in told(0.0075, 0.0069, 0.007)
    elsewhere = result(0.2, "data=svhn") | {"teacher": "lenet", "teacher_test_error": 0.5}
    block = only("table1", [run | {"teacher_test_error": 0.0069} for run in table1])
    block.cells[-1].runs[5] = elsewhere
    assert "lenet (0.69 % test error)" in tables.table(sweeps.read("table1"), block).notes[0]
    assert told(None) == "mnist, lenet -> fc800, 30 epochs."


def test_only_the_papers_noises_end_in_logit_regression():
    """Soft Randomization without noise is Hinton's distillation."""
    soft = [
        result(0.2, "method=soft_randomization", f"method.sigma={s}", f"seed={seed}")
        for s in (0, 0.5)
        for seed in (1, 2)
    ]
    plain = [result(0.1, "method=logit_regression", f"seed={seed}") for seed in (1, 2)]
    for found in (soft, soft + plain):
        block = only("quick", found, method=["soft_randomization"])
        by_sigma = {cell.key["method.sigma"]: cell.errors() for cell in block.cells}
        assert by_sigma[0.0] == {1: 20.0, 2: 20.0}
    block = only("quick", soft[2:] + plain, method=["soft_randomization"])
    assert not block.cells[0].runs
    noisy = [result(0.2, "method.sigma=0.5", "seed=1"), *plain]
    assert only("quick", noisy).cells[0].errors() == {1: 10.0, 2: 10.0}


@pytest.mark.parametrize("name", sorted(f.stem for f in (ROOT / "conf" / "method").glob("*.yaml")))
def test_the_report_knows_which_methods_are_plain_without_noise(name):
    keys = yaml.safe_load((ROOT / "conf" / "method" / f"{name}.yaml").read_text())
    silent = [f"method.{key}=0" for key in ("alpha", "sigma") if key in keys]
    plain = names(compose([f"method={name}", *silent]))["method"] == "logit_regression"
    assert plain == (name in (*cells.PLAIN_AT_ZERO, "logit_regression"))


def test_a_failed_run_does_not_hide_a_finished_one():
    failed = result(None, "method=logit_regression", "seed=1", status="failed")
    done = result(0.1, "method.sigma=0", "seed=1")
    noisy = result(0.2, "method.sigma=0.5", "seed=1")
    for found in ([failed, done, noisy], [done, failed, noisy]):
        block = only("quick", found)
        assert block.cells[0].errors() == {1: 10.0}
        assert block.baseline_of(block.cells[-1]).errors() == {1: 10.0}


def test_patience_is_chosen_by_the_key_that_the_report_names():
    found = [
        result(error, f"method.sigma={s}", "seed=1", f"callbacks.best.patience={patience}")
        for error, patience in ((0.1, "null"), (0.2, 5))
        for s in (0, 0.5)
    ]
    block = only("quick", found)
    assert tables.words(block.others[0]) == "callbacks.best.patience=5"
    block = only("quick", found, **{"callbacks.best.patience": [5.0]})
    assert block.cells[0].errors() == {1: 20.0}


def test_a_table_names_all_its_students():
    found = [
        result(0.1, "data=mnist", f"student.layers={net}", "method.sigma=0")
        for net in ("FC16-FC10", "FC64-FC10", "FC256-FC10")
    ]
    note = tables.table(sweeps.read("small_students"), only("small_students", found)).notes[0]
    assert note == "mnist, lenet -> FC16-FC10, FC64-FC10, FC256-FC10, 30 epochs."


def test_noise_is_compared_with_the_best_settings_without_it_too():
    """Chosen by the validation error, not by the test error."""
    common = ("data=mnist", "data.subset=1000", "data.val_size=2000", "trainer.max_epochs=200")
    errors = {(16, 0): (5.0, 4.0), (64, 0): (4.0, 5.0), (16, 0.9): (3.5, 3.8), (64, 0.9): (4, 3)}
    found = [
        result(
            (test + 0.1 * seed * (sigma == 0)) / 100,
            *(*common, f"data.batch_size={batch}", f"method.sigma={sigma}", f"seed={seed}"),
            val_error=val / 100,
        )
        for (batch, sigma), (val, test) in errors.items()
        for seed in (0, 1)
    ]
    block = only("lengths", found)
    clean, noisy = tables.tuned_table(block).rows
    assert clean[:7] == ["without noise", "64", "200", "0", "4.00", "5.05", "0.07"]
    assert noisy[:7] == ["with noise", "16", "200", "0.9", "3.50", "3.80", "0.00"]
    assert noisy[8].startswith("-1.25 [")
    assert tables.tuned_table(only("table1", [])) is None


def test_missing_and_diverged_runs_are_marked(table1):
    table = tables.table(sweeps.read("table1"), only("table1", table1))
    assert row(table, "0.4")["error %"] == "missing"
    assert row(table, "0.3")["n"] == "2"
    assert "σ 0.3: diverged with seed 1." in table.notes
    assert "σ 0.2: missing with seed 2." in table.notes
    gone = [copy.deepcopy(run) for run in table1 if run["sigma"] == 0.3]
    for run in gone:
        run["status"] = "diverged"
    table = tables.table(sweeps.read("table1"), only("table1", gone))
    assert row(table, "0.3")["error %"] == "diverged"


def test_runs_belong_by_their_settings(table1):
    others = [
        result(0.5, "data=mnist", "method.sigma=0.1", "method.alpha=0.9", "seed=0"),
        result(0.5, "data=digits", "method.sigma=0.1", "seed=0"),
        result(0.5, "data=mnist", "method=noisy_student", "method.sigma=0.1", "seed=0"),
    ]
    before = tables.table(sweeps.read("table1"), only("table1", table1)).rows
    assert tables.table(sweeps.read("table1"), only("table1", others + table1)).rows == before


def test_other_settings_make_another_table_that_says_so(table1):
    short = [
        result(0.5, "data=mnist", f"method.sigma={s}", "seed=0", "trainer.max_epochs=2")
        for s in (0, 0.1)
    ]
    (alone,) = report(sweeps.read("table1"), table1 + short, {})
    assert any("KEY=VALUE shows: trainer.max_epochs=2." in note for note in alone.notes)
    longer = [
        result(0.4, "data=mnist", f"method.sigma={s}", "seed=0", "trainer.max_epochs=5")
        for s in (0, 0.1)
    ]
    made = report(sweeps.read("table1"), short + longer, {})
    assert len(made) == 2
    assert [("max_epochs=2" in table.title) for table in made] in ([True, False], [False, True])
    chosen = settings(["trainer.max_epochs=2", "hydra/launcher=basic", "seed=0"])
    (table,) = report(sweeps.read("table1"), table1 + short, chosen)
    assert row(table, "0")["error %"] == "50.00"


def test_runs_on_other_data_are_not_the_sweeps():
    """lengths is about 1,000 images."""
    runs = [result(0.02, "data=mnist", "method=logit_regression", "trainer.max_epochs=200")]
    (table,) = report(sweeps.read("lengths"), runs, {})
    assert {row[3] for row in table.rows} == {"missing"}
    assert any("data.subset=null" in note for note in table.notes)
    runs += [result(0.02, "data=mnist", "method=logit_regression")]
    found = {row[0]: row[2] for row in overview(runs, Path("runs")).rows}
    assert found["lengths"] == "0 of 18, and 1 with other settings"
    assert found["table1"] == "1 of 11, and 1 with other settings"
    other = [
        result(0.02, "data=mnist", *FEW, "trainer.max_epochs=200", f"data.batch_size={n}")
        for n in (16, 256)
    ]
    (table,) = report(sweeps.read("small_students"), other, {})
    assert table.title.endswith("16 to 256 units")  # no foreign settings
    few = [result(0.02, "data=mnist", *FEW, "trainer.max_epochs=200", "method=logit_regression")]
    (table,) = report(sweeps.read("lengths"), few + runs, {})
    assert [one[3] for one in table.rows if one[:3] == ["64", "200", "0"]] == ["2.00"]


def test_a_table_of_unusual_runs_says_so():
    short = [
        result(0.02, "data=mnist", f"method.sigma={s}", "trainer.max_epochs=2") for s in (0, 1)
    ]
    (table,) = report(sweeps.read("table1"), short, {})
    assert table.title.endswith("(trainer.max_epochs=2)")
    (table,) = report(sweeps.read("table1"), short, settings(["trainer.max_epochs=2"]))
    assert table.title.endswith("(trainer.max_epochs=2)")  # a table is read without its command
    chosen = settings(["trainer.max_epochs=2", "method.alpha=0.15"])
    (table,) = report(sweeps.read("table1"), short, chosen)
    assert table.title.endswith("(trainer.max_epochs=2)")
    other = [result(0.02, "data=mnist", "method.sigma=1", "method.alpha=0.3")]
    (table,) = report(sweeps.read("table1"), other, settings(["method.alpha=0.3"]))
    assert table.title.endswith("(method.alpha=0.3)")


def test_a_baseline_of_another_teacher_is_told(table1):
    def taught(clean_errors):
        errors = {run["config_hash"]: 68 for run in table1}
        errors |= {r["config_hash"]: clean_errors for r in table1 if r["sigma"] == 0}
        runs = [run | {"teacher_test_errors": errors[run["config_hash"]]} for run in table1]
        (table,) = report(sweeps.read("table1"), runs, {})
        return [note for note in table.notes if "another teacher" in note]

    assert not taught(68)
    (note,) = taught(83)
    assert "than its baseline: σ 0.1 (68 test errors, not 83); σ 0.2 (" in note


def test_runs_outside_the_grid_are_told(table1):
    away = [result(0.5, "data=mnist", "method.sigma=0.25", f"seed={s}") for s in (0, 1)]
    (table,) = report(sweeps.read("table1"), table1 + away, {})
    note = "Outside this grid are runs that KEY=VALUE,... shows: method.sigma=0.25."
    assert note in table.notes


def test_a_few_runs_with_the_sweeps_settings_do_not_hide_a_whole_sweep():
    short = [
        result(0.5, "data=mnist", f"method.sigma={s}", "trainer.max_epochs=2", "precision=32")
        for s in (0, 0.1, 0.2)
    ]
    usual = [result(0.4, "data=mnist", "method.sigma=0.1")]
    assert len(report(sweeps.read("table1"), short + usual, {})) == 2
    (table,) = report(sweeps.read("table1"), usual + short[1:2], {})
    assert any("trainer.max_epochs=2 precision=32" in note for note in table.notes)


def test_a_teacher_of_another_batch_size_does_not_split_a_sweep_over_batch_sizes():
    common = ("data=mnist", "data.subset=1000", "data.val_size=2000", "trainer.max_epochs=200")
    found = [
        result(0.1, *common, "teacher.batch_size=64", f"data.batch_size={b}", f"method.sigma={s}")
        for b in (16, 64)
        for s in (0, 0.9)
    ]
    (main, tuned) = report(sweeps.read("lengths"), found)
    assert [line[:3] for line in main.rows if line[3] != "missing"] == [
        [batch, "200", sigma] for batch in ("16", "64") for sigma in ("0", "0.9")
    ]
    assert tuned.rows


def test_regularisers_without_noise_are_not_called_noise():
    found = [
        result(0.1, "data=cifar10", "method=logit_regression", f"optimizer.weight_decay={w}")
        for w in (0, 1e-5)
    ]
    assert len(report(sweeps.read("weight_decay"), found)) == 1


def test_plain_logit_regression_is_a_baseline_too():
    found = [result(0.02, "data=mnist", "method=logit_regression", f"seed={s}") for s in (0, 1)]
    found += [result(0.01, "data=mnist", "method.sigma=0.5", f"seed={s}") for s in (0, 1)]
    table = tables.table(sweeps.read("table1"), only("table1", found))
    assert row(table, "0.5")["improvement"] == "+50.0 %"
    without = tables.table(sweeps.read("table1"), only("table1", found[2:]))
    assert row(without, "0.5")["improvement"] == ""
    assert any("baseline is missing" in note for note in without.notes)


def test_the_baseline_of_dropout_is_no_dropout():
    found = [
        result(
            0.2 + p / 10,
            "data=cifar10",
            "method=logit_regression",
            f"student.dropout={p}",
            "seed=0",
        )
        for p in (0, 0.5)
    ]
    table = tables.table(sweeps.read("table5"), only("table5", found))
    assert row(table, "0")["improvement"] == "baseline"
    assert row(table, "0.5")["improvement"] == "-25.0 %"
    assert row(table, "0.5")["paper %"] == "22.46"


def test_two_teachers_against_the_first_alone():
    found = [
        result(
            error, "data=cifar10", "method=two_teachers", f"method.teachers={teachers}", "seed=0"
        )
        for teachers, error in {
            "[nin]": 0.22,
            "[alexnet_mod]": 0.23,
            "[nin,alexnet_mod]": 0.2,
        }.items()
    ]
    table = tables.table(sweeps.read("two_teachers"), only("two_teachers", found))
    assert row(table, "nin")["improvement"] == "baseline"
    assert row(table, "nin+alexnet_mod")["improvement"] == "+9.1 %"
    assert row(table, "nin+alexnet_mod")["paper %"] == "20.44"
    assert row(table, "alexnet_mod")["to baseline [95 %]"] == "+1.00"


def test_methods_against_logit_regression():
    found = [
        result(0.22, "data=cifar10", "method=logit_regression", "seed=0"),
        result(0.2, "data=cifar10", "method=random_sigma", "seed=0"),
    ]
    table = tables.table(sweeps.read("random_sigma"), only("random_sigma", found))
    assert row(table, "logit_regression")["improvement"] == "baseline"
    assert row(table, "random_sigma")["improvement"] == "+9.1 %"
    assert row(table, "random_sigma")["difference"] == "+0.92"


def test_table6_takes_the_best_sigma_by_the_validation_error():
    common = ("data=cifar10", "model@student=shallow2", "seed=0")
    found = [
        result(0.25, *common, "method.sigma=0"),
        result(0.20, *common, "method.sigma=0.1", val_error=0.22),
        result(0.21, *common, "method.sigma=0.2", val_error=0.19),
    ]
    best = tables.best_table(sweeps.read("table6"), only("table6", found))
    (line,) = best.rows
    assert line[:5] == ["shallow2", "2.00", "25.00", "0.2", "21.00"]
    assert line[-3:] == ["19.91", "22.36", "19.28"]


def test_table6_tells_what_the_students_really_cost(tmp_path):
    sizes = {"multiplications": 11_249_664, "parameters": 1_112_330, "compression": 19.99}
    sizes |= {"teacher_multiplications": 224_845_824, "teacher_parameters": 1_112_330 * 2}
    found = [
        result(0.2, "data=cifar10", "model@student=shallow2", f"method.sigma={s}", "seed=0") | sizes
        for s in (0, 0.1)
    ]
    found[1]["directory"] = str(tmp_path)
    made = cost.table(sweeps.read("table6"), only("table6", found))
    assert row(made, "nin")["multiplications"] == "224,845,824"
    line = made.rows[1]
    assert line == [
        *("shallow2", "11,249,664", "19.99", "19.91", "1,112,330", "2.00", "4.4 MB", "-", "-")
    ]
    measured = {"student, torch, batch 1": 0.5, "teacher, torch, batch 1": 8.0}
    (tmp_path / "latency.json").write_text(json.dumps(measured))
    made = cost.table(sweeps.read("table6"), only("table6", found))
    assert made.rows[1][-2:] == ["0.50 (16.0)", "-"]
    assert cost.table(sweeps.read("table1"), only("table1", [result(0.1, "data=mnist")])) is None
    found[1] |= cost.latency_of(found[1])  # as it is kept, without its directory
    del found[1]["directory"]
    made = cost.table(sweeps.read("table6"), only("table6", found))
    assert made.rows[1][-2:] == ["0.50 (16.0)", "-"]


def test_a_sweeps_own_words_are_understood():
    words = ["model@teacher=torchvision", "teacher.name=resnet18", "data.root=/x", "store=/y"]
    assert settings(words) == {"teacher.layers": ["torchvision.models.resnet18"]}
    assert settings(["model@student=module", "student._target_=a.B"]) == {"student.layers": ["a.B"]}


@pytest.mark.parametrize("digest", ["c912f2f6eb682d7f", "1234567890123456", "12345e6789012345"])
def test_a_checkpoint_is_meant_by_its_content_as_runs_know_it(digest, tmp_path, monkeypatch):
    monkeypatch.setattr("noisy_kd.runs.identity.file_digest", lambda _: digest)
    monkeypatch.setattr("noisy_kd.runs.file_digest", lambda _: digest)
    words = ["data=mnist", f"teacher.checkpoint={tmp_path / 'nin.pt'}"]
    runs = [result(0.01, *words, "method.sigma=0"), result(0.02, "data=mnist", "method.sigma=0")]
    for asked in (words, ["data=mnist", f"teacher.checkpoint=sha256:{digest}"]):
        (table,) = report(sweeps.read("table1"), runs, settings(asked))
        assert row(table, "0")["error %"] == "1.00"
        assert f"teacher.checkpoint=sha256:{digest}" in table.title
    (table,) = report(sweeps.read("table1"), runs, settings(["teacher.checkpoint=null"]))
    assert row(table, "0")["error %"] == "2.00"


def test_a_checkpoint_that_is_not_there_is_told():
    for name in ("missing.pt", "x" * 300):
        with pytest.raises(InputError, match="cannot be read"):
            settings([f"teacher.checkpoint={name}"])


def test_spread_of_one_value_has_no_deviation():
    assert spread({}) is None
    assert spread({1: 2.0}).deviation is None
    assert paired({1: 2.0}, {1: 1.5}).p is None
    assert paired({1: 2.0}, {2: 1.5}) is None
    alike = paired({1: 1.0, 2: 2.0}, {1: 0.7, 2: 1.7})  # no spread to judge by
    assert (alike.mean, alike.p, alike.low) == (pytest.approx(0.3), None, None)


@pytest.fixture
def folder(tmp_path, table1):
    for i, run in enumerate(table1):
        (tmp_path / "runs" / str(i)).mkdir(parents=True)
        (tmp_path / "runs" / str(i) / "result.json").write_text(json.dumps(run))
    return tmp_path


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "noisy_kd.report", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )


def test_what_is_kept_is_written_though_nobody_reads_the_table(folder):
    (folder / "results").mkdir()
    keep_it = [sys.executable, "-m", "noisy_kd.report", "table1", "--keep", "table1"]
    read, write = os.pipe()
    os.close(read)  # as `| head` leaves it
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run(keep_it, cwd=folder, env=env, stdout=write, stderr=subprocess.DEVNULL)
    os.close(write)
    assert len((folder / "results" / "table1.jsonl").read_text().splitlines()) > 1


def test_the_command_line(folder):
    assert "0.94" in command(folder, "table1").stdout
    listed = command(folder)
    assert "4 of 11" in listed.stdout
    assert listed.returncode == 0
    wrong = command(folder, "tabel1")
    assert wrong.returncode == 2
    assert "choose additive, alpha_sigma" in wrong.stderr
    assert command(folder, "table1", "--results", "nowhere").returncode == 2


def test_formats(folder):
    markdown = command(folder, "table1", "--format", "md").stdout
    assert "| σ | error % |" in markdown
    rows = list(csv.DictReader(io.StringIO(command(folder, "table1", "--format", "csv").stdout)))
    assert [r["σ"] for r in rows] == ["0"] + [f"{i / 10:g}" for i in range(1, 11)]
    assert rows[0]["paper %"] == "0.97"
    page = command(folder, "table1", "--format", "html").stdout
    assert page.startswith("<table>")
    assert page.count("<tr>") == 12


@pytest.mark.parametrize("kind", [".png", ".svg"])
@pytest.mark.parametrize(
    "name", ["table1", "figure2", "figure3", "alpha_sigma", "random_sigma", "lengths"]
)
def test_plots(name, kind, tmp_path):
    grids = {
        "table1": [("data=mnist", f"method.sigma={s}") for s in (0, 0.5)],
        "figure2": [
            ("data=cifar10", f"method={m}", f"method.sigma={s}")
            for m in ("noisy_teacher", "noisy_student")
            for s in (0, 0.5)
        ],
        "figure3": [
            ("data=cifar10", "model@student=shallow1", f"method.sigma={s}") for s in (0, 0.5)
        ],
        "alpha_sigma": [(f"method.alpha={a}", "method.sigma=0.2") for a in (0.1, 1.0)],
        "lengths": [
            ("data=mnist", *FEW, f"trainer.max_epochs={n}", f"method.sigma={s}")
            for n in (50, 200)
            for s in (0, 0.9)
        ],
        "random_sigma": [
            ("data=cifar10", f"method={m}") for m in ("logit_regression", "random_sigma")
        ],
    }
    found = [
        result(0.1 * k, *cell, f"seed={s}") for s in (0, 1) for k, cell in enumerate(grids[name])
    ]
    plots.draw(sweeps.read(name), only(name, found), tmp_path / f"plot{kind}")
    assert (tmp_path / f"plot{kind}").stat().st_size > 5000


def test_a_curve_has_a_gap_where_a_cell_is_missing():
    from matplotlib.figure import Figure

    plot = Figure().subplots()
    known, alone = spread({0: 1.0, 1: 3.0}), spread({0: 5.0})
    plots._line(plot, [(0.2, None), (0.1, known), (0.3, alone)], "", 0)
    x, y = plot.lines[0].get_data()
    assert list(x) == [0.1, 0.2, 0.3]
    assert [y[0], y[2]] == [2, 5]
    assert math.isnan(y[1])
    plots._line(plot, [(0.1, None)], "", 1)
    assert len(plot.containers) == 1  # nothing to draw, nothing in the legend


def test_an_axis_of_one_value_makes_no_heat_map(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "_heat_map", None)
    few = ["data=mnist", "trainer.max_epochs=200", "data.subset=500"]
    found = [result(0.08, *few, "method.sigma=0"), result(0.07, *few, "method.sigma=0.9")]
    sweep, chosen = sweeps.read("few_images"), {"data.subset": [500.0], "method.sigma": [0.0, 0.9]}
    (block,) = cells.blocks(sweep, found, chosen)
    plots.draw(sweep, block, tmp_path / "few.svg")
    assert (tmp_path / "few.svg").stat().st_size > 0


def test_plots_refuse_what_they_cannot_draw(table1, tmp_path):
    sweep = sweeps.read("table1")
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        plots.draw(sweep, only("table1", table1), tmp_path / "plot.jpg")
    with pytest.raises(InputError, match="no runs"):
        plots.draw(sweep, only("table1", []), tmp_path / "plot.png")


def test_the_list_of_all_sweeps(table1, tmp_path):
    table = overview(table1, tmp_path)
    assert [line[0] for line in table.rows] == sweeps.names()
    assert next(line for line in table.rows if line[0] == "table1")[2:] == ["4 of 11", "10"]


def test_damaged_results_are_left_out(folder):
    (folder / "runs" / "0" / "result.json").write_text("{")
    (folder / "runs" / "1" / "result.json").write_text('{"status": "done"}')
    assert len(read(folder / "runs")) == 10
    assert command(folder, "table1").returncode == 0


def test_lists_of_values():
    assert sweeps.split("0,0.5,1.0") == [0.0, 0.5, 1.0]
    assert sweeps.split("[nin],[nin,alexnet_mod]") == ["nin", "nin+alexnet_mod"]
    assert sweeps.split("shallow1") == ["shallow1"]


def test_it_starts_without_torch_and_hydra(folder):
    code = (
        "import sys, runpy; sys.argv = ['report', 'table1']\n"
        "try: runpy.run_module('noisy_kd.report', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print({'torch', 'lightning', 'hydra', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "set()"


def noisy(error, *overrides, data="cifar10"):
    return result(error, f"data={data}", "seed=0", *overrides)


def test_two_sweeps_that_share_a_folder_do_not_mix():
    """Table 3 varies sigma at alpha 0.5, table 4 alpha at sigma 0.6: both from one folder."""
    three = {s: noisy(0.2 + s / 100, f"method.sigma={s}") for s in (0, 0.3, 0.6)}
    four = {a: noisy(0.3 + a / 100, "method.sigma=0.6", f"method.alpha={a}") for a in (0, 0.1)}
    both = [four[0], four[0.1], *three.values()]
    (table,) = report(sweeps.read("table3"), both)
    assert row(table, "0.6")["error %"] == "20.60"
    assert row(table, "0.1")["error %"] == "missing"
    (table,) = report(sweeps.read("table4"), both)
    assert row(table, "0.1")["error %"] == "30.10"
    assert row(table, "0.5")["error %"] == "20.60"
    assert row(table, "0")["improvement"] == "baseline"
    (table,) = report(sweeps.read("figure2"), both)
    rows = {(line[0], line[1]): line[2] for line in table.rows}
    assert rows["noisy_teacher", "0.6"] == "20.60"
    assert rows["noisy_student", "0.6"] == "missing"


def test_a_method_stands_with_its_defaults_among_others():
    found = [
        noisy(0.010, "method=logit_regression", data="mnist"),
        noisy(0.008, "method=noisy_teacher", data="mnist"),
        noisy(0.055, "method=hinton", "method.temperature=1", data="mnist"),
        noisy(0.009, "method=hinton", data="mnist"),
        noisy(0.050, "method.sigma=0.1", data="mnist"),
        noisy(0.020, "method=supervised", data="mnist"),
        noisy(0.030, "method=two_teachers", data="mnist"),
    ]
    (table,) = report(sweeps.read("methods"), found)
    shown = {line[0]: line[1] for line in table.rows}
    assert shown["noisy_teacher"] == "0.80"
    assert shown["hinton"] == "0.90"
    assert shown["supervised"] == "2.00"
    assert shown["two_teachers"] == "3.00"
    chosen = settings(["method=hinton", "method.temperature=1", "data=mnist"])
    (table,) = report(sweeps.read("methods"), found, chosen)
    assert row(table, "hinton")["error %"] == "5.50"
    (table,) = report(sweeps.read("methods"), found[5:6])
    assert row(table, "supervised")["error %"] == "2.00"


def test_a_baseline_has_the_same_teacher():
    found = [
        noisy(0.05, "method=logit_regression", "model@teacher=alexnet_mod"),
        noisy(0.01, "method=logit_regression"),
        noisy(0.02, "method=random_sigma"),
    ]
    (table,) = [t for t in report(sweeps.read("random_sigma"), found) if "1.00" in str(t.rows)]
    assert row(table, "random_sigma")["improvement"] == "-100.0 %"


def test_the_papers_numbers_stand_beside_their_own_data_and_networks_alone():
    for overrides, data in (
        (("model@student=shallow1",), "cifar10"),
        (("model@teacher=alexnet_mod",), "cifar10"),
        ((), "digits"),
    ):
        found = [noisy(0.2, *overrides, f"method.sigma={s}", data=data) for s in (0, 0.5)]
        (table,) = report(sweeps.read("table3"), found, {"data": [data]})
        assert "paper %" not in table.heads
        assert row(table, "0.5")["error %"] == "20.00"


def test_an_equal_error_is_not_a_baseline():
    found = [noisy(0.2, "method=logit_regression", f"student.dropout={p}") for p in (0, 0.1)]
    (table,) = report(sweeps.read("table5"), found)
    assert row(table, "0")["improvement"] == "baseline"
    assert row(table, "0.1")["improvement"] == "+0.0 %"


@pytest.mark.parametrize(
    "word",
    [
        "fast=false",
        "deterministic=false",
        "data.subset=null",
        "'student.layers=\"FC800-FC800-FC10\"'",
        "student.layers=FC800-FC800-FC10",
        "method.alpha=0.15",
        "trainer=cpu",
    ],
)
def test_settings_are_compared_by_what_they_mean(word):
    word = word.strip("'")
    taken = [word] if word not in ("trainer=cpu",) else []
    found = [noisy(0.2, *taken, f"method.sigma={s}", data="mnist") for s in (0, 0.5)]
    (table,) = report(sweeps.read("table1"), found, settings([word]))
    assert row(table, "0.5")["error %"] == "20.00"


def test_a_sweeps_own_runs_are_shown_whatever_they_are():
    found = [
        noisy(0.2, f"method.sigma={s}", "method.alpha=0.33", "trainer.max_epochs=2", data="digits")
        for s in (0, 0.123)
    ]
    (table,) = report(sweeps.read("table1"), found, own=True)
    assert [line[0] for line in table.rows] == ["0", "0.123"]
    assert [line[1] for line in table.rows] == ["20.00", "20.00"]


@pytest.mark.parametrize(
    "word, what",
    [
        ("method.sigm=3", "method.sigm is not a setting of any run"),
        ("trainer.max_epochs=abc", "no run has trainer.max_epochs=abc; there are: 30"),
        ("data=mnst", "no run has data=mnst; there are: mnist"),
    ],
)
def test_settings_that_no_run_has_are_refused(word, what, folder):
    done = command(folder, "table1", word)
    assert done.returncode == 2
    assert what in done.stderr
    assert done.stdout == ""


def test_the_list_is_there_before_any_run(tmp_path):
    done = command(tmp_path)
    assert done.returncode == 0
    assert "0 of 11" in done.stdout


def test_kept_results_give_the_same_page_again(folder):
    (folder / "RESULTS.md").write_text(
        "# Results\n\n<!-- table1 -->\nold\n<!-- end -->\n\nAfter.\n"
    )
    done = command(folder, "table1", "--keep", "table1")
    assert done.returncode == 0, done.stderr
    kept = folder / "results" / "table1.jsonl"
    what, chosen, runs = keep.read(kept)
    assert (what, chosen, len(runs)) == ("table1", {}, 11)
    text = (folder / "results" / "table1.md").read_text()
    assert keep.markdown(kept) == text
    assert "| 0.1 | 1.09 |" in text
    assert "11 runs" in text
    assert (folder / "results" / "table1.svg").stat().st_size < 200_000
    page = (folder / "RESULTS.md").read_text()
    assert keep.with_part(page, "table1", text) == page
    assert "old" not in page
    assert page.endswith("After.\n")
    assert command(folder, "table3", "--keep", "table3").returncode == 2


def other_day(folder, *found):
    """Some results in a folder of their own; the options that add them to results/mnist.jsonl."""
    place = folder / f"day{len(list(folder.glob('day*')))}"
    for i, run in enumerate(found):
        (place / str(i)).mkdir(parents=True)
        (place / str(i) / "result.json").write_text(json.dumps(run))
    return "--results", str(place), "--keep", "mnist", "--add"


def test_runs_are_added_to_those_that_are_kept(folder, table1):
    assert command(folder, "table1", "seed=1", "--keep", "mnist").returncode == 0
    kept = folder / "results" / "mnist.jsonl"
    _, _, first = keep.read(kept)
    more = [run for run in table1 if run["seed"] == 2]
    again = first[0] | {"test_error": 0.5}
    done = command(folder, "table1", "seed=1,2", *other_day(folder, again, *more))
    assert done.returncode == 0, done.stderr
    what, chosen, runs = keep.read(kept)
    assert (what, chosen) == ("table1", {"seed": [1, 2]})
    assert runs == [again, *first[1:], *more]
    text = kept.with_suffix(".md").read_text()
    assert "| 0 | 25.60 | 34.51 | 2 | baseline |" in text  # of 50 % and 1.2 %
    assert keep.markdown(kept) == text
    assert command(folder, "table1", *other_day(folder, again)).returncode == 0
    assert keep.read(kept)[1] == {}  # of any seed
    done = command(folder, "table1", "seed=1", "--keep", "mnist")
    assert done.returncode == 2
    assert "holds 3 runs that are not among these" in done.stderr  # without --add not lost
    assert command(folder, "table1", "seed=1", "--keep", "mnist", "--replace").returncode == 0
    assert keep.read(kept)[2] == first


def test_a_plot_of_other_runs_does_not_stay(table1, tmp_path):
    keep.keep("mnist", "table1", table1, {}, tmp_path)
    assert (tmp_path / "mnist.svg").exists()
    ones = ("data=mnist", "method.sigma=0.5", "seed=0")
    unusual = [result(0.5, *ones, f"trainer.max_epochs={n}") for n in (2, 5)]
    keep.keep("mnist", "table1", unusual, {}, tmp_path, replace=True)  # a table for each
    assert not (tmp_path / "mnist.svg").exists()


def test_a_failure_takes_no_kept_runs_place_and_a_twin_is_the_same_run(table1, tmp_path):
    keep.keep("mnist", "table1", table1, {}, tmp_path)
    before = keep.read(tmp_path / "mnist.jsonl")[2]
    failed = [
        {k: v for k, v in r.items() if "error" not in k} | {"status": "failed"} for r in table1
    ]
    keep.keep("mnist", "table1", failed, {}, tmp_path)
    done = [run for run in before if run["status"] == "done"]
    assert all(run in keep.read(tmp_path / "mnist.jsonl")[2] for run in done)
    plain = {run["seed"]: run for run in table1 if run["method"] == "logit_regression"}
    twins = [result(0.5, "data=mnist", "method=logit_regression", f"seed={s}") for s in plain]
    assert {one["config_hash"] for one in twins}.isdisjoint({r["config_hash"] for r in table1})
    others = [run for run in table1 if run not in plain.values()]
    keep.keep("mnist", "table1", [*twins, *others], {}, tmp_path)
    assert len(keep.read(tmp_path / "mnist.jsonl")[2]) == len(table1)


def test_a_damaged_kept_file_is_told(table1, tmp_path):
    (tmp_path / "mnist.jsonl").write_text("<<<<<<< HEAD\n")
    with pytest.raises(InputError, match="is damaged"):
        keep.keep("mnist", "table1", table1, {}, tmp_path)


def test_kept_runs_do_not_vanish_behind_added_ones(table1, tmp_path):
    short = [
        result(0.5, "data=mnist", f"method.sigma={s}", "trainer.max_epochs=2") for s in (0, 0.1)
    ]
    keep.keep("mnist", "table1", short, {}, tmp_path)
    with pytest.raises(InputError, match="one table cannot show both"):
        keep.keep("mnist", "table1", table1, {}, tmp_path, add=True)


def test_what_would_spoil_kept_runs_is_not_added(folder):
    assert command(folder, "table1", "seed=1", "--keep", "mnist").returncode == 0
    kept = folder / "results" / "mnist.jsonl"
    before = kept.read_text()
    _, _, (run, *_) = keep.read(kept)
    failed = {k: v for k, v in run.items() if "error" not in k} | {"status": "failed"}
    assert command(folder, "table1", "seed=1", *other_day(folder, failed)).returncode == 0
    assert kept.read_text() == before
    other = command(folder, "table1", "method.sigma=0", *other_day(folder, run))
    assert "holds runs of other settings (the usual ones)" in other.stderr
    assert "holds runs of table1" in command(folder, "methods", *other_day(folder, run)).stderr
    short = [run | {"settings": run["settings"] | {"max_epochs": 2.0}, "settings_hash": "short"}]
    done = command(folder, "table1", "seed=1", *other_day(folder, *short))
    assert "one table cannot show both" in done.stderr
    assert "holds runs of table1" in command(folder, "readings", "--keep", "mnist").stderr
    for name in ("a/b", "../mnist", "", "end"):
        assert "choose a plain name" in command(folder, "table1", f"--keep={name}").stderr
    assert "say --keep NAME" in command(folder, "table1", "--add").stderr
    assert kept.read_text() == before


def test_a_run_is_kept_with_each_of_its_evaluations(table1, tmp_path):
    run = table1[0] | {"input_shape": [1, 28, 28]}
    found = [run | {"evaluation": {"images": images}} for images in (500, 10_000)]
    keep.keep("robust", "robustness", found, {}, tmp_path)
    assert len(keep.read(tmp_path / "robust.jsonl")[2]) == 2
