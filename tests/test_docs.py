"""Every command in README, docs and sweeps is one that works; every link leads somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from functools import cache

import pytest
import yaml
from conftest import ROOT

from noisy_kd import config
from noisy_kd.config import compose
from noisy_kd.report import sweeps
from noisy_kd.sweep.plugins import add_to_path
from noisy_kd.training.stages import run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = [*PAGES, *sorted((ROOT / "sweeps").glob("*.yaml"))]
PLACES = ("data.root", "store", "teacher.checkpoint", "hydra")  # of a user's own
add_to_path()


def commands(start):
    """(file, command) of all commands that begin so, continued lines joined, comments cut."""
    for file in FILES:
        text = file.read_text().replace("\\\n", " ")
        for found in re.findall(rf"{start}[^`\n]*", text):
            yield file.name, re.split(r"\s#|\s{3,}|[;,.)]?$|,\s|\)|;", found)[0].strip()


TRAIN = sorted(set(commands(r"python train\.py ")))
MODULES = sorted(set(commands(r"python -m (?:noisy_kd|benchmarks)")))


@pytest.mark.parametrize(("file", "command"), TRAIN, ids=lambda one: one)
def test_a_training_composes(file, command):
    words = shlex.split(command.removeprefix("python train.py "))
    name, overrides = "config", []
    for flag, word in zip([None, *words], words, strict=False):
        if flag == "-cn":
            name = word
        elif "=" in word and not word.startswith(PLACES):
            key, _, value = word.partition("=")
            values = sweeps.split(value) if not value.startswith(('"', "'")) else [value]
            first = values[0] if len(values) > 1 and value[0] not in "[\"'" else value
            first = f"{first:g}" if isinstance(first, float) else first
            overrides.append(f"{key}={first}")
    forms = ("GROUP", "KEY", "absolute")  # a command's form; the method that test_readme trains
    assert any(form in command for form in forms) or compose(overrides, name)


@cache
def help_of(module):
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize(("file", "command"), MODULES, ids=lambda one: one)
def test_a_command_and_its_options_are_there(file, command):
    module, *words = command.removeprefix("python -m ").split()
    for option in re.findall(r"--[a-z0-9-]+", " ".join(words)):
        assert option in help_of(module), command
    help_of(module)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_data_set_of_the_docs_is_trained_on(short, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "extending.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    (tmp_path / "letters.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    own = ("data._target_=letters.Letters", "data.name=letters", "data.val_size=30")
    (result,) = run([short(*own, "trainer.max_epochs=20")], [tmp_path])
    assert result["classes"] == ["A", "B", "C"]
    assert result["test_error"] < 0.4
    settings = yaml.safe_load(re.search(r"# @package _global_\n((?:    .*\n)+)", page)[1])
    assert {"data", "recipe", "defaults"} == set(settings)
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    (conf / "data" / "letters.yaml").write_text("# @package _global_\n" + yaml.safe_dump(settings))
    monkeypatch.setattr(config, "CONF", conf)
    composed = compose(["data=letters"])
    assert composed.data.name == "letters"
    assert (composed.teacher.max_epochs, composed.teacher.shift) == (3, 0)
    assert not composed.teacher.batch_norm
