"""Every command in README, docs, sweeps and help is one that works; every link leads somewhere."""

import ast
import re
import runpy
import shlex
import shutil
from functools import cache
from importlib import import_module
from itertools import pairwise

import pytest
import torch
import torchvision
import yaml
from conftest import ROOT, run_here
from image_files import write_folder

import noisy_kd
from noisy_kd.cli import main as cli
from noisy_kd.cli.arguments import compose
from noisy_kd.errors import InputError
from noisy_kd.report import sweeps
from noisy_kd.training.stages import run

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FILES = [*PAGES, *sorted((ROOT / "sweeps").glob("*.yaml")), ROOT / "conf" / "config.yaml"]
PLACES = ("store", "teacher.checkpoint", "hydra")  # of a user's own
FORMS = ("GROUP", "KEY", "VERB", "SWEEP", "...")  # of a command's form, no command
MAKE_REFERENCE = ROOT / "docs" / "make_reference.py"
START = r"noisy-kd|python train\.py|python -m (?:noisy_kd|benchmarks)[\w.]*"


def code(file):
    """The pieces of code in a file: of a page what is marked as code, else every line."""
    text = file.read_text().replace("\\\n", " ")
    if file.suffix != ".md":
        yield from (line.lstrip("# ") for line in text.splitlines())
        return
    for block in re.findall(r"^```.*?\n(.*?)^```", text, flags=re.S | re.M):
        yield from block.splitlines()
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    for line in text.splitlines():
        if line.startswith("    "):
            yield line.strip()
        else:
            yield from re.findall(r"`([^`]+)`", line)


def commands():
    """(file, command) of all commands; their comments are cut."""
    for file in FILES:
        for piece in code(file):
            for found in re.findall(rf"(?:^|[\s$])((?:{START})(?: .*)?$)", piece):
                command = re.split(r"\s#|\s{3,}|;|`", found)[0].strip()
                if not any(form in command for form in FORMS):
                    yield file.name, command


def settings_of(words):
    """Overrides of one run of a training: of several values, which are a sweep, the first."""
    for word in words:
        if "=" in word and not word.startswith(("-", *PLACES)):
            key, _, value = word.partition("=")
            values = sweeps.split(value) if not value.startswith(('"', "'")) else [value]
            first = values[0] if len(values) > 1 and value[0] not in "[\"'" else value
            yield f"{key}={first:g}" if isinstance(first, float) else f"{key}={first}"


COMMANDS = sorted(set(commands()))
TRAIN = r"python train\.py|noisy-kd (?:train|describe)"
TRAINS = [(file, command) for file, command in COMMANDS if re.match(TRAIN, command)]
OTHERS = [one for one in COMMANDS if one not in TRAINS]


@pytest.mark.parametrize(("file", "command"), TRAINS, ids=lambda one: one)
def test_a_training_composes(file, command):
    words = shlex.split(re.sub(rf"^(?:{TRAIN})", "", command))
    names = [word for flag, word in pairwise(words) if flag == "-cn"]
    if "-cd" not in words and "method=absolute" not in words:  # of a user's own
        assert compose(list(settings_of(words)), *names)


@cache
def help_of(start):
    """What ``START --help`` prints, in this process."""

    def run_module():
        runpy.run_module(name, run_name="__main__")

    name, *verb = start.removeprefix("python -m ").split()
    main = run_module if start.startswith("python") else cli.main
    done = run_here(main, [name, *verb, "--help"], ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("file", "command"), OTHERS, ids=lambda one: one)
def test_a_command_and_its_options_are_there(file, command):
    start = re.match(r"python -m \S+|noisy-kd(?: [a-z]+)?", command)[0]
    shown = help_of(start)
    assert shown
    for option in re.findall(r"--[a-z0-9-]+", command):
        assert option in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def python_of(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    names = {page.name for page in PAGES if page.name != "README.md"} | {"RESULTS.md"}
    assert set(re.findall(r": ([\w-]+\.md)", nav)) == names


def test_the_api_page_has_every_public_name():
    names = re.findall(r"^::: noisy_kd\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.M)
    assert sorted(names) == sorted(noisy_kd.__all__)


def test_the_reference_has_every_commented_key_and_choice():
    def program():
        runpy.run_path(str(MAKE_REFERENCE), run_name="__main__")

    shown = run_here(program, ["make_reference.py"], ROOT).stdout
    for file in (ROOT / "conf").glob("*/*.yaml"):
        assert f"`{file.parent.name}={file.stem}`" in shown
    for key in ("seed", "data.on_error", "teacher.input", "method.resample", "trainer.devices"):
        assert f"| `{key}` |" in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_python_of_a_page_imports_is_there(page):
    for node in (node for block in python_of(page) for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("noisy_kd"):
            for alias in node.names:
                assert hasattr(import_module(node.module), alias.name), alias.name


def test_the_teacher_of_other_classes_of_the_docs_is_fine_tuned(short, tmp_path, monkeypatch):
    (block,) = python_of(ROOT / "docs" / "your-own-images.md")[:1]
    (tmp_path / "my_nets.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    root = write_folder(tmp_path / "images", size=(32, 32))
    teacher = ("model@teacher=module", "teacher._target_=my_nets.from_imagenet")
    file = f"teacher.file={tmp_path / 'resnet18.pth'}"
    settings = ("data=folder", f"data.root={root}", "student.layers=FC4-FC3", *teacher)
    (result,) = run([short(*settings, file)], [tmp_path])
    assert result["teacher_layers"].startswith("my_nets.from_imagenet(file=")
    with pytest.raises(
        InputError, match=r"fc\.weight .* It has 1000 classes, .* have 3: .*A teacher of"
    ):
        checkpoint = f"teacher.checkpoint={tmp_path / 'resnet18.pth'}"
        torchvisions = ("model@teacher=torchvision", "teacher.name=resnet18")
        run([short(*settings[:3], *torchvisions, checkpoint)], [tmp_path])


def test_the_data_set_of_the_docs_is_trained_on(short, tmp_path, monkeypatch):
    page = ROOT / "docs" / "extending.md"
    (block,) = [block for block in python_of(page) if "class Letters" in block]
    (tmp_path / "letters.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    own = ("data._target_=letters.Letters", "data.name=letters", "data.val_size=30")
    (result,) = run([short(*own, "trainer.max_epochs=20")], [tmp_path])
    assert result["classes"] == ["A", "B", "C"]
    assert result["test_error"] < 0.4
    text = re.search(r"# @package _global_\n((?:    .*\n)+)", page.read_text())[1]
    settings = yaml.safe_load(text)
    assert {"data", "recipe", "defaults"} == set(settings)
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    (conf / "data" / "letters.yaml").write_text("# @package _global_\n" + yaml.safe_dump(settings))
    monkeypatch.setattr("noisy_kd.cli.arguments.CONF", conf)
    written = compose(["data=letters"])
    assert written.data.name == "letters"
    assert (written.teacher.max_epochs, written.teacher.shift) == (3, 0)
    assert not written.teacher.batch_norm
