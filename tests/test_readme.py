"""The Python and the names in README and docs work."""

import re

import pytest
import torch
import yaml
from conftest import ROOT
from test_docs import PAGES, python_of

import noisy_kd
from noisy_kd.training.stages import run

README = ROOT / "README.md"
CHOICE = r"\b(data|method|trainer|logger|model@teacher|model@student)=(\w+)"
TARGET = r"_target_: \w+\.\w+"  # of a function in a file of the user's


def test_the_python_of_the_readme_runs(finished, tmp_path, monkeypatch):
    """In order, in one namespace; what its text speaks of is there, and trainings are short."""
    student = noisy_kd.network("FC20-FC10", (1, 8, 8))
    before = [parameter.clone() for parameter in student.parameters()]
    names = {
        "noisy_kd": noisy_kd,
        "student": student,
        "teacher": noisy_kd.network("FC30-FC10", (1, 8, 8)),
        "optimizer": torch.optim.Adam(student.parameters()),
        "batches": [(torch.randn(8, 1, 8, 8), torch.randn(8, 10)) for _ in range(3)],
        "run": finished,
        "pixels": torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
    }
    monkeypatch.chdir(tmp_path)
    blocks = python_of(README)
    assert blocks
    for block in blocks:
        exec(re.sub(r"max_epochs=\d+", "max_epochs=2", block), names)
    trained = names["student"].parameters()
    assert not all(torch.equal(one, other) for one, other in zip(before, trained, strict=False))


OWN_METHODS = [
    (page, block) for page in PAGES for block in python_of(page) if "-> Method:" in block
]


def test_a_page_shows_a_custom_method():
    assert OWN_METHODS


@pytest.mark.parametrize(("page", "block"), OWN_METHODS, ids=lambda one: getattr(one, "name", ""))
def test_the_custom_method_of_a_page_trains(page, block, tmp_path, monkeypatch, short):
    (text,) = re.findall(rf"^( *{TARGET}\n(?: *\w+: .*\n)*)", page.read_text(), flags=re.M)
    settings = yaml.safe_load(text)
    module, _, name = settings["_target_"].rpartition(".")
    (tmp_path / f"{module}.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    config = short()
    config.method = settings
    (result,) = run([config], [tmp_path])
    assert (result["status"], result["method"]) == ("done", name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_names_of_a_page_are_there(page):
    own = re.findall(r"conf/\w+/(\w+)\.yaml", page.read_text())
    for group, name in re.findall(CHOICE, page.read_text()):
        file = ROOT / "conf" / group.partition("@")[0] / f"{name}.yaml"
        assert file.exists() or name.isupper() or name in own, f"{group}={name}"
