"""What a network costs: multiplications, parameters, bytes ([NT] section 5.5).

Multiplications are those of one forward pass of one image, without biases, as the paper counts.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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

    def after(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal seen
        multiplications = counter.get_total_flops() // 2 - seen
        seen += multiplications
        parameters = sum(p.numel() for p in module.parameters())
        costs.append(LayerCost(label(module), tuple(output.shape[1:]), multiplications, parameters))

    for module in twin.modules():
        if not any(module.children()):
            module.register_forward_hook(after)
    with counter, torch.no_grad():
        twin(torch.empty(1, *input_shape, device="meta"))
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
