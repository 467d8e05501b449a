"""The direction of imports, the sizes of files, and what starts without torch."""

import ast
from pathlib import Path

import pytest

import noisy_kd

PACKAGE = Path(noisy_kd.__file__).parent
ROOMS = (  # from low to high
    *("method", "model", "data", "runs", "training"),
    *("evaluation", "deploy", "report", "sweep", "cli"),
)
WITHOUT_CONFIG = ("method", "model", "data")
MOST_LINES = 350
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(code: str, module: str) -> set[str]:
    """Full names of all that a module imports, wherever in its code."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            start = ".".join([*parents, *filter(None, [node.module])])
            names |= {f"{start}.{alias.name}" for alias in node.names}
    return names


def module_of(file: Path) -> str:
    """The module's full name; that of a package with its ``__init__``, for relative imports."""
    return ".".join(("noisy_kd", *file.relative_to(PACKAGE).with_suffix("").parts))


def forbidden(module: str, name: str) -> bool:
    """Whether this module may not import this name."""
    own, (package, *parts) = module.split(".")[1], name.split(".")
    if package == "hydra":
        return own not in ("sweep", "cli")
    if package != "noisy_kd" or not parts:
        return False
    if parts[0] in noisy_kd.__all__:  # imported from its own module when it is used
        parts = noisy_kd._HOME_OF[parts[0]].split(".")[1:]
    if own == "errors":
        return True
    if own == "config":
        return parts[0] != "errors" and parts[:2] != ["model", "notation"]
    if own not in ROOMS:  # the package itself, and its command
        return False
    if parts[0] == "config":
        return own in WITHOUT_CONFIG
    return parts[0] in ROOMS and ROOMS.index(parts[0]) > ROOMS.index(own)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_to_the_same_room_or_lower_ones(file):
    module = module_of(file)
    names = imports(file.read_text(), module)
    assert not {name for name in names if forbidden(module, name)}


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("model.network", "if TYPE_CHECKING:\n    from noisy_kd.data import ImageDataset"),
        ("runs.store", "def load():\n    from noisy_kd.training import stages"),
        ("evaluation.__main__", "from noisy_kd.cli.errors import run_command"),
        ("report.page", "from noisy_kd import sweep"),
        ("report.page", "import noisy_kd.sweep.grid as grid"),
        ("report.page", "from ..sweep import grid"),
        ("training.callbacks.best", "from ...evaluation import attacks"),
        ("data.__init__", "from ..training import stages"),
        ("runs.store", "from noisy_kd import StudentStack"),
        ("training.build", "import hydra.utils"),
        ("data.sources", "from noisy_kd.config import Config"),
        ("config", "from noisy_kd.model import network"),
        ("config", "from hydra import compose"),
        ("errors", "from noisy_kd import config"),
    ],
)
def test_an_import_in_the_wrong_direction_is_found(module, code):
    names = imports(code, f"noisy_kd.{module}")
    assert any(forbidden(f"noisy_kd.{module}", name) for name in names)


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("training.build", "from noisy_kd.model import network"),
        ("training.callbacks.best", "from .logs import RunLogs"),
        ("training.stages", "import noisy_kd\nfrom noisy_kd.config import Config"),
        ("model.network", "from noisy_kd.errors import InputError"),
        ("config", "from noisy_kd.model import notation\nfrom noisy_kd.errors import InputError"),
        ("cli.train", "import hydra\nfrom noisy_kd.sweep.plugins import add_to_path"),
    ],
)
def test_an_import_in_the_right_direction_is_allowed(module, code):
    names = imports(code, f"noisy_kd.{module}")
    assert not any(forbidden(f"noisy_kd.{module}", name) for name in names)


def test_every_folder_is_a_room():
    folders = {file.parent.name for file in PACKAGE.glob("*/*.py")}
    assert folders == set(ROOMS)


def test_there_are_at_most_four_modules_outside_of_rooms():
    assert len([*PACKAGE.glob("*.py")]) <= 4


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_file_is_too_long(file):
    assert len(file.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("noisy_kd", ("torch", "lightning", "hydra")),
        ("noisy_kd.config, noisy_kd.runs, noisy_kd.runs.identity", ("torch", "lightning", "hydra")),
        ("noisy_kd.data.store, noisy_kd.cli.report, noisy_kd.cli.describe", ("torch",)),
        ("noisy_kd.cli.train, noisy_kd.cli.summary, noisy_kd.sweep.launch", ("torch",)),
    ],
)
def test_modules_that_start_at_once_import_nothing_heavy(modules, absent, process):
    done = process("-c", f"import sys, {modules}; print({{*{absent}}} & {{*sys.modules}})")
    assert done.stdout == "set()\n", done.stderr


def test_a_wrong_key_is_refused_without_torch(process):
    code = """
import sys
from noisy_kd.cli import main
sys.argv = ["noisy-kd", "train", "data.siez=64"]
assert main.main() == 2
assert "torch" not in sys.modules
"""
    done = process("-c", code)
    assert done.returncode == 0, done.stderr


def test_the_help_of_every_verb_is_shown_without_torch(process):
    """In one process, verb by verb."""
    code = """
import sys
from noisy_kd.cli import main
for verb in main.VERBS:
    sys.argv = ["noisy-kd", verb, "--help"]
    try:
        code = main.main()
    except SystemExit as end:
        code = end.code
    assert not code, verb
    assert "torch" not in sys.modules, verb
"""
    done = process("-c", code)
    assert done.returncode == 0, done.stderr
