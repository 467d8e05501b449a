"""What made a run's numbers: the versions of the packages, and the code's commit."""

import hashlib
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import lightning
import torch

import noisy_kd


@cache
def provenance() -> dict[str, str]:
    """Return the git commit of the code (its version without git), and a digest of all packages."""
    folder = Path(noisy_kd.__file__).parent.parent
    commit = ""
    if (folder / ".git").exists():
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
        with suppress(OSError):
            done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
            commit = done.stdout.strip()
    packages = sorted(f"{one.name}=={one.version}" for one in metadata.distributions())
    digest = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:16]
    return {"commit": commit or noisy_kd.__version__, "packages": digest}


def versions() -> dict[str, str]:
    """Return the versions of what made the numbers."""
    return {
        "noisy_kd": noisy_kd.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
