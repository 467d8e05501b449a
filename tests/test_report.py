"""Runs become tables beside the paper's numbers, plots, and files that are kept."""

import json
import subprocess
import sys
from itertools import product

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from conftest import ROOT, composed

from noisy_kd.errors import InputError
from noisy_kd.report import frame, keep, plots, robustness, sweeps, tables
from noisy_kd.report.frame import holm, paired, spread
from noisy_kd.training import build
from noisy_kd.training.stages import names


def result(error, *overrides, status="done", val_error=None, **more):
    """A result.json as a run of these settings would write it."""
    config = composed(*overrides)
    known = names(config, build.method(config).is_logit_regression)
    done = {"test_error": error, "val_error": val_error or error, "compression": 2.0}
    done |= {"teacher_test_error": 0.007}
    return known | {"status": status} | (done if status == "done" else {}) | more


@pytest.fixture(scope="module")
def table1():
    """Table 1 with three seeds, sigma 0.2 one run short, 0.3 diverged once."""
    found = []
    for seed in (0, 1, 2):
        for sigma in (0, 0.1, 0.2, 0.3):
            status = "diverged" if (sigma, seed) == (0.3, 1) else "done"
            error = 0.01 + 0.001 * seed - 0.0005 * sigma * (1 + seed)
            if (sigma, seed) != (0.2, 2):
                words = ("data=mnist", f"method.sigma={sigma}", f"seed={seed}")
                found.append(result(error, *words, status=status))
    return found


@pytest.fixture
def folder(table1, tmp_path):
    """Table 1's runs on disk, recorded as the launcher records them."""
    jobs = []
    for k, run in enumerate(table1):
        place = tmp_path / "runs" / f"run{k}"
        place.mkdir(parents=True)
        (place / "result.json").write_text(json.dumps(run))
        jobs.append((place.name, [f"method.sigma={run['sigma']}", f"seed={run['seed']}"]))
    sweeps.record(tmp_path / "runs", "table1", jobs)
    return tmp_path / "runs"


def summary(sweep, found):
    return frame.cells(sweeps.read(sweep), frame.frame(found))


def row(table, *first):
    rows = [dict(zip(table.heads, one, strict=True)) for one in table.rows]
    (found,) = [one for one in rows if tuple(one.values())[: len(first)] == first]
    return found


def test_a_row_has_mean_spread_improvement_paired_test_and_the_papers_number(table1):
    (table,) = tables.report(sweeps.read("table1"), table1)
    clean, noisy = row(table, "0"), row(table, "0.1")
    assert (clean["error %"], clean["n"], clean["improvement"]) == ("1.10 ± 0.10", "3", "baseline")
    assert clean["paper %"] == "0.97"
    assert noisy["error %"] == "1.09 ± 0.09"
    assert noisy["improvement"] == "+0.9 %"
    assert noisy["difference [95 %]"] == "-0.01 [-0.02, +0.00]"
    assert noisy["p"] == "0.074"
    assert (noisy["paper %"], noisy["paper impr."]) == ("0.96", "+1.0 %")
    assert table.notes[0] == "mnist, lenet (0.70 % test error) -> fc800, 30 epochs."


def test_missing_and_diverged_runs_are_named_in_a_line_each(table1):
    (table,) = tables.report(sweeps.read("table1"), table1, missing=2)
    assert "Diverged: σ 0.3 (seed 1)." in table.notes
    assert "Missing: σ 0.2 (seed 2)." in table.notes
    assert "2 runs of this sweep have no result yet." in table.notes
    only_bad = [r for r in table1 if r["sigma"] == 0 or r["status"] == "diverged"]
    (table,) = tables.report(sweeps.read("table1"), only_bad)
    assert row(table, "0.3")["error %"] == "diverged"


def test_p_values_are_those_of_scipy_and_holms_those_of_its_definition(table1):
    cells = summary("table1", table1)
    for k in (1, 2):
        errors = [frame.errors_by_seed(cells["runs"][i]) for i in (0, k)]
        seeds = sorted(errors[0].keys() & errors[1].keys())
        own = [[by_seed[s] for s in seeds] for by_seed in errors]
        known = scipy.stats.ttest_rel(own[1], own[0])
        assert cells["p"][k] == pytest.approx(known.pvalue)
        interval = known.confidence_interval(0.95)
        assert (cells["low"][k], cells["high"][k]) == pytest.approx(tuple(interval))
    assert holm([0.01, float("nan"), 0.04, 0.03]) == pytest.approx(
        [0.03, float("nan"), 0.06, 0.06], nan_ok=True
    )
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_holm_keeps_the_family_error_at_five_percent():
    """On made-up cells without any difference, at least one is called significant in 5 %."""
    draws = np.random.default_rng(0)
    p = scipy.stats.ttest_1samp(draws.normal(size=(400, 10, 5)), 0, axis=2).pvalue
    wrong = np.mean([min(holm(cells)) < 0.05 for cells in p])
    assert 0.02 < wrong < 0.09
    assert np.mean(p.min(axis=1) < 0.05) > 0.25  # without it


