"""Imports run one way, and what must start at once imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import noisy_kd

PACKAGE = Path(noisy_kd.__file__).parent
FORBIDDEN = {
    "method": {"data", "model", "training", "callbacks", "evaluation"},
    "model": {"data", "method", "training", "callbacks", "evaluation"},
    "data": {"model", "method", "training", "callbacks", "evaluation"},
    "evaluation": {"training", "callbacks", "method"},
    "callbacks": {"training", "evaluation"},
}


def imported(file):
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_run_one_way(folder):
    files = [f for f in (PACKAGE / folder).rglob("*.py") if f.stem != "__main__"]  # a command
    for file in files:
        parts = {name.split(".")[1] for name in imported(file) if name.startswith("noisy_kd.")}
        assert not parts & FORBIDDEN[folder], file


@pytest.mark.parametrize(
    "module",
    [
        "errors",
        "config",
        "runs",
        "summary",
        "command",
        "describe",
        "model.notation",
        "training.store",
    ],
)
def test_what_starts_at_once_imports_no_torch(module):
    code = f"import sys, noisy_kd.{module}; print('torch' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert out.stdout.strip() == "False"
