"""Networks that are not in the paper's notation: any module, by its import path."""

from __future__ import annotations

import copy
import inspect
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from noisy_kd.errors import InputError
from noisy_kd.model.layers import Dropout


def instantiate(
    target: str,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int = 0,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """Return the network that a class or function makes; the seed decides its initial weights.

    ``num_classes`` is passed to it if it takes that. Its dropout layers become this project's, so
    that networks side by side do not disturb each other's draws.

    Raises:
        InputError: if it cannot be imported or called, or does not fit the images or the classes.
    """
    net = _call(target, classes, seed, arguments)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # a lazy module draws its weights now
            logits = tuple(logits_of(net.eval()(torch.zeros(1, *input_shape))).shape)
            logits_of(copy.deepcopy(net).train()(torch.zeros(2, *input_shape)))
    except Exception as error:  # whatever it raises on images that it was not made for
        image = "x".join(map(str, input_shape))
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{target} does not fit images of {image}: {why}") from error
    if len(logits) != 2 or logits[1] != classes:
        raise InputError(f"{target} gives {logits} for one image: logits of shape (1, {classes}).")
    return net.train()


def _call(target: str, classes: int, seed: int, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        make = pkgutil.resolve_name(target)
        names = inspect.signature(make).parameters
    except (ImportError, AttributeError) as error:
        why = f"cannot be imported ({error}): name a class or function."
        raise InputError(f"{target} {why}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{target} is no class or function that makes a network.") from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in names.values())
    for key in arguments:
        if key not in names and not takes_any:
            known = ", ".join(names) or "none"
            raise InputError(f"{target} has no argument {key}; it has: {known}.")
    default = {"num_classes": classes} if takes_any or "num_classes" in names else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net = make(**(default | dict(arguments)))
        except (TypeError, ValueError) as error:
            raise InputError(f"{target} cannot be made: {error}.") from error
    if not isinstance(net, nn.Module):
        raise InputError(f"{target} makes {type(net).__name__}, which is no torch.nn.Module.")
    return net


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a network returns: the tensor itself, ``.logits``, or the first.

    Raises:
        TypeError: if there are none.
    """
    inner = getattr(output, "logits", output)
    if isinstance(inner, Mapping):
        inner = inner.get("logits")
    elif isinstance(inner, tuple | list) and inner:
        inner = inner[0]
    if isinstance(inner, Tensor):
        return inner
    raise TypeError(
        f"a network returned {type(output).__name__}: it must return logits [B, C], an object with "
        "logits, or a tuple whose first entry they are."
    )