def test_too_few_pairs_have_no_interval():
    assert np.isnan(spread([3.0])[1])
    for values, base in (({1: 2.0}, {1: 1.0}), ({1: 2.0, 2: 3.0}, {1: 1.0, 2: 2.0})):
        mean, *rest = paired(values, base)
        assert mean == 1.0 and all(np.isnan(rest))
    assert all(np.isnan(paired({1: 2.0}, {2: 1.0})))


def test_a_setting_that_differs_becomes_a_column(table1):
    more = [
        result(0.02, "data=mnist", "method.sigma=0.1", f"seed={seed}", "trainer.max_epochs=5")
        for seed in (0, 1)
    ]
    table, *_ = tables.report(sweeps.read("table1"), [*table1, *more])
    assert table.heads[:2] == ["σ", "epochs"]
    assert row(table, "0.1", "5")["difference [95 %]"] == ""  # its own baseline was not run
    assert row(table, "0.1", "30")["difference [95 %]"].startswith("-0.01")
    chosen = {"trainer.max_epochs": [5.0]}
    (table,) = tables.report(sweeps.read("table1"), [*table1, *more], chosen)
    assert table.title.endswith("(trainer.max_epochs=5)")
    assert [one[0] for one in table.rows] == ["0.1"]
    assert "No baseline: the same runs with method=logit_regression." in table.notes


def test_the_papers_numbers_stand_beside_their_own_data_networks_and_noise_alone(table1):
    for other in ("data=svhn", "model@student=shallow1", "method.alpha=0.5"):
        runs = [
            result(0.01, "data=mnist", f"method.sigma={sigma}", other, "seed=1")
            for sigma in (0, 0.1)
        ]
        assert summary("table1", runs)["paper"].isna().all(), other
    assert summary("table1", table1)["paper"].notna().all()


def test_plain_logit_regression_is_the_baseline_too(table1):
    noisy = [run for run in table1 if run["sigma"]]
    plain = [
        result(0.01, "data=mnist", "method=logit_regression", f"seed={seed}") for seed in (0, 1, 2)
    ]
    cells = summary("table1", [*noisy, *plain])
    assert list(cells["is_baseline"]) == [True, False, False, False]
    assert frame.settings_of(cells) == ["method.sigma"]


def test_a_baseline_has_a_cell_of_its_own_in_a_custom_sweep():
    """No column distinguishes it from the noisy runs, which all have the same noise."""
    runs = [
        result(error, "data=mnist", f"method={method}", "seed=1")
        for method, error in (("noisy_teacher", 0.02), ("logit_regression", 0.01))
    ]
    cells = summary("custom", runs)
    assert list(cells["is_baseline"]) == [True, False]
    assert cells["difference"][1] == pytest.approx(1.0)


def test_one_noise_beside_none_is_a_column_of_a_custom_sweep():
    runs = [result(0.01, "data=mnist", f"method.sigma={sigma}", "seed=1") for sigma in (0, 0.5)]
    cells = summary("custom", runs)
    assert list(cells["method.sigma"]) == [0.0, 0.5]
    assert list(cells["is_baseline"]) == [True, False]


def test_runs_of_different_teachers_and_images_are_different_cells():
    for setting in ("teacher.label_smoothing=0.2", "teacher.augment=crops"):
        runs = [
            result(0.01, "data=mnist", "method.sigma=0.5", "seed=1", *more)
            for more in ((), (setting,))
        ]
        assert len(summary("custom", runs)) == 2
    runs = [result(0.01, "data=digits", f"seed={seed}") for seed in (1, 2)]
    for run, content in zip(runs, ("0a", "0b"), strict=True):
        run["settings"]["data"]["content"] = content
    assert len(summary("custom", runs)) == 2


