"""Where Hydra finds this project's plugins: Hydra 1.3 looks in the namespace hydra_plugins."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def add_to_path() -> None:
    """Put the folder that holds ``hydra_plugins`` on the path, before Hydra starts.

    Also, with the current folder, on the path of the processes which launchers start.
    """
    if str(HERE) not in sys.path:
        sys.path.append(str(HERE))
    known = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    package = str(HERE.parents[2])
    more = [path for path in (package, str(HERE), os.getcwd()) if path not in known]
    os.environ["PYTHONPATH"] = os.pathsep.join([*known, *more])
