"""How networks are computed on a device: precision, memory layout, matrix products."""

import ctypes
import platform
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from joblib import cpu_count
from torch import Tensor, nn

from noisy_kd.model.network import logits_of

Net = TypeVar("Net", bound=nn.Module)

FEW = 3_000_000  # multiplications, up to which one thread is as fast as two
THREADS = torch.get_num_threads()  # those that the process was given
FLOAT32_ERROR = 1e-5  # relative error up to which a product counts as float32


@dataclass(frozen=True)
class Numerics:
    """How a network is computed on a device.

    Args:
        device: where.
        precision: ``32`` or ``bf16`` (autocast; weights and optimiser stay float32).
        fast: fused optimiser, channels-last convolutions, several mini-batches per Lightning step.
    """

    device: torch.device
    precision: str
    fast: bool

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)
        return nullcontext()

    def logits(self, net: nn.Module, x: Tensor) -> Tensor:
        """The net's logits, [B, C], in float32.

        In bf16 under autocast; but with :attr:`uses_tf32_or_amx` the fully connected layers of nets
        in the paper's notation outside of it: that spares casts of their weights and gradients at
        each step.
        """
        if not self.fast or type(net) is not nn.Sequential or net._forward_hooks:
            with self.autocast():
                return logits_of(net(x.clone())).float()  # it may change its input in place
        layers = relu_after_pool(list(net))
        flat = [k for k, layer in enumerate(layers) if isinstance(layer, nn.Flatten)]
        first = flat[0] if flat else len(layers)
        with self.autocast():
            for layer in layers[:first]:
                x = layer(x)
            if x.requires_grad and x.ndim == 4:  # else the last pool would copy all it works on
                x.register_hook(self.to_channels_last)
        with nullcontext() if self.uses_tf32_or_amx else self.autocast():
            x = x.float() if self.uses_tf32_or_amx else x
            for layer in layers[first:]:
                x = layer(x)
        return logits_of(x).float()

    @property
    def graphs(self) -> bool:
        """Whether training steps are tried as CUDA graphs."""
        return self.fast and self.device.type == "cuda"

    @property
    def uses_tf32_or_amx(self) -> bool:
        """Whether products of float32 matrices are made on the matrix units without a cast.

        In bf16 by oneDNN itself (AMX), in TF32 on a GPU: casts of weights and of their gradients
        would cost more there than the products.
        """
        if self.precision != "bf16" or not self.fast:
            return False
        return self.device.type == "cuda" or (self.device.type == "cpu" and not _medium_is_exact())

    @contextmanager
    def matmul_precision(self) -> Iterator[None]:
        """While a net is trained: float32 matrix products as :attr:`uses_tf32_or_amx` says."""
        before = torch.get_float32_matmul_precision()
        if self.uses_tf32_or_amx:
            torch.set_float32_matmul_precision("medium")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def to_channels_last(self, x: Tensor) -> Tensor:
        """Images in the memory layout that convolutions are fastest in."""
        image_like = self.fast and x.ndim == 4
        return x.contiguous(memory_format=torch.channels_last) if image_like else x

    def place(self, net: Net) -> Net:
        """Weights on the device, in the layout that fits :meth:`to_channels_last`."""
        net.to(self.device)
        return net.to(memory_format=torch.channels_last) if self.fast else net


def choose_threads(device: torch.device, multiplications: int, deterministic: bool) -> None:
    """Compute small networks on one thread of the processor, and what shall repeat bit by bit.

    Two threads gain nothing on them, and wait for each other when another process needs a core.

    Args:
        device: the run's.
        multiplications: of one image, in the largest network.
        deterministic: whether the number of threads must not change a bit.
    """
    few = device.type == "cpu" and (deterministic or multiplications < FEW)
    torch.set_num_threads(1 if few else min(THREADS, cpu_count()))


def set_up(precision: str, fast: bool, device: torch.device) -> Numerics:
    """Return how to compute, and set what is global: matrix products, the allocator."""
    if fast:
        # Adam's averages of gradients that are mostly zero sink below the normal range, where a
        # processor is slow. First, because threads inherit it when they are made.
        torch.set_flush_denormal(True)
        _keep_memory()
    if device.type == "cuda":  # "32" and final errors are float32, convolutions too
        torch.backends.cudnn.allow_tf32 = False
    if fast and device.type == "cpu":
        torch.set_float32_matmul_precision("medium" if _medium_is_exact() else "highest")
    return Numerics(device, precision, fast)


def relu_after_pool(layers: list[nn.Module]) -> list[nn.Module]:
    """Max pools before the ReLU that precedes them, in the order in which layers are computed.

    max(relu(a), relu(b)) = relu(max(a, b)): the same values and gradients, from fewer pixels.
    """
    layers = list(layers)
    for k in range(len(layers) - 1):
        if isinstance(layers[k], nn.ReLU) and isinstance(layers[k + 1], nn.MaxPool2d):
            layers[k], layers[k + 1] = layers[k + 1], layers[k]
    return layers


@cache
def _medium_is_exact() -> bool:
    """Whether "medium" products keep float32's accuracy here (on AMX they compute in bf16).

    Probed wherever there are bf16 units, also those that are no gain; without any it is sure.
    """
    if not (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return True
    a = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ a.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    error = ((a @ a).double() - exact).norm() / exact.norm()
    torch.set_float32_matmul_precision(before)
    return bool(error < FLOAT32_ERROR)


@cache
def _keep_memory() -> None:
    """Let glibc keep freed memory: handing it back and faulting it in again costs every step.

    The price is that memory returns to the system only at the end. Linux with glibc alone.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
    libc.mallopt(m_top_pad, 64 << 20)


def device_name(device: torch.device) -> str:
    """The accelerator's name, or ``cpu`` with the processor's where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    name = platform.processor()
    with suppress(OSError):  # Linux, where platform knows the type alone
        known = re.search(r"^model name\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        name = known[1].strip() if known else name
    return f"cpu ({name})" if name else "cpu"