def test_settings_that_results_do_not_name_at_their_default_are_found_by_it(table1):
    from noisy_kd.report import frame

    runs = frame.frame(table1)
    for key, default in (("student.init", "he"), ("teacher.label_smoothing", 0.0)):
        assert len(frame.select(runs, {key: [default]})) == len(runs)


def test_sweeps_without_a_file_are_not_one_grid():
    runs = [
        result(0.01, "data=mnist", f"method.sigma={sigma}", f"seed={seed}", f"optimizer.lr={rate}")
        for sigma, seed, rate in [(0, 1, 0.1), (0.5, 1, 0.1), (0.5, 2, 0.2)]
    ]
    (table,) = tables.report(sweeps.read("custom"), runs)  # no best settings of different sweeps
    assert not any("Missing" in note for note in table.notes)


def test_an_equal_error_is_not_a_baseline():
    runs = [result(0.01, "data=mnist", f"method.sigma={sigma}", "seed=1") for sigma in (0, 0.5)]
    assert list(summary("table1", runs)["is_baseline"]) == [True, False]


def test_the_baseline_of_dropout_is_no_dropout():
    runs = [
        result(
            0.2 - drop / 10, "data=cifar10", "method=logit_regression", f"student.dropout={drop}"
        )
        for drop in (0, 0.5)
    ]
    cells = summary("table5", runs)
    assert list(cells["is_baseline"]) == [True, False]
    assert cells["difference"][1] == pytest.approx(-5.0)
    assert cells["paper"].tolist() == [21.94, 22.46]


def test_a_regulariser_that_all_runs_of_an_optimiser_have_is_no_axis():
    """SGD with weight decay beside Adam without it: each has its own baseline."""
    sgd = ("optimizer=sgd", "optimizer.weight_decay=5e-4")
    runs = [
        result(0.2 - k / 100, "data=cifar10", f"method={method}", *more)
        for k, (method, more) in enumerate(product(("logit_regression", "hinton"), ((), sgd)))
    ]
    cells = summary("views", runs)
    assert cells["is_baseline"].sum() == 2
    assert cells["difference"].dropna().round(6).tolist() == [-2.0, -2.0]


def test_two_teachers_are_compared_with_the_first_alone():
    runs = [
        result(error, "data=cifar10", "method=two_teachers", f"method.teachers=[{teachers}]")
        for error, teachers in ((0.2, "nin"), (0.22, "alexnet_mod"), (0.18, "nin,alexnet_mod"))
    ]
    cells = summary("two_teachers", runs)
    assert cells["method.teachers"].tolist() == ["nin", "alexnet_mod", "nin+alexnet_mod"]
    assert cells["is_baseline"].tolist() == [True, False, False]
    assert cells["paper"].tolist() == [21.94, 22.62, 20.44]
    assert cells["difference"].tolist()[1:] == pytest.approx([2.0, -2.0])


def test_methods_are_compared_with_logit_regression_each_with_its_own_keys():
    methods = ("logit_regression", "noisy_teacher", "hinton", "supervised")
    runs = [
        result(0.01 + 0.001 * k, "data=mnist", f"method={method}", f"seed={seed}")
        for k, method in enumerate(methods)
        for seed in (1, 2)
    ]
    cells = summary("methods", runs)
    assert frame.settings_of(cells) == ["method"]
    assert cells["method"].tolist() == list(methods)
    assert cells["difference"].tolist()[1:] == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", sorted(f.stem for f in (ROOT / "conf" / "method").glob("*.yaml")))
def test_the_baseline_is_what_the_method_says_it_is(name):
    for zero in ("method.alpha=0", "method.sigma=0", "seed=3"):
        try:
            config = composed("data=mnist", f"method={name}", zero)
        except Exception:
            continue  # it has no such key
        (run,) = [result(0.1, "data=mnist", f"method={name}", zero)]
        is_plain = build.method(config).is_logit_regression
        assert frame.frame([run])["baseline"].tolist() == [is_plain]


def test_the_best_sigma_is_chosen_among_those_with_most_seeds():
    errors = {("0", 1): 0.3, ("0", 2): 0.3, ("0.3", 1): 0.1, ("0.9", 1): 0.2, ("0.9", 2): 0.25}
    runs = [
        result(error, "data=cifar10", f"method.sigma={sigma}", f"seed={seed}")
        for (sigma, seed), error in errors.items()
    ]
    best = tables.best_cells(summary("table6", runs))
    assert best["method.sigma"].tolist() == [0.9]


