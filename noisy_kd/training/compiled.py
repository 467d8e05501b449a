"""A student's steps compiled for a GPU: its forward pass and Adam, on a bf16 copy of its weights.

Shapes: B images in a mini-batch, [B, H, W] places of a convolution's output, F values under its
kernel.

Autocast casts all weights to bf16 at each step, and their gradients back. Here the copy is what is
computed, and Adam's kernel writes it together with the float32 weights, from the copy's gradients.
Other steps compute fully connected layers in TF32: the numbers differ by rounding.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.adam import Adam, adam

from noisy_kd.model.layers import Dropout
from noisy_kd.training.distiller import Distiller
from noisy_kd.training.graphs import Sums
from noisy_kd.training.numerics import Numerics, relu_after_pool

FEW = 8  # channels of images, below which a convolution is faster as a product of matrices
torch._dynamo.config.recompile_limit = 64  # networks, widths and settings in one process
LAYERS = (nn.Conv2d, nn.Linear, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten, Dropout)


def steps(
    plain: Callable[..., Sums],
    distiller: Distiller,
    optimizer: Optimizer,
    numerics: Numerics,
    patches: dict[int, "Patches"],
) -> Callable[..., Sums] | None:
    """Return a student's steps, compiled; None unless it is in the paper's notation, bf16 and Adam.

    Args:
        plain: the steps; they begin with images.
        distiller: the student, and what it learns from.
        optimizer: of the student.
        numerics: how networks are computed.
        patches: of each seed's images; gets one where the student can be given them.
    """
    net, method = distiller.student, distiller.method
    if not isinstance(net, nn.Sequential) or not isinstance(optimizer, Adam):
        return None
    if not _can_be_compiled(net, optimizer, numerics):
        return None
    shared, first = None, net[0]
    sees_images = method.input is not None or bool(distiller.fickle)
    if isinstance(first, nn.Conv2d) and first.in_channels < FEW and not sees_images:
        shared = patches.setdefault(distiller.seed, Patches(first))
        shared = shared if shared.fit(first) else None
    made: list[CompiledStudent] = []

    def make(x: Tensor, *others: Tensor) -> Sums:
        if not made:
            made.append(CompiledStudent(net, optimizer, shared))
        distiller.compiled = made[0]
        distiller.compiled.refresh()
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
                return plain(x if shared is None else shared.now, *others)
        finally:
            distiller.compiled = None

    return make


def _can_be_compiled(net: nn.Sequential, optimizer: Adam, numerics: Numerics) -> bool:
    is_plain = type(optimizer) is Adam and len(optimizer.param_groups) == 1
    others = ("amsgrad", "maximize", "differentiable", "decoupled_weight_decay")
    is_plain = is_plain and not any(optimizer.defaults.get(key) for key in others)
    in_notation = all(map(_is_in_notation, net)) and not net._forward_hooks
    trained = all(weight.requires_grad for weight in net.parameters())
    exact = numerics.precision != "bf16" or torch.are_deterministic_algorithms_enabled()
    return is_plain and in_notation and trained and not exact


def _is_in_notation(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        usual = (layer.padding_mode, layer.groups, layer.dilation) == ("zeros", 1, (1, 1))
        usual = usual and layer.kernel_size[0] == layer.kernel_size[1]
        if not usual or isinstance(layer.padding, str):
            return False
    has_bias = getattr(layer, "bias", 0) is not None
    return type(layer) in LAYERS and has_bias


class CompiledStudent:
    """A student's forward pass and its optimiser's step, compiled.

    Args:
        student: a network in the paper's notation; its weights stay float32.
        optimizer: Adam, whose state has been made.
        patches: that it is given in place of images; None for images.
    """

    def __init__(
        self, student: nn.Sequential, optimizer: Adam, patches: "Patches | None" = None
    ) -> None:
        self.optimizer, self.patches = optimizer, patches
        self.weights = [weight.detach() for weight in student.parameters()]
        layers = [one if isinstance(one, Dropout) else deepcopy(one) for one in student]
        self.copies: list[Tensor] = [
            w for layer in layers for w in layer.to(torch.bfloat16).parameters()
        ]
        self.parts: list[nn.Module] = [nn.Sequential()]  # dropout, which draws, is not compiled
        for layer in relu_after_pool(layers):
            if isinstance(layer, Dropout):
                self.parts += [layer, nn.Sequential()]
            else:
                self.parts[-1].append(layer)  # type: ignore[operator]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights, which may have been changed by others."""
        torch._foreach_copy_(self.copies, self.weights)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits [B, C] of images, or of their patches, in float32."""
        x, of_patches = x.to(torch.bfloat16), self.patches is not None
        for part in self.parts:
            x = part(x) if isinstance(part, Dropout) else _forward(part, x, of_patches)
            of_patches = False
        return x.float()

    @torch.no_grad()
    def step(self) -> None:
        """Make Adam's step from the gradients of the copy, and write the copy anew."""
        (group,) = self.optimizer.param_groups
        states = [self.optimizer.state[weight] for weight in group["params"]]
        moments = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        gradients = [copy.grad for copy in self.copies]
        copies = [copy.detach() for copy in self.copies]
        options = {name: group[name] for name in ("lr", "eps", "weight_decay")}
        options |= dict.fromkeys(("foreach", "capturable"), self.weights[0].is_cuda)
        _adam(self.weights, copies, gradients, *moments, *group["betas"], options)
        for copy in self.copies:
            copy.grad = None


