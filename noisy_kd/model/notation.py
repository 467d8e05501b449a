"""The paper's notation for networks, read and written without torch.

A network is a list of layers joined by ``-``; brackets group a convolution with its pooling and
mean nothing else ([NT] section 4, the abbreviation of section 4.1)::

    C5(S1P2)@64   convolution 5x5, stride 1, padding 2, 64 kernels
    MP3(S2)       max pooling 3x3, stride 2          AP8(S1)  average pooling 8x8, stride 1
    FC500         fully connected, 500 nodes          D0.5     dropout with probability 0.5
"""

import re
from dataclasses import dataclass, replace

from noisy_kd.errors import InputError


@dataclass(frozen=True)
class Conv:
    """``C<kernel>(S<stride>P<padding>)@<kernels>``."""

    kernel: int
    stride: int
    padding: int
    kernels: int

    def __str__(self) -> str:
        return f"C{self.kernel}(S{self.stride}P{self.padding})@{self.kernels}"


@dataclass(frozen=True)
class Pool:
    """``MP<window>(S<stride>)`` or ``AP<window>(S<stride>)``; sizes round up (Caffe)."""

    kind: str  # "MP" or "AP"
    window: int
    stride: int

    def __str__(self) -> str:
        return f"{self.kind}{self.window}(S{self.stride})"


@dataclass(frozen=True)
class Full:
    """``FC<nodes>``."""

    nodes: int

    def __str__(self) -> str:
        return f"FC{self.nodes}"


@dataclass(frozen=True)
class Dropout:
    """``D<probability>``."""

    probability: float

    def __str__(self) -> str:
        return f"D{self.probability:g}"


LARGEST = 1_000_000

Layer = Conv | Pool | Full | Dropout

_TOKENS = (
    (re.compile(r"C(\d+)\(S(\d+)P(\d+)\)@(\d+)"), lambda k, s, p, n: Conv(*map(int, (k, s, p, n)))),
    (re.compile(r"(MP|AP)(\d+)\(S(\d+)\)"), lambda kind, w, s: Pool(kind, int(w), int(s))),
    (re.compile(r"FC(\d+)"), lambda n: Full(int(n))),
    (re.compile(r"D(\d*\.?\d+)"), lambda p: Dropout(float(p))),
)


def parse(text: str) -> tuple[Layer, ...]:
    """Read a network in the paper's notation; blanks are allowed between parts.

    Raises:
        InputError: where the text is not understood, with the position.
    """
    layers: list[Layer] = []
    at, open_bracket, expects_layer = 0, -1, True
    while at < len(text):
        char = text[at]
        if char.isspace():
            at += 1
        elif char == "[" and expects_layer and open_bracket < 0:
            open_bracket, at = at, at + 1
        elif char == "]" and not expects_layer and open_bracket >= 0:
            open_bracket, at = -1, at + 1
        elif char == "-" and not expects_layer:
            expects_layer, at = True, at + 1
        elif expects_layer:
            layer, at = _read_layer(text, at)
            layers.append(layer)
            expects_layer = False
        else:
            raise _trouble(text, at, "expected '-' between layers")
    if open_bracket >= 0:
        raise _trouble(text, open_bracket, "this bracket is never closed")
    if expects_layer:
        raise _trouble(text, len(text), "a layer is missing")
    if not any(isinstance(layer, Conv | Full) for layer in layers):
        raise _trouble(text, 0, "a network needs at least one C or FC layer")
    return tuple(layers)


def notation(layers: tuple[Layer, ...]) -> str:
    """Write layers as the paper prints them: a convolution shares its bracket with its pooling."""
    parts: list[str] = []
    for before, layer in zip((None, *layers), layers, strict=False):
        if isinstance(layer, Pool) and layer.stride > 1 and isinstance(before, Conv):
            parts[-1] = f"{parts[-1][:-1]}-{layer}]"
        else:
            parts.append(f"[{layer}]" if isinstance(layer, Conv) else str(layer))
    return "-".join(parts)


def output_layer(layers: tuple[Layer, ...]) -> int:
    """Return the index of the layer that makes the logits: the last C or FC."""
    return max(i for i, layer in enumerate(layers) if isinstance(layer, Conv | Full))


def with_classes(layers: tuple[Layer, ...], classes: int) -> tuple[Layer, ...]:
    """Return the network with another number of logits."""
    at = output_layer(layers)
    last = layers[at]
    new = replace(last, kernels=classes) if isinstance(last, Conv) else Full(classes)
    return (*layers[:at], new, *layers[at + 1 :])


def with_dropout(layers: tuple[Layer, ...], probability: float) -> tuple[Layer, ...]:
    """Return the network with dropout after its last hidden FC layer ([NT] Table 5).

    Raises:
        InputError: if the network has no hidden FC layer.
    """
    end = output_layer(layers)
    hidden = [i for i, layer in enumerate(layers[:end]) if isinstance(layer, Full)]
    if not hidden:
        raise InputError(
            f"student.dropout={probability:g}: {notation(layers)} has no hidden FC layer to put "
            "dropout after; write D into the notation instead."
        )
    at = hidden[-1] + 1
    return (*layers[:at], Dropout(probability), *layers[at:])


def _read_layer(text: str, at: int) -> tuple[Layer, int]:
    for pattern, make in _TOKENS:
        if match := pattern.match(text, at):
            layer = make(*match.groups())
            sizes = [size for key, size in vars(layer).items() if key not in ("kind", "padding")]
            if isinstance(layer, Dropout) and not 0 <= layer.probability < 1:
                raise _trouble(text, at, "a dropout probability lies in [0, 1)")
            if not isinstance(layer, Dropout) and min(sizes) < 1:
                raise _trouble(text, at, "sizes, strides and counts are at least 1")
            if max(sizes) > LARGEST:
                raise _trouble(text, at, f"sizes, strides and counts are at most {LARGEST:,}")
            return layer, match.end()
    raise _trouble(text, at, "not a layer: expected C5(S1P2)@64, MP2(S2), AP3(S2), FC10 or D0.5")


def _trouble(text: str, at: int, why: str) -> InputError:
    shown = f"{text[:at]}>>>{text[at:]}"
    return InputError(f"network notation, position {at + 1}: {why}: {shown!r}")