def test_table6_takes_the_best_sigma_by_the_validation_error():
    runs = []
    for student, errors in {
        "shallow2": {0: (0.22, 0.2), 0.3: (0.20, 0.19), 0.9: (0.21, 0.18)},
        "shallow3": {0: (0.24, 0.24), 0.3: (0.23, 0.22), 0.9: (0.22, 0.23)},
    }.items():
        for sigma, (test, val) in errors.items():
            words = ("data=cifar10", f"model@student={student}", f"method.sigma={sigma}")
            more = dict.fromkeys(("multiplications", "parameters"), 10)
            more |= dict.fromkeys(("teacher_multiplications", "teacher_parameters"), 20)
            runs.append(result(test, *words, val_error=val, **more))
    runs[0]["latency"] = {"student, torch, batch 1": 2.0, "teacher, torch, batch 1": 9.0}
    _, best, cost = tables.report(sweeps.read("table6"), runs)
    assert row(best, "shallow2")["best σ"] == "0.9"
    assert [one[:5] for one in best.rows][1] == ["shallow3", "2.00", "24.00", "0.3", "23.00"]
    assert row(cost, "shallow2")["latency of 1: ms (ratio)"] == "2.00 (4.5)"
    assert row(cost, "shallow3")["of 64"] == "-"


def test_noise_is_compared_with_the_best_settings_without_it_too():
    runs = []
    for batch, sigma, error in ((16, 0, 0.04), (64, 0, 0.05), (16, 0.9, 0.045), (64, 0.9, 0.03)):
        for seed in (1, 2):
            words = ("data=mnist", f"data.batch_size={batch}", f"method.sigma={sigma}")
            runs.append(result(error + seed / 1000, *words, f"seed={seed}"))
    _, tuned = tables.report(sweeps.read("lengths"), runs)
    assert row(tuned, "without noise")["batch"] == "16"
    assert row(tuned, "with noise")["batch"] == "64"
    assert row(tuned, "with noise")["difference [95 %]"] == "-1.00"


def test_the_table_fits_100_columns(table1, capsys):
    for table in tables.report(sweeps.read("table1"), table1):
        tables.print_table(table)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any("-0.01 [-0.02, +0.00]" in line for line in lines)


def report(*arguments, cwd):
    command = [sys.executable, "-m", "noisy_kd", "report", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_the_command_line_in_every_format(folder):
    shown = report("table1", "--plot", "one.png", cwd=folder.parent)
    assert shown.returncode == 0, shown.stderr
    assert "baseline" in shown.stdout and "drawn: one.png" in shown.stdout
    assert (folder.parent / "one.png").stat().st_size > 1000


@pytest.fixture
def command(folder, monkeypatch, capsys):
    """``noisy-kd report`` in this process: returns what it prints."""
    from noisy_kd.cli.main import main

    monkeypatch.chdir(folder.parent)

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["noisy-kd", "report", *arguments])
        assert main() == code
        done = capsys.readouterr()
        return done.err if code else done.out

    return run


def test_formats_and_filters(command):
    assert command("table1", "--format", "md").startswith("### table1: ")
    assert "<td>baseline</td>" in command("table1", "--format", "html")
    rows = command("table1", "method.sigma=0,0.1", "seed=0,1", "--format", "csv").splitlines()
    assert rows[0].startswith("method.sigma,mean,deviation,n,val_error,difference,low,high,p")
    assert len(rows) == 3 and rows[1].startswith("0,1.05,0.0707107,2,")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tabel1"], "there is no sweep named tabel1: choose additive, "),
        (["table1", "method.sgima=1"], "method.sgima is not a setting of any run"),
        (["table1", "seed=7"], "no run has seed=7; there are: 0, 1, 2"),
        (["table1", "--results", "nowhere"], "--results nowhere: there is no such folder"),
        (["table1", "--plot", "one.pdf"], "ends in .png or .svg"),
        (["--plot", "one.png"], "name one"),
        (["table1", "--add"], "add --keep NAME"),
        (["table1", "--keep", "a/b"], "choose a plain name"),
        (["robustness"], "no such run was evaluated"),
        (["table1", "teacher.checkpoint=nowhere.pt"], "nowhere.pt cannot be read"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words, command):
    error = command(*arguments, code=2)
    assert words in error and len(error.strip().splitlines()) == 1


def test_the_list_of_sweeps_counts_what_was_recorded(command, folder):
    sweeps.record(folder, "table1", [("begun", []), ("refused", [])])
    (folder / "begun").mkdir()
    lines = command().splitlines()
    (line,) = [line for line in lines if line.strip().startswith("table1")]
    assert line.rstrip().endswith("10 of 12")
    assert any(line.strip().startswith("custom") for line in lines)
    assert "1 runs of this sweep have no result yet." in command("table1")


