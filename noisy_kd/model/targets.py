"""Classes and functions by their import paths, and which of them a file may name."""

import os
import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from noisy_kd.errors import InputError

PACKAGES = ("noisy_kd", "torch", "torchvision", "timm", "lightning")
"""Packages whose classes a file may name."""

FACTORIES = ("noisy_kd.method.methods", "torchvision.models", "timm.models")
"""Modules whose functions a file may name; others read and write files, or call any function."""

BY_NAME = ("torchvision.models._api.get_model", "timm.models._factory.create_model")
"""Functions of private modules that a file may name, too."""

WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def locate(target: Any, key: str = "") -> Any:
    """Return the class or function at an import path.

    Args:
        target: the path.
        key: of the configuration; messages begin with it.

    Raises:
        InputError: if there is none.
    """
    try:
        value = pkgutil.resolve_name(target)
        if isinstance(value, ModuleType):  # torchvision.models.alexnet is a function, too
            package, _, name = target.rpartition(".")
            value = getattr(import_module(package or target), name, value)
    except Exception as error:  # whatever a module of the user's raises
        text = f"{type(error).__name__}: " * (not isinstance(error, ImportError | AttributeError))
        why = f"cannot be imported ({text}{error}): name a class or function."
        raise InputError(f"{key}{'=' * bool(key)}{target} {why}") from error
    return value


def check_allowed(target: str, expected: type, allow: Sequence[str] = ()) -> None:
    """Refuse an import path that a file from elsewhere must not name.

    It may name a public class of :data:`PACKAGES` that is a subclass of ``expected``, a public
    function defined in :data:`FACTORIES`, and what the modules in ``allow`` define. Nothing else is
    imported.

    Raises:
        InputError: naming the path, and what the user can add to allow it.
    """
    is_known = _is_in(target, PACKAGES) and _is_public(target)
    value = locate(target) if is_known or _is_in(target, allow) else None
    home = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    if isinstance(value, type):
        is_allowed = issubclass(value, expected) and _is_in(home, PACKAGES) and _is_public(home)
    else:
        is_allowed = home in BY_NAME or (_is_in(home, FACTORIES) and _is_public(home))
    if not is_allowed and not (_is_in(home, allow) and callable(value)):
        raise InputError(
            f"the files name {target}, which may run any code: if you trust them, add --allow "
            f"{target.rpartition('.')[0] or target}."
        )


def _is_public(path: str) -> bool:
    return not any(part.startswith("_") for part in path.split("."))


def _is_in(path: str, modules: Sequence[str]) -> bool:
    return any(f"{path}.".startswith(f"{module}.") for module in modules)


@contextmanager
def weights_only() -> Iterator[None]:
    """Let ``torch.load`` read tensors and plain values only, whatever its caller asks for.

    Functions of timm take a file of weights as an argument and would unpickle it.
    """
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        os.environ.pop(WEIGHTS_ONLY)
        os.environ.update({} if before is None else {WEIGHTS_ONLY: before})
