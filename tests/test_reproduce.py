"""`noisy-kd reproduce`: kept runs are trained again and compared."""

import json

import pytest
from conftest import ROOT, SHORT, composed, run_here

from noisy_kd.cli import main as cli
from noisy_kd.cli.arguments import compose
from noisy_kd.cli.reproduce import tolerance
from noisy_kd.report import keep
from noisy_kd.runs.identity import config_hash, identity, overrides


def command_in(folder, *arguments):
    return run_here(cli.main, ["noisy-kd", *arguments], folder)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, store):
    """A folder with a kept table of four runs."""
    folder = tmp_path_factory.mktemp("kept")
    sweep = ("-m", "devices=1", "seed=1,2", "method.sigma=0,0.3")
    done = command_in(folder, "train", *SHORT, f"store={store}", *sweep)
    assert done.returncode == 0, done.stderr
    assert command_in(folder, "report", "custom", "--keep", "mine").returncode == 0
    return folder


def test_a_run_is_trained_again_and_agrees(kept, store):
    done = command_in(kept, "reproduce", "mine", "sigma=0.3", "seed=2", f"store={store}")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "kept" in line]
    assert "s0.3-seed2" in line
    assert "difference +0.00 points" in line
    assert line.endswith("agrees")


def test_another_number_is_a_failure(kept, store):
    file = kept / "results" / "mine.jsonl"
    (kept / "results" / "wrong.jsonl").write_text(
        "".join(
            json.dumps(json.loads(line) | {"test_error": 0.99}) + "\n"
            for line in file.read_text().splitlines()
        )
    )
    done = command_in(kept, "reproduce", "wrong", "sigma=0", "seed=1", f"store={store}")
    assert done.returncode == 1
    assert "DIFFERS" in done.stdout
    assert "1 runs differ" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nada"], "no kept table nada: choose mine"),
        (["mine", "sigma=0.7"], "no run has method.sigma=0.7"),
        (["mine", "nada=1"], "nada is not a setting"),
        (["mine", "sigma=0", "seed=9"], "no run has seed=9"),
        (["mine", "precision=8"], "precision"),
    ],
)
def test_a_wrong_selection_is_refused(kept, arguments, named):
    done = command_in(kept, "reproduce", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert named in line


def test_the_tolerance_is_of_two_seeds():
    runs = [
        {"settings": {"seed": seed, "a": 1}, "test_error": error, "test_size": 10_000}
        for seed, error in enumerate([0.10, 0.11, 0.12])
    ]
    assert tolerance(runs[0], runs) == pytest.approx(3 * 2**0.5 * 0.01)
    assert tolerance(runs[0], runs[:2]) == pytest.approx(3 * 2**0.5 * 0.003)
    runs[1]["settings"]["a"] = 2
    assert tolerance(runs[0], runs) == pytest.approx(3 * 2**0.5 * 0.003)


@pytest.mark.parametrize(
    "changed",
    [
        [],
        ["method=hinton", "method.temperature=2"],
        ["method=two_teachers", "method.teachers=[lenet,FC30-FC10]"],
        ["method=supervised", "data.label_noise=0.1"],
        ["model@student=module", "student._target_=torchvision.models.resnet18", "student.width=3"],
        ["optimizer=sgd", "data.augment=crops", "data.views=3", "augment.crops.shift=0.2"],
        ["callbacks.best.patience=5", "deterministic=true", "teacher.augment=strong"],
    ],
    ids=str,
)
def test_the_settings_of_a_result_give_its_configuration(changed):
    config = composed(*SHORT, *changed)
    again = compose(overrides(identity(config)))
    assert identity(again) == identity(config)


FILES = sorted(file.stem for file in (ROOT / "results").glob("*.jsonl"))


@pytest.mark.parametrize("name", FILES)
def test_every_kept_table_can_be_reproduced(name):
    """The first run of each method gives its own hash again."""
    _, _, kept = keep.read(ROOT / "results" / f"{name}.jsonl")
    for run in {run["method"]: run for run in reversed(kept)}.values():
        if not run["settings"]["teacher"].get("checkpoint"):
            assert config_hash(compose(overrides(run["settings"]))) == run["config_hash"]