def test_it_starts_without_torch_and_hydra(folder):
    code = (
        "import sys; sys.argv = ['noisy-kd', 'report', 'table1']\n"
        "from noisy_kd.cli.main import main; main()\n"
        "print(sorted({'torch', 'hydra', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder.parent, capture_output=True, text=True
    )
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_a_record_survives_a_line_that_was_cut_off(folder):
    file = folder / "sweeps" / "table1.jsonl"
    before = sweeps.recorded(folder, "table1")
    file.write_text(file.read_text() + '{"directory": "ha')
    assert sweeps.recorded(folder, "table1") == before
    (folder / "run0" / "result.json").write_text("{damaged")
    assert len(frame.read(folder, before)) == len(before) - 1


@pytest.mark.parametrize("digest", ["c912f2f6eb682d7f", "1234567890123456", "12345e6789012345"])
def test_a_checkpoint_is_named_by_its_content(digest, tmp_path, monkeypatch):
    monkeypatch.setattr("noisy_kd.runs.identity.file_digest", lambda *_: digest)
    run = result(0.1, "data=mnist", "teacher.checkpoint=teacher.pt")
    table = frame.frame([run])
    assert table["teacher.checkpoint"].tolist() == [f"sha256:{digest}"]
    monkeypatch.setattr("noisy_kd.runs.file_digest", lambda *_: digest)
    assert len(frame.select(table, frame.filters(["teacher.checkpoint=teacher.pt"]))) == 1


def test_lists_of_values():
    assert sweeps.split("0,0.5,1e-3") == [0.0, 0.5, 0.001]
    assert sweeps.split("[nin],[nin,alexnet_mod]") == ["nin", "nin+alexnet_mod"]
    assert sweeps.split("FC16-FC10,null,true") == ["FC16-FC10", "null", "true"]


@pytest.mark.parametrize("ending", [".png", ".svg"])
@pytest.mark.parametrize(
    "name", ["table1", "alpha_sigma", "methods", "few_images", "figure3", "views"]
)
def test_plots_are_drawn(name, ending, tmp_path):
    data = {"table1": "mnist", "methods": "mnist", "few_images": "mnist"}.get(name, "cifar10")
    axes = {
        "table1": [("method.sigma=0",), ("method.sigma=0.5",)],
        "alpha_sigma": [
            (f"method.alpha={a}", f"method.sigma={s}") for a in (0.1, 0.2) for s in (0, 0.2)
        ],
        "methods": [("method=logit_regression",), ("method=hinton",)],
        "few_images": [
            (f"data.subset={n}", f"method.sigma={s}") for n in (500, 2000) for s in (0, 0.9)
        ],
        "figure3": [
            (f"model@student={net}", f"method.sigma={s}")
            for net in ("shallow1", "shallow2")
            for s in (0, 0.5)
        ],
        "views": [("method=hinton", "data.augment=crops", f"data.views={v}") for v in (10, 30)],
    }[name]
    runs = [
        result(0.1 + 0.01 * k + 0.001 * seed, f"data={data}", *cell, f"seed={seed}")
        for k, cell in enumerate(axes)
        for seed in (1, 2)
    ]
    file = tmp_path / f"plot{ending}"
    plots.draw(sweeps.read(name), summary(name, runs), file)
    assert file.stat().st_size > 2000
    if ending == ".svg":
        first = file.read_bytes()
        plots.draw(sweeps.read(name), summary(name, runs), file)
        assert file.read_bytes() == first


def test_parameters_of_an_augmentation_are_columns_where_they_differ_within_it():
    """Images without crops lack the parameters of crops."""
    own = [("data.augment=mirror", "data.views=2"), ("data.augment=crops", "data.views=10")]
    runs = [result(0.1, "data=mnist", "method=hinton", *cell) for cell in own]
    columns = frame.settings_of(summary("views", runs))
    assert {"data.augment", "data.views"} <= set(columns)
    assert not [column for column in columns if column.startswith("augment.")]
    wider = ("data.augment=crops", "data.views=10", "augment.crops.shift=0.25")
    runs.append(result(0.1, "data=mnist", "method=hinton", *wider))
    assert "augment.crops.shift" in frame.settings_of(summary("views", runs))


