"""Training steps as one CUDA graph: launched once instead of kernel by kernel.

At mini-batches of 64 a GPU computes a small net's kernels faster than Python launches them. A graph
is used only if it is seen to give what the plain steps give, and to be faster.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Sums = dict[str, Tensor | int]
"""What steps give: sums over their samples."""

State = tuple[list[Tensor], list[Tensor]]
"""Weights and the optimiser's tensors; the generators' states."""

SAME = 0.05  # difference of a weight tensor, relative to its movement, that counts as none


class Graphed:
    """Some training steps, as a graph after two calls if that is the same and faster.

    The first call shows the shapes and lets the optimiser make its state; at the second the steps
    are made both ways from the same start, and compared.

    Args:
        steps: of tensors, whose shapes seldom change; it changes nothing but the net, the
            optimiser's state and the generators.
        net: that is trained.
        optimizer: of the net; its state and its learning rate are tensors on the device.
        generators: that the steps draw from.
    """

    def __init__(
        self,
        steps: Callable[..., Sums],
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.steps, self.net, self.optimizer, self.generators = steps, net, optimizer, generators
        self.device = next(net.parameters()).device
        on_gpu = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if on_gpu else None
        self.shapes: list[torch.Size] | None = None
        self.inputs: list[Tensor] = []
        self.replay: Callable[[], Sums] | None = None
        self.tried = False

    def __call__(self, *inputs: Tensor) -> Sums:
        """Make the steps; on a GPU perhaps beside other work, see :meth:`join`."""
        shapes = [tensor.shape for tensor in inputs]
        is_first, self.shapes = self.shapes is None, self.shapes or shapes
        if is_first or shapes != self.shapes:
            return self.steps(*inputs)
        if not self.tried:
            self.tried = True
            return self._try(inputs)
        return self.steps(*inputs) if self.replay is None else self._launch(inputs)

    def join(self) -> None:
        """Let what follows wait for the steps."""
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def _launch(self, inputs: Sequence[Tensor]) -> Sums:
        assert self.replay is not None
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for mine, given in zip(self.inputs, inputs, strict=True):
                mine.copy_(given, non_blocking=True)
            return self.replay()

    def _try(self, inputs: Sequence[Tensor]) -> Sums:
        """Make the steps both ways from the same start; keep the graph if it is worth it."""
        before = self._state()
        sums, seconds = self._timed(partial(self.steps, *inputs))
        after = self._state()
        self.inputs = [tensor.to(self.device, copy=True) for tensor in inputs]
        try:
            self._restore(before)
            self.replay = capture(partial(self.steps, *self.inputs), self.generators, self.stream)
            self._timed(self.replay)  # the first launch also uploads it
            self._restore(before)
            again, graph_seconds = self._timed(self.replay)
            reason = "" if graph_seconds < seconds else "is not faster"
            reason = reason if self._is_as(after, before) else "gives other numbers"
        except RuntimeError as error:
            reason = f"cannot be made ({str(error).splitlines()[0]})"
        if not reason:
            return {name: tensor + 0 for name, tensor in again.items()}
        log.info("A CUDA graph of the steps %s: they are launched one by one.", reason)
        self.replay, self.inputs = None, []
        self._restore(after)
        return sums

    def _timed(self, steps: Callable[[], Sums]) -> tuple[Sums, float]:
        started, sums = self._clock(), steps()
        return sums, self._clock() - started

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _tensors(self) -> list[Tensor]:
        state = [tensor for state in self.optimizer.state.values() for tensor in state.values()]
        return [*self.net.state_dict().values(), *(t for t in state if isinstance(t, Tensor))]

    def _state(self) -> State:
        draws = [generator.get_state() for generator in self.generators]
        return [tensor.clone() for tensor in self._tensors()], draws

    @torch.no_grad()
    def _restore(self, state: State) -> None:
        for now, then in zip(self._tensors(), state[0], strict=True):
            now.copy_(then)
        for generator, then in zip(self.generators, state[1], strict=True):
            generator.set_state(then)

    def _is_as(self, after: State, before: State) -> bool:
        """Whether the weights have moved as they have after the plain steps."""
        weights = self.net.state_dict().values()
        for now, then, start in zip(weights, after[0], before[0], strict=False):
            difference = (now.float() - then.float()).norm()
            if not bool(difference <= SAME * (then.float() - start.float()).norm() + 1e-6):
                return False
        return True


def capture(
    steps: Callable[[], Sums],
    generators: Sequence[torch.Generator],
    stream: torch.cuda.Stream | None,
) -> Callable[[], Sums]:
    """The steps as a CUDA graph: a function that makes them again, on the tensors that they name.

    On a stream of its own, because graphs of one stream share its workspace, and several nets'
    graphs run beside each other.
    """
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    before = torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=stream):
            sums = steps()
    except RuntimeError:
        torch.cuda.set_stream(before)
        # Up to torch 2.12 generators believe that the capture still goes on, and refuse to draw.
        for generator in (*generators, torch.cuda.default_generators[before.device_index]):
            fresh = torch.Generator(generator.device)
            fresh.set_state(generator.get_state())
            generator.graphsafe_set_state(fresh)
        raise

    def replay() -> Sums:
        graph.replay()
        return sums

    return replay
