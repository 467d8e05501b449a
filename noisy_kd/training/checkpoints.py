"""Weights from elsewhere: every common way of saving them, read without running their code."""

from __future__ import annotations

import difflib
import logging
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from noisy_kd.errors import InputError

log = logging.getLogger(__name__)

WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod)\.")
"""What DataParallel, DDP and torch.compile add to names."""

COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
"""Last parts of names that may be missing or left over: counters, and profilers' results."""

EXPECTED = "safetensors, or weights saved by torch.save(net.state_dict(), FILE)"
OTHER_CLASSES = (
    'replace its last layer, as docs/your-own-images.md shows ("A teacher of other classes")'
)
STARTS = {
    b"version https://git-lfs": "is a git-lfs pointer instead of the file: run git lfs pull",
    b"<": "is a web page (HTML or XML): download the file that it leads to",
    b"\x1f\x8b": "is a gzip archive: unpack it",
}
"""What files that are no checkpoints begin with."""


@dataclass(frozen=True)
class Candidate:
    """Tensors in a file that have the names and shapes of a network."""

    key: str
    weights: dict[str, Tensor]


def read_checkpoint(file: Path, net: nn.Module, key: str | None = None) -> dict[str, Tensor]:
    """Return the weights for a network from a checkpoint file.

    Safetensors, a state dict, or one at any place of a training or Lightning checkpoint, under any
    prefix (``model.``, ``net.``, ``module.``). Only tensors and plain values are unpickled.

    Args:
        file: the checkpoint.
        net: the network.
        key: which weights, if the file has several that fit.

    Raises:
        InputError: if the file cannot be read, or not exactly one set of weights fits.
    """
    place = f"teacher.checkpoint={file}"
    try:
        candidates = dict(_state_dicts(_load(file, place)))
    except RecursionError as error:
        raise InputError(f"{place} holds itself. Expected: {EXPECTED}.") from error
    if not candidates:
        raise InputError(
            f"{place} holds no state dict: save it by torch.save(net.state_dict(), FILE)."
        )
    fits = [fit for path, tensors in candidates.items() for fit in _fits(path, tensors, net)]
    keys = ", ".join(fit.key or "(the whole file)" for fit in fits)
    if key is not None:
        chosen = [fit for fit in fits if fit.key == key]
        if not chosen:
            raise InputError(
                f"teacher.checkpoint_key={key}: no such weights for the teacher in {file}; there "
                f"are: {keys or 'none'}."
            )
        fits = chosen
    if not fits:
        raise InputError(f"{place} does not fit the teacher: {_why(candidates, net)}")
    first = fits[0]
    if any(not _equal(first.weights, other.weights) for other in fits[1:]):
        raise InputError(
            f"{place} holds several weights that fit the teacher: {keys}; choose by "
            "teacher.checkpoint_key=..."
        )
    if first.key:
        log.info("%s: the weights at %s.", place, first.key)
    for name, value in first.weights.items():
        if value.is_sparse or value.is_quantized or value.is_complex() or value.is_meta:
            kind = f"{value.dtype}, {value.layout}, on {value.device}"
            raise InputError(f"{place}: {name} is {kind}: save plain tensors.")
        if not value.float().isfinite().all():
            raise InputError(f"{place}: {name} holds values that are not finite.")
    return first.weights


def _load(file: Path, place: str) -> Any:
    """Return the content of a file: tensors, mappings, lists; other objects are left empty."""
    try:
        with file.open("rb") as content:
            if content.read(9)[8:] == b"{":  # safetensors, after the length of their header
                from safetensors.torch import load_file

                return load_file(file)
            content.seek(0)
            try:
                with warnings.catch_warnings(action="ignore"):  # of archives that are refused below
                    return torch.load(content, weights_only=True, map_location="cpu")
            except pickle.UnpicklingError:  # it holds other objects, too
                content.seek(0)
                reader = SimpleNamespace(__name__="", Unpickler=_TensorsOnly, load=_load_pickle)
                options: dict[str, Any] = {"pickle_module": reader, "map_location": "cpu"}
                return torch.load(content, weights_only=False, **options)
    except ImportError as error:
        raise InputError(f"{place} needs a package: pip install safetensors.") from error
    except Exception as error:  # torch raises many types; all mean an unusable file
        raise InputError(f"{place} {_content(file, error)}. Expected: {EXPECTED}.") from error


def _content(file: Path, error: Exception) -> str:
    """Return what lies at the path of a checkpoint that cannot be read."""
    if not file.exists():
        return "does not exist"
    if file.is_dir():
        return "is a directory"
    with suppress(OSError):
        with file.open("rb") as content:
            head = content.read(512)
        for start, what in STARTS.items():
            if head.lstrip().startswith(start):
                return what
        if not head:
            return "is empty"
        if zipfile.is_zipfile(file):
            names = [Path(name).name for name in zipfile.ZipFile(file).namelist()]
            if "constants.pkl" in names:
                return "is a TorchScript archive: save torch.jit.load(FILE).state_dict() of it"
            return (
                f"is a zip archive, but no checkpoint of PyTorch: it holds {', '.join(names[:3])}"
            )
        if head.isascii() and (text := " ".join(head.decode().split())).isprintable():
            return f"is a text file, which begins with {text[:40]!r}"
    why = " ".join(str(error).split())[:120]
    return f"is damaged, incomplete or of another format ({type(error).__name__}: {why})"


