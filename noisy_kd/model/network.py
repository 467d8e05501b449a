"""Networks: in the paper's notation, or any module by its import path.

In the notation a ReLU follows every C and FC but the last of them; pools round up (Caffe's rule,
without which NIN's AP8 would see 7x7). Initial weights, where the paper is silent: He et al. 2015,
normal, fan-in, biases zero; with torch's default NIN learns far more slowly.
"""

import copy
import difflib
import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import BuiltinFunctionType, FunctionType, MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from noisy_kd.errors import InputError
from noisy_kd.model import notation as nt
from noisy_kd.model.layers import Dropout, initialise, seeded
from noisy_kd.model.targets import check_allowed, locate, weights_only

OWN_LAYERS = (
    *(nn.Sequential, nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten, nn.ReLU),
    *(Dropout, nn.BatchNorm1d, nn.BatchNorm2d),
)
"""The modules of networks in the paper's notation; none draws from torch's global generator."""


def network(
    layers: str | tuple[nt.Layer, ...],
    input_shape: tuple[int, int, int],
    classes: int | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """Return the network of a notation, with initial weights decided by the seed.

    Args:
        layers: a notation string, or the layers that :func:`noisy_kd.model.notation.parse` gives.
        input_shape: (channels, height, width) of one image.
        classes: how many logits there must be; None takes what comes.
        seed: decides the initial weights.

    Raises:
        InputError: if the notation is wrong, or does not fit the images or the classes.

    Examples:
        >>> net = network("[C5(S1P2)@16-MP2(S2)]-FC10", (1, 28, 28))
        >>> net(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    layers = nt.parse(layers) if isinstance(layers, str) else layers
    net = nn.Sequential()
    x = torch.empty(1, *input_shape, device="meta")
    last = nt.output_layer(layers)
    for i, layer in enumerate(layers):
        for module in _modules(layer, x, with_relu=i < last):
            x = _pass(module, x, f"layer {i + 1} ({layer}) of {nt.notation(layers)}", input_shape)
            net.append(module)
    if x.dim() == 4:
        net.append(nn.Flatten())
    if classes is not None and x.numel() != classes:
        raise InputError(
            f"{nt.notation(layers)} gives {x.numel()} logits for images of {_size(input_shape)}, "
            f"but the data has {classes} classes."
        )
    try:
        net.to_empty(device="cpu")
    except RuntimeError as error:
        raise InputError(f"{nt.notation(layers)} does not fit into memory.") from error
    initialise(net, torch.Generator().manual_seed(seed))
    return net


def instantiate(
    target: str,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int = 0,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """Return the network that a class or function makes; the seed decides its initial weights.

    ``num_classes`` is passed to it if it takes that. What it returns becomes its logits, by
    :func:`logits_of`. Its dropout layers become this project's, so that networks side by side do
    not disturb each other's draws.

    Raises:
        InputError: if it cannot be imported or called, or does not fit the images or the classes.
    """
    net = _call(target, classes, seed, arguments)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
    net.register_forward_hook(_only_logits)
    try:
        with torch.no_grad(), seeded(seed):  # a lazy module draws its weights now
            logits = tuple(net.eval()(torch.zeros(1, *input_shape)).shape)
            copy.deepcopy(net).train()(torch.zeros(2, *input_shape))
    except Exception as error:  # whatever it raises on images that it was not made for
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".!")
        raise InputError(
            f"{target} does not fit images of {_size(input_shape)}: {why}. For a teacher of other "
            "images set teacher.input.size, or three values in teacher.input.mean for RGB."
        ) from error
    if len(logits) != 2 or logits[1] != classes:
        raise InputError(f"{target} returns shape {logits} for one image, not (1, {classes}).")
    return net.train()


def _call(target: str, classes: int, seed: int, arguments: Mapping[str, Any]) -> nn.Module:
    make = locate(target)
    try:
        names = inspect.signature(make).parameters
    except (TypeError, ValueError) as error:
        raise InputError(f"{target} is not a class or function that makes a network.") from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in names.values())
    default = {"num_classes": classes} if takes_any or "num_classes" in names else {}
    with seeded(seed), warnings.catch_warnings(action="ignore", category=FutureWarning):
        try:
            net = make(**(default | dict(arguments)))
        except Exception as error:  # whatever code of the user's raises
            text = f"{type(error).__name__}: " * (not isinstance(error, TypeError | ValueError))
            raise InputError(f"{target} cannot be made: {text}{error}.") from error
    if not isinstance(net, nn.Module):
        raise InputError(f"{target} makes {type(net).__name__}, which is not a torch.nn.Module.")
    return net


def _only_logits(_: nn.Module, __: Any, output: Any) -> Tensor:
    return logits_of(output)


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


def from_settings(
    settings: Mapping[str, Any],
    layers: str,
    input_shape: tuple[int, int, int],
    classes: int,
    allow: Sequence[str] = (),
) -> nn.Module:
    """Return the network of a finished run, which may be somebody else's.

    ``settings`` are the student's of ``result.json``, ``layers`` its notation, if it has one;
    ``allow`` as in :func:`noisy_kd.model.targets.check_allowed`.
    """
    if "_target_" not in settings:
        return network(layers, input_shape, classes)
    check_allowed(settings["_target_"], nn.Module, allow)
    left_out = {"_target_", "dropout"}
    if settings["_target_"].startswith(("torchvision.", "timm.")):
        left_out |= {"weights", "pretrained"}  # which would be fetched, to be replaced
    own = {key: value for key, value in settings.items() if key not in left_out}
    with nullcontext() if allow else weights_only():
        return instantiate(settings["_target_"], input_shape, classes, arguments=own)


def draws_globally(net: nn.Module) -> bool:
    """Return whether the network may draw from torch's global generator."""
    return any(type(module) not in OWN_LAYERS for module in net.modules())


def architecture(net: nn.Module) -> str:
    """Return a text that distinguishes structures: the notation if the network has one.

    It identifies stored teachers and logits, together with a digest of the weights.
    """
    try:
        return notation_of(net)
    except ValueError:
        return f"{type(net).__module__}.{type(net).__qualname__} {net}{_own_values(net)}"


def _own_values(net: nn.Module) -> str:
    """Return plain values and functions of modules that are not torch's: they may decide logits."""
    plain = (int, float, str, bool, FunctionType, BuiltinFunctionType, type)
    return "".join(
        f" {name}.{key}={getattr(value, '__qualname__', value)}"
        for name, module in net.named_modules()
        if not type(module).__module__.startswith(("torch.nn.", "noisy_kd."))
        for key, value in sorted(vars(module).items())
        if not key.startswith("_") and key != "training" and isinstance(value, plain)
    )


def notation_of(net: nn.Module) -> str:
    """Return the net in the paper's notation: the inverse of :func:`network`.

    Raises:
        ValueError: for a module that the notation has no word for.
    """
    modules = net if type(net) is nn.Sequential else [nn.Identity()]
    layers = [_layer(m) for m in modules if type(m) not in (nn.ReLU, nn.Flatten)]
    if None in layers:
        raise ValueError(f"the notation has no word for {net}")
    return nt.notation(tuple(filter(None, layers)))


class Upto(nn.Module):
    """The output of a module inside another, by its name in ``named_modules``."""

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.net, self.name = net, name

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        module = self.net.get_submodule(self.name)
        hook = module.register_forward_hook(lambda _, __, output: outputs.append(output))
        try:
            self.net(x.clone())
        finally:
            hook.remove()
        return outputs[0]


def upto(net: nn.Module, place: str | None) -> nn.Module:
    """Return the first part of a net, up to a hidden layer and its ReLU; it shares the weights.

    ``place`` is ``C2`` for the second convolution, ``FC1`` for the first fully connected layer,
    None for the middle one of all of them; or the name of any module in ``named_modules``.

    Raises:
        InputError: if there is no such hidden layer; the message names those there are.
    """
    names = [name for name, _ in net.named_modules() if name]
    if place in names:
        return Upto(net, str(place))
    if type(net) is not nn.Sequential or draws_globally(net):
        close = ", ".join(difflib.get_close_matches(str(place), names, 5, 0))
        raise InputError(f"{type(net).__name__} has no layer {place}: name one, such as {close}.")
    convolutions = [i for i, module in enumerate(net) if isinstance(module, nn.Conv2d)]
    full = [i for i, module in enumerate(net) if isinstance(module, nn.Linear)]
    places = {f"C{n}": i for n, i in enumerate(convolutions, start=1)}
    places |= {f"FC{n}": i for n, i in enumerate(full, start=1)}
    hidden = list(places)[:-1]
    if not hidden:
        raise InputError(f"{notation_of(net)} has no hidden layer.")
    place = place or hidden[len(hidden) // 2]
    if place not in hidden:
        raise InputError(f"{notation_of(net)} has no hidden layer {place}: {', '.join(hidden)}.")
    end = places[place] + 1
    while isinstance(net[end], _BatchNorm | nn.ReLU):
        end += 1
    return net[:end]


def with_active_dropout(net: nn.Module, probability: float) -> nn.Module:
    """Return a copy of the net in eval mode, but with active dropout of this probability.

    A net in the paper's notation without dropout gets one layer of it after its last hidden layer.

    Raises:
        InputError: if there is no layer to drop out.
    """
    fickle = copy.deepcopy(net).eval()
    dropouts = [module for module in fickle.modules() if isinstance(module, nn.Dropout)]
    if not dropouts and isinstance(fickle, nn.Sequential) and not draws_globally(fickle):
        weights = [i for i, m in enumerate(fickle) if isinstance(m, nn.Conv2d | nn.Linear)]
        if len(weights) < 2:
            raise InputError(f"{architecture(net)} has no hidden layer to drop out.")
        end = weights[-2] + 1
        dropouts = [Dropout(probability)]
        fickle.insert(end + isinstance(fickle[end], nn.ReLU), dropouts[0])
    if not dropouts:
        raise InputError(f"{type(net).__name__} has no nn.Dropout layer to keep active.")
    for module in dropouts:
        module.p = probability
        module.train()
    return fickle


def label(module: nn.Module) -> str:
    """Return the module's word in the notation, or its class's name."""
    return str(_layer(module) or type(module).__name__)


def _modules(layer: nt.Layer, x: Tensor, with_relu: bool) -> list[nn.Module]:
    relu: list[nn.Module] = [nn.ReLU()] if with_relu else []  # in place: bf16 at half the speed
    with torch.device("meta"):
        match layer:
            case nt.Conv(kernel, stride, padding, kernels):
                return [nn.Conv2d(x.shape[1], kernels, kernel, stride, padding), *relu]
            case nt.Full(nodes):
                flatten: list[nn.Module] = [nn.Flatten()] if x.dim() == 4 else []
                return [*flatten, nn.Linear(math.prod(x.shape[1:]), nodes), *relu]
            case nt.Pool(kind, window, stride):
                pool = nn.MaxPool2d if kind == "MP" else nn.AvgPool2d
                return [pool(window, stride, ceil_mode=True)]
            case nt.Dropout(probability):
                return [Dropout(probability)]


def _pass(module: nn.Module, x: Tensor, where: str, input_shape: tuple[int, int, int]) -> Tensor:
    is_pool = isinstance(module, nn.MaxPool2d | nn.AvgPool2d)
    if x.dim() == 2 and (is_pool or isinstance(module, nn.Conv2d)):
        raise InputError(f"{where} comes after a fully connected layer; C, MP and AP come before.")
    try:
        if is_pool and int(module.kernel_size) > min(x.shape[2:]):  # type: ignore[arg-type]
            raise RuntimeError("the window is larger than its input")
        out: Tensor = module(x)
    except RuntimeError as error:
        sizes = f"images of {_size(input_shape)}: it would see only {_size(x.shape[2:])}"
        raise InputError(f"{where} does not fit {sizes}.") from error
    return out


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _layer(module: nn.Module) -> nt.Layer | None:
    odd = ("groups", "dilation=(", "padding_mode", "bias=False", "ceil_mode=False")
    if type(module) not in OWN_LAYERS or any(text in str(module) for text in odd):
        return None
    match module:
        case nn.Conv2d(kernel_size=(k, a), stride=(s, b), padding=(int(p), c)) if a == k:
            return nt.Conv(k, s, p, module.out_channels) if (b, c) == (s, p) else None
        case nn.MaxPool2d(kernel_size=int(window), stride=int(stride), padding=0):
            return nt.Pool("MP", window, stride)
        case nn.AvgPool2d(kernel_size=int(window), stride=int(stride), padding=0):
            return nt.Pool("AP", window, stride)
        case nn.Linear():
            return nt.Full(module.out_features)
        case nn.Dropout():
            return nt.Dropout(module.p)
    return None
