"""Every cell of every sweep composes, and the paper's numbers belong to cells of its grid."""

import itertools
import re

import pytest
import yaml
from hydra import compose, initialize_config_dir

from noisy_kd.config import CONF, SWEEPS, read
from noisy_kd.report import cells, sweeps
from noisy_kd.runs.identity import identity, register_resolvers, run_name
from noisy_kd.sweep.plugins import add_to_path

NAMES = sorted(file.stem for file in SWEEPS.glob("*.yaml") if file.stem != "search")
add_to_path()


def grid(name):
    params = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    return {key: re.findall(r"\[[^]]*\]|[^,]+", str(values)) for key, values in params.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_composes_and_has_a_directory_of_its_own(name):
    register_resolvers()
    axes = grid(name)
    cells = list(itertools.product(*axes.values()))
    names = set()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for cell in cells:
            overrides = [f"{k}={v}" for k, v in zip(axes, cell, strict=True)]
            names.add(run_name(read(compose(name, overrides))))
    assert len(names) == len(cells)


@pytest.mark.parametrize("name", NAMES)
def test_the_report_knows_its_usual_settings_as_hydra_composes_them(name):
    """It reads the files without Hydra, to start at once."""
    register_resolvers()
    axes = {key: values[0] for key, values in grid(name).items() if len(values) == 1}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = read(compose(name, [f"{key}={one}" for key, one in axes.items()]))
    known = sweeps.usual_settings(name, config.data.name)
    assert known["model@student"] == config.student_name
    made = cells.protocol({"settings": identity(config)}, axes)
    shared = made.keys() & known.keys()
    assert {key: known[key] for key in shared} == {key: made[key] for key in shared}
    unknown = {key for key in made.keys() - shared if not key.startswith("method.")}
    assert unknown <= {"teacher.layers", "student.layers"}


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_and_how_it_is_run(name):
    text = (SWEEPS / f"{name}.yaml").read_text()
    head = text[: text.index("defaults:")]
    assert f"python train.py -cn {name}" in head
    assert "runs" in head


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n in ("table1", "table2", "table3", "table4")]
)
def test_the_papers_numbers_belong_to_cells(name):
    content = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text())
    axes = grid(name)
    key = max(axes, key=lambda axis: len(axes[axis]))
    assert {float(value) for value in axes[key]} == {0.0, *content["paper"]["error"]}
    assert content["paper"]["baseline"] > min(content["paper"]["error"].values())
