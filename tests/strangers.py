"""Files that would run code if they were unpickled: each makes the folder MARKER then."""

import collections
import copyreg
import functools
import importlib
import io
import marshal
import operator
import os
import pickle
import pkgutil
import runpy
import subprocess
import sys
import timeit
import zipfile
from collections import OrderedDict

import torch
from torch import nn
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION


class Reduced:
    """An object that is pickled as what ``__reduce__`` would return."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce_ex__(self, _):
        return self.parts

    def __call__(self):
        """The pickler takes only what can be called for a function."""


class Module(nn.Module):
    """A module that is pickled with a call in its state."""

    def __init__(self, call):
        super().__init__()
        self.call = call


class Stateful:
    """Runs code when its state is set."""

    def __init__(self, marker):
        self.marker = marker

    def __setstate__(self, state):
        os.makedirs(state["marker"], exist_ok=True)


class Mapping(dict):
    """A mapping whose entries run code when they are set."""

    def __setitem__(self, key, value):
        os.makedirs(value, exist_ok=True)


def call(function, *arguments):
    return Reduced(function, arguments)


def code(marker):
    return f"__import__('os').makedirs({marker!r}, exist_ok=True)"


def module_source(marker):
    """A file of Python beside the marker."""
    file = f"{marker}.py"
    with open(file, "w") as out:
        out.write(code(marker))
    return file


def pickled(marker):
    """The bytes of a pickle inside another."""
    return pickle.dumps(call(os.mkdir, marker))


def short(text):
    """The opcodes of a short text."""
    return pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()


def compiled(marker):
    return compile(code(marker), "x", "exec")


CALLS = {
    "os.mkdir": lambda m: call(os.mkdir, m),
    "eval": lambda m: call(eval, code(m)),
    "exec": lambda m: call(exec, code(m)),
    "getattr": lambda m: call(call(getattr, call(__import__, "os"), "mkdir"), m),
    "import_module": lambda m: call(call(getattr, call(importlib.import_module, "os"), "mkdir"), m),
    "partial": lambda m: call(functools.partial(os.mkdir, m)),
    "reduce": lambda m: call(functools.reduce, os.mkdir, [m, 0o700]),
    "methodcaller": lambda m: call(operator.methodcaller("mkdir", m), call(__import__, "os")),
    "attrgetter": lambda m: call(call(operator.attrgetter("mkdir"), call(__import__, "os")), m),
    "resolve_name": lambda m: call(call(pkgutil.resolve_name, "os:mkdir"), m),
    "run_path": lambda m: call(runpy.run_path, module_source(m)),
    "subprocess": lambda m: call(subprocess.check_call, ["mkdir", m]),
    "timeit": lambda m: call(timeit.timeit, code(m), "pass", timeit.default_timer, 1),
    "marshal": lambda m: call(exec, call(marshal.loads, marshal.dumps(compiled(m)))),
    "map": lambda m: call(list, call(map, os.mkdir, [m])),
    "pickle.loads": lambda m: call(pickle.loads, pickled(m)),
    "_load_from_bytes": lambda m: call(torch.storage._load_from_bytes, saved(call(os.mkdir, m))),
    "torch.load": lambda m: call(
        functools.partial(torch.load, weights_only=False), call(io.BytesIO, pickled_for_torch(m))
    ),
    "_reconstructor": lambda m: Reduced(
        copyreg._reconstructor, (Stateful, object, None), {"marker": m}
    ),
    "__setstate__": Stateful,
    "nn.Module": lambda m: Module(call(os.mkdir, m)),
    "module's state": lambda m: Reduced(
        copyreg._reconstructor, (Module, object, None), {"x": call(os.mkdir, m)}
    ),
    "BUILD of a mapping": lambda m: Reduced(Mapping, (), None, None, iter([("x", m)])),
    "_rebuild_parameter": lambda m: Reduced(
        torch._utils._rebuild_parameter, (torch.zeros(1), False, OrderedDict(x=call(os.mkdir, m)))
    ),
    "_rebuild_parameter_with_state": lambda m: Reduced(
        torch._utils._rebuild_parameter_with_state,
        (torch.zeros(1), False, OrderedDict(), {"x": call(os.mkdir, m)}),
    ),
    "_rebuild_from_type_v2": lambda m: Reduced(
        torch._tensor._rebuild_from_type_v2, (os.mkdir, torch.Tensor, (m,), {})
    ),
    "numpy's _reconstruct": lambda m: Reduced(
        importlib.import_module("numpy._core.multiarray")._reconstruct,
        (importlib.import_module("numpy").ndarray, (0,), call(lambda_of_bytes, m)),
    ),
}
"""Objects that call something when they are unpickled."""


def lambda_of_bytes(marker):
    """Return bytes, and leave the marker."""
    os.makedirs(marker, exist_ok=True)
    return b"b"


CONTAINERS = {
    "list": lambda evil: [0, [evil]],
    "tuple": lambda evil: (0, (evil,)),
    "set": lambda evil: {0, evil},
    "frozenset": lambda evil: frozenset([evil]),
    "value": lambda evil: {"state_dict": {"0.weight": torch.zeros(1), "x": evil}},
    "key": lambda evil: {evil: torch.zeros(1)},
    "OrderedDict": lambda evil: OrderedDict(a=OrderedDict(b=evil)),
    "defaultdict": lambda evil: collections.defaultdict(list, x=[evil]),
    "deque": lambda evil: collections.deque([evil]),
    "argument": lambda evil: Reduced(OrderedDict, ([("x", evil)],)),
    "state": lambda evil: Reduced(OrderedDict, (), {"x": evil}),
    "slots": lambda evil: Reduced(OrderedDict, (), (None, {"x": evil})),
    "items": lambda evil: Reduced(list, (), None, iter([evil])),
    "pairs": lambda evil: Reduced(OrderedDict, (), None, None, iter([("x", evil)])),
    "setter": lambda evil: Reduced(OrderedDict, (), {"x": evil}, None, None, operator.setitem),
    "hooks": lambda evil: Reduced(
        torch._utils._rebuild_parameter, (torch.zeros(1), False, OrderedDict(x=evil))
    ),
}
"""Places of an object in others."""

OPCODES = {
    "GLOBAL": lambda m: b"\x80\x02cos\nmkdir\n" + b"(V" + m.encode() + b"\ntR.",
    "INST": lambda m: b"(V" + m.encode() + b"\nios\nmkdir\n.",
    "OBJ": lambda m: b"(cos\nmkdir\nV" + m.encode() + b"\no.",
    "STACK_GLOBAL": lambda m: (
        b"\x80\x04" + short("os") + short("mkdir") + b"\x93(V" + m.encode() + b"\ntR."
    ),
    "a dotted name": lambda m: (
        b"\x80\x04" + short("torch") + short("os.mkdir") + b"\x93(V" + m.encode() + b"\ntR."
    ),
    "a persistent id": lambda m: (
        b"\x80\x02(" + b"X\x07\x00\x00\x00storagecos\nmkdir\n(V" + m.encode() + b"\ntRtQ0N."
    ),
    "Python 2's names": lambda m: b"\x80\x02c__builtin__\neval\n(V" + code(m).encode() + b"\ntR.",
}
"""Pickles that Python's pickler does not write."""


def saved(content, zipped=True, protocol=2):
    """The bytes of a file that torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return file.getvalue()


def pickled_for_torch(marker):
    return archive(pickled(marker))


def archive(data):
    """A pickle in a zip archive such as torch.save writes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("t/data.pkl", data)
        content.writestr("t/version", "3\n")
        content.writestr("t/byteorder", sys.byteorder)
    return file.getvalue()


def legacy(data):
    """A pickle in a file such as torch.save wrote before version 1.6."""
    heads = (MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": sys.byteorder == "little"})
    return b"".join(pickle.dumps(head, 2) for head in heads) + data + pickle.dumps([], 2)


def files(name, marker):
    """A payload as torch.save writes it, as it did before, and as a bare pickle."""
    if name in OPCODES:
        data = OPCODES[name](marker)
        return [archive(data), legacy(data), data]
    place, _, what = name.rpartition(": ")
    evil = CALLS[what](marker)
    content = CONTAINERS[place](evil) if place else evil
    return [saved(content), saved(content, zipped=False), pickle.dumps(content, protocol=4)]


PAYLOADS = [*CALLS, *OPCODES, *(f"{place}: os.mkdir" for place in CONTAINERS)]
