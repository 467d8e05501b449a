"""Where Hydra finds this project's plugins: Hydra 1.3 looks in the namespace hydra_plugins."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def add_to_path() -> None:
    """Put the folder that holds ``hydra_plugins``, and the current one, on the path.

    Before Hydra starts; also on the path of the processes which launchers start.
    """
    own = [str(HERE), os.getcwd()]  # networks and methods of one's own lie in the current folder
    sys.path += [path for path in own if path not in sys.path]
    known = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    package = str(HERE.parents[2])
    more = [path for path in (package, *own) if path not in known]
    os.environ["PYTHONPATH"] = os.pathsep.join([*known, *more])