def test_plots_refuse_what_they_cannot_draw(table1, tmp_path):
    cells = summary("table1", table1)
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        plots.draw(sweeps.read("table1"), cells, tmp_path / "one.pdf")
    with pytest.raises(InputError, match="no runs of table1"):
        plots.draw(sweeps.read("table1"), cells[cells["n"] > 99], tmp_path / "one.png")


def test_kept_results_give_the_same_page_again(command, folder):
    file = folder.parent / "results" / "mine.jsonl"
    page = file.with_suffix(".md")
    assert "kept: results/mine.jsonl" in command("table1", "--keep", "mine")
    text = keep.markdown(file)
    assert page.read_text() == f"<!-- mine -->\n{text}<!-- end -->\n"
    assert file.with_suffix(".svg").exists()
    page.write_text("# Results\n\n<!-- mine -->\nold\n<!-- end -->\n\nmore\n")
    command("table1", "--keep", "mine")
    assert page.read_text() == f"# Results\n\n<!-- mine -->\n{text}<!-- end -->\n\nmore\n"
    assert not any("directory" in run for run in keep.read(file)[2])


def test_kept_runs_are_added_to_replaced_or_not_dropped(command, folder, table1):
    command("table1", "seed=0,1", "--keep", "mine")
    file = folder.parent / "results" / "mine.jsonl"
    assert "holds 4 runs that are not among these" in command(
        "table1", "seed=0", "--keep", "mine", code=2
    )
    command("table1", "seed=2", "--keep", "mine", "--add")
    _, chosen, runs = keep.read(file)
    assert len(runs) == len(table1) and chosen == {"seed": [0.0, 1.0, 2.0]}
    assert "other settings" in command(
        "table1", "method.sigma=0", "--keep", "mine", "--add", code=2
    )
    command("table1", "seed=0", "--keep", "mine", "--replace")
    assert len(keep.read(file)[2]) == 4
    file.write_text("damaged")
    assert "is damaged" in command("table1", "--keep", "mine", code=2)


def test_a_failure_takes_no_kept_runs_place_and_a_twin_is_the_same_run(table1, tmp_path):
    keep.keep_results("mine", "table1", table1, {}, tmp_path / "results")
    failed = [{**run, "status": "failed", "test_error": None} for run in table1]
    twin = result(0.5, "data=mnist", "method=logit_regression", "seed=0")
    keep.keep_results("mine", "table1", [*failed, twin], {}, tmp_path / "results", add=True)
    runs = keep.read(tmp_path / "results" / "mine.jsonl")[2]
    assert len(runs) == len(table1)
    assert sum(run["status"] == "done" for run in runs) == len(table1) - 1
    assert [r["test_error"] for r in runs if r["sigma"] in (0, None) and r["seed"] == 0] == [0.5]


def test_robustness_has_a_row_for_each_method_and_differences_to_hinton(tmp_path):
    evaluation = {"images": 100, "clean": {"error": 0.01, "agreement": 0.99, "nll": 0.04}}
    runs = []
    for k, method in enumerate(("hinton", "soft_randomization", "logit_regression")):
        for seed in (1, 2, 3):
            own = {**evaluation, "pgd": {"0.1": 0.1 * k + 0.01 * seed + 0.02 * seed * k}}
            words = ("data=mnist", f"method={method}", f"seed={seed}")
            runs.append(result(0.01, *words, evaluation=own, input_shape=[1, 28, 28]))
    rows, differences = robustness.tables(runs, {})
    assert row(rows, "mnist", "100", "fc800", "logit_regression")["n"] == "3"
    assert row(rows, "mnist", "100", "fc800", "hinton")["PGD 0.1 %"] == "2 ± 1"
    methods = {one[0] for one in differences.rows}
    assert methods == {"soft_randomization (sigma 0.2)", "logit_regression"}
    assert row(differences, "logit_regression")["PGD 0.1 %"].startswith("+28 [")
    (only, *_) = robustness.tables(runs, {"method": ["hinton"]})
    assert [one[3] for one in only.rows] == ["hinton", "logit_regression"]  # the baseline stays


def test_a_thousand_runs_are_summarised_quickly(table1):
    """A guard against quadratic work; the benchmark measures the seconds."""
    many = [
        {**table1[0], "settings": {**table1[0]["settings"], "seed": seed}} for seed in range(1000)
    ]
    table = frame.frame(many)
    assert isinstance(table, pd.DataFrame) and len(table) == 1000
    assert summary("table1", many)["n"].tolist() == [1000]
