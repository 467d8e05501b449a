"""Every cell of every sweep composes, and the paper's numbers belong to cells of its grid."""

import copy
import itertools
import re

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from noisy_kd.config import CONF, SWEEPS, read
from noisy_kd.report import sweeps
from noisy_kd.runs.identity import run_name

NAMES = sorted(file.stem for file in SWEEPS.glob("*.yaml") if file.stem != "search")
PARSER = OverridesParser.create()


def grid(name):
    params = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    return {key: re.findall(r"\[[^]]*\]|[^,]+", str(values)) for key, values in params.items()}


def is_group(key):
    return (CONF / key.partition("@")[0]).is_dir()


def configurations(name):
    """That of each cell; composed for each choice of files, in which the other keys are set."""
    axes = grid(name)
    groups = {key: values for key, values in axes.items() if is_group(key)}
    keys = {key: values for key, values in axes.items() if not is_group(key)}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for choice in itertools.product(*groups.values()):
            cfg = compose(name, [f"{key}={one}" for key, one in zip(groups, choice, strict=True)])
            for values in itertools.product(*keys.values()):
                cell = copy.deepcopy(cfg)
                for key, value in zip(keys, values, strict=True):
                    override = PARSER.parse_override(f"{key}={value}")
                    OmegaConf.update(cell, key, override.value())  # refuses an unknown key
                yield read(cell)


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_composes_and_has_a_directory_of_its_own(name):
    names = [run_name(config) for config in configurations(name)]
    count = 1
    for values in grid(name).values():
        count *= len(values)
    assert len(set(names)) == len(names) == count


@pytest.mark.parametrize("name", [name for name in NAMES if sweeps.read(name).paper])
def test_the_report_knows_what_the_papers_numbers_are_of_as_hydra_composes_it(name):
    """It reads the files without Hydra, to start at once."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = read(compose(name))
    usual = sweeps.read(name).usual
    assert usual["data"] == config.data.name
    assert usual["model@teacher"] == str(config.teacher)  # method.teachers may name others
    assert usual["model@student"] == config.student_name
    assert usual["method.alpha"] == config.method.get("alpha", usual["method.alpha"])


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_and_how_it_is_run(name):
    text = (SWEEPS / f"{name}.yaml").read_text()
    head = text[: text.index("defaults:")]
    assert re.search(rf"(noisy-kd train|python train\.py) -cn {name}\b", head)
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