class Patches:
    """What lies under the first convolution's kernel in a chunk of images, for all students.

    Args:
        conv: whose patches they are.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        self.now = torch.empty(0)
        """[B, H, W, F] in bf16, F filled up to a multiple of 8."""

    def fit(self, conv: nn.Conv2d) -> bool:
        """Return whether another convolution has the same patches."""
        keys = ("kernel_size", "stride", "padding")
        return all(getattr(conv, key) == getattr(self.conv, key) for key in keys)

    def make(self, x_BCHW: Tensor) -> None:
        """Make those of a chunk where those of the last chunk were; a shorter chunk has none."""
        if len(self.now) > len(x_BCHW):
            return
        sizes = (self.conv.kernel_size, self.conv.stride, self.conv.padding)
        size, stride, padding = (int(each[0]) for each in sizes)
        x = F.pad(x_BCHW.to(torch.bfloat16), (padding,) * 4)
        under = x.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 4, 5, 1)
        count = under[0, 0, 0].numel()
        if self.now.shape[:3] != under.shape[:3]:
            self.now = x.new_zeros(*under.shape[:3], count + -count % 8)
        self.now[..., :count].unflatten(3, under.shape[3:]).copy_(under)


@partial(torch.compile, dynamic=False)
def _forward(layers: nn.Sequential, x: Tensor, of_patches: bool) -> Tensor:
    """Return the output of some layers.

    The bias of a convolution is added after the max pool, where there is one: to a fourth of the
    values, and the same sums.
    """
    bias: Tensor | None = None
    each = list(layers)
    for k, layer in enumerate(each):
        if isinstance(layer, nn.Conv2d):
            bias = layer.bias
            if of_patches and k == 0:
                x = _product(x, layer.weight)
            else:
                x = F.conv2d(x, layer.weight, None, layer.stride, layer.padding)
        elif isinstance(layer, nn.Linear):
            x = _linear(x, layer)
        else:
            x = layer(x)
        pooled = k + 1 < len(each) and isinstance(each[k + 1], nn.MaxPool2d)
        if bias is not None and not pooled:
            x, bias = x + bias.view(-1, 1, 1), None
    return x


def _product(patches_BHWF: Tensor, weight: Tensor) -> Tensor:
    """Return a convolution of what lies under its kernel, [B, K, H, W] with channels last."""
    flat = weight.permute(0, 2, 3, 1).flatten(1)
    flat = F.pad(flat, (0, patches_BHWF.shape[3] - flat.shape[1]))
    return (patches_BHWF @ flat.t()).permute(0, 3, 1, 2)


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """Return a fully connected layer's output, by a product whose sizes are multiples of 8."""
    more = -layer.out_features % 8
    if not more:
        return F.linear(x, layer.weight, layer.bias)
    weight, bias = F.pad(layer.weight, (0, 0, 0, more)), F.pad(layer.bias, (0, more))
    return F.linear(x, weight, bias)[:, : layer.out_features]


@partial(torch.compile, dynamic=False)
def _adam(
    weights: Sequence[Tensor],
    copies: Sequence[Tensor],
    gradients: Sequence[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
    beta1: float,
    beta2: float,
    options: dict[str, Any],
) -> None:
    """Kingma & Ba 2015, Algorithm 1, by torch; then the copies of the weights."""
    adam(
        list(weights),
        [gradient.float() for gradient in gradients],
        averages,
        squares,
        [],
        steps,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        maximize=False,
        **options,
    )
    for copy, weight in zip(copies, weights, strict=True):
        copy.copy_(weight)