class _Empty:
    """Takes the place of every object that is not a tensor or a plain value."""

    def __new__(cls, *_: Any, **__: Any) -> _Empty:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> _Empty:
        return self

    append = extend = add = update = __call__


class _Function:
    """A function that a pickle may call, but not change: its BUILD would set attributes."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setstate__(self, _: Any) -> None: ...


ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Function(torch._utils._rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): _Function(torch._utils._rebuild_parameter),
}


class _TensorsOnly(pickle.Unpickler):
    """An unpickler that calls nothing but what tensors are made by.

    Types of storages are none of its classes: torch's own subclass of it makes them.
    """

    def find_class(self, module: str, name: str) -> Any:
        return ALLOWED.get((module, name), _Empty)


def _load_pickle(file: Any, **arguments: Any) -> Any:
    return _TensorsOnly(file, **arguments).load()


def _state_dicts(content: Any, path: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each mapping with tensors in it, and its place in the file."""
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping):
        return
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for name, value in content.items():
        yield from _state_dicts(value, f"{path}.{name}" if path else str(name))


def _fits(path: str, tensors: Mapping[str, Tensor], net: nn.Module) -> Iterator[Candidate]:
    """Yield the parts of a state dict that are the network's: one for each prefix of its names."""
    expected = net.state_dict()
    needed = [name for name in expected if not name.endswith(COUNTERS)]
    longest = max(needed, key=len, default="")
    for wrapper, given in _unwrapped(tensors, expected).items() if needed else ():
        ends = [name for name in given if name == longest or name.endswith(f".{longest}")]
        for prefix in sorted({name[: -len(longest)] for name in ends}):
            own = {name: given.get(prefix + name, expected[name]) for name in expected}
            if any(prefix + name not in given for name in needed):
                continue
            if any(own[name].shape != expected[name].shape for name in expected):
                continue
            if not _left_over(given, prefix, net):
                key = ".".join(filter(None, [path, wrapper, prefix.rstrip(".")]))
                yield Candidate(key, own)


def _unwrapped(tensors: Mapping[str, Tensor], own: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """Return tensors without the wrappers in their names, unless they belong there.

    Weights that a file has both with and without a wrapper are two sets, by the wrapper.
    """
    if any(WRAPPERS.search(name) for name in own):
        return {"": dict(tensors)}
    sets: dict[str, dict[str, Tensor]] = {"": {}}
    is_one = len({WRAPPERS.sub("", name) for name in tensors}) == len(tensors)
    for name, value in tensors.items():
        wrapper = WRAPPERS.search(name)
        key = "" if is_one or wrapper is None else wrapper[0].rstrip(".")
        sets.setdefault(key, {})[WRAPPERS.sub("", name)] = value
    return sets


def _left_over(given: Mapping[str, Tensor], prefix: str, net: nn.Module) -> list[str]:
    """Return names under the prefix that the network does not have.

    Beside a network in the paper's notation, with numbers for names, a file may hold others.
    """
    numbered = type(net) is nn.Sequential and all(
        name.isdigit() for name, _ in net.named_children()
    )
    pattern = re.escape(prefix) + (r"\d+\." if numbered else "")
    own = {prefix + name for name in net.state_dict()}
    names = [name for name in given if re.match(pattern, name) and name not in own]
    return [name for name in names if not name.endswith(COUNTERS)]


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def _why(found: Mapping[str, Mapping[str, Tensor]], net: nn.Module) -> str:
    """Return what keeps the weights that come closest from fitting."""
    expected = {n: v for n, v in net.state_dict().items() if not n.endswith(COUNTERS)}
    cleaned = [one for tensors in found.values() for one in _unwrapped(tensors, expected).values()]
    closest: Mapping[str, Tensor] = {}
    prefix, misses = "", list(expected)
    for given in cleaned:
        for candidate in {name[: -len(e)] for e in expected for name in given if name.endswith(e)}:
            missing = [name for name in expected if candidate + name not in given]
            if len(missing) < len(misses) or not closest:
                closest, prefix, misses = given, candidate, missing
    closest = closest or max(cleaned, key=len)
    there = {name: closest[prefix + name] for name in expected if prefix + name in closest}
    others = [name for name, value in there.items() if value.shape != expected[name].shape]
    if others:
        ours, theirs = (tuple(tensors[others[0]].shape) for tensors in (expected, there))
        why = f"{others[0]} should be {ours}, the file has {theirs}."
        is_one_layer = len({name.rpartition(".")[0] for name in others}) == 1
        if is_one_layer and ours[1:] == theirs[1:] and not misses:
            why += f" It has {theirs[0]} classes, the images have {ours[0]}: {OTHER_CLASSES}."
        return why
    if misses:
        near = ", ".join(difflib.get_close_matches(misses[0], closest, 3, 0))
        return f"the file has no {misses[0]}; the closest of its {len(closest)} names: {near}."
    return f"the file has {_left_over(closest, prefix, net)[0]}, which the teacher has not."
