"""What a network costs: multiplications, parameters, bytes ([NT] section 5.5).

Multiplications are those of one forward pass of one image, without biases, as the paper counts.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from noisy_kd.errors import InputError
from noisy_kd.model.network import label


@dataclass(frozen=True)
class LayerCost:
    """One leaf module: its word in the notation (or its class), its output's shape, its cost."""

    label: str
    output_shape: tuple[int, ...]
    multiplications: int
    parameters: int


def layer_costs(net: nn.Module, input_shape: tuple[int, int, int]) -> list[LayerCost]:
    """Cost of every leaf module, in the order in which an image passes them.

    Nothing is computed: the pass runs on torch's meta device, and ``net`` is left as it is.
    """
    twin = copy.deepcopy(net).to("meta").eval()
    costs: list[LayerCost] = []
    counter = FlopCounterMode(display=False)
    seen = 0

    def add(name: str, output: object, parameters: int) -> None:
        nonlocal seen
        multiplications = counter.get_total_flops() // 2 - seen
        seen += multiplications
        shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
        costs.append(LayerCost(name, shape, multiplications, parameters))

    def after(module: nn.Module, _: object, output: object) -> None:
        add(label(module), output, parameters(module))

    for module in twin.modules():
        if not any(module.children()):
            module.register_forward_hook(after)
    try:
        with counter, torch.no_grad():
            logits = twin(torch.empty(1, *input_shape, device="meta"))
            outside = parameters(net) - sum(cost.parameters for cost in costs)
            if outside or counter.get_total_flops() // 2 > seen:  # not in a leaf module
                add("(other)", logits, outside)
    except Exception as error:  # a module of one's own that torch's meta device cannot pass
        raise InputError(f"the cost of {label(net)} cannot be counted: {error}") from error
    return costs


def multiplications(net: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiplications of one forward pass of one image."""
    return sum(cost.multiplications for cost in layer_costs(net, input_shape))


def parameters(net: nn.Module) -> int:
    """Number of trainable values, biases included."""
    return sum(p.numel() for p in net.parameters())


def size_in_bytes(net: nn.Module) -> int:
    """Bytes of all weights and buffers as they are stored."""
    tensors = [*net.parameters(), *net.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)
