"""What a network costs: multiplications, parameters, bytes ([NT] section 5.5).

Multiplications are those of one forward pass of one image, without biases, as the paper counts.
"""

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
    """Return the cost of every leaf module, in the order in which an image passes them.

    The pass of a copy runs on torch's meta device, or, of a module that this device cannot pass, on
    the CPU.

    Raises:
        InputError: if neither passes.
    """
    try:
        return _costs(net, input_shape, "meta")
    except Exception:  # a module of a user's own, for example with a state that forward makes
        try:
            return _costs(net, input_shape, "cpu")
        except Exception as error:
            raise InputError(f"the cost of {label(net)} cannot be counted: {error}") from error


def _costs(net: nn.Module, input_shape: tuple[int, int, int], device: str) -> list[LayerCost]:
    twin = copy.deepcopy(net).to(device).eval()
    costs: list[LayerCost] = []
    counter = FlopCounterMode(display=False)

    def uncounted() -> int:
        return counter.get_total_flops() // 2 - sum(cost.multiplications for cost in costs)

    def add(module: nn.Module, _: object, output: object) -> None:
        shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
        costs.append(LayerCost(label(module), shape, uncounted(), parameters(module)))

    for module in twin.modules():
        if not any(module.children()):
            module.register_forward_hook(add)
    with counter, torch.no_grad():
        logits = twin(torch.zeros(1, *input_shape, device=device))
    outside = parameters(net) - sum(cost.parameters for cost in costs)
    if outside or uncounted():  # not in a leaf module
        shape = tuple(logits.shape[1:]) if isinstance(logits, Tensor) else ()
        costs.append(LayerCost("(other)", shape, uncounted(), outside))
    return costs


def multiplications(net: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the multiplications of one forward pass of one image."""
    return sum(cost.multiplications for cost in layer_costs(net, input_shape))


def parameters(net: nn.Module) -> int:
    """Return the number of trainable values, biases included."""
    return sum(p.numel() for p in net.parameters())


def size_in_bytes(net: nn.Module) -> int:
    """Return the bytes of all weights and buffers as they are stored."""
    return sum(t.numel() * t.element_size() for t in [*net.parameters(), *net.buffers()])
