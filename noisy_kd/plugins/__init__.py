"""Where Hydra finds this project's plugins: Hydra 1.3 looks in the namespace hydra_plugins."""

import sys
from pathlib import Path


def add_to_path() -> None:
    """Put the folder that holds ``hydra_plugins`` on the path; before ``hydra.main`` runs."""
    folder = str(Path(__file__).parent)
    if folder not in sys.path:
        sys.path.append(folder)
