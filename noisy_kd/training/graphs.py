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

Shapes = tuple[torch.Size, ...]
Replay = tuple[list[Tensor], Callable[[], Sums]]
"""The tensors that a graph reads, and its launch."""

SAME = 0.05  # difference of a weight tensor, relative to its movement, that counts as none
SAME_IN_BF16 = 0.15  # the same for compiled steps, which round elsewhere


class Graphed:
    """Some training steps, as a graph after two calls if that is the same and faster.

    The first call with inputs of some shapes lets the optimiser make its state; at the second the
    steps are made both ways from the same start, and compared. Then so for other shapes: those of
    an epoch's last, shorter chunk.

    Args:
        steps: of tensors; it changes nothing but the net, the optimiser's state and the generators.
        net: that is trained.
        optimizer: of the net; its state and its learning rate are tensors on the device.
        generators: that the steps draw from.
        compiled: the same steps in a faster way, for the shapes of the first call; None if there is
            none.
    """

    def __init__(
        self,
        steps: Callable[..., Sums],
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        generators: Sequence[torch.Generator],
        compiled: Callable[..., Sums] | None = None,
    ) -> None:
        self.steps, self.net, self.optimizer, self.generators = steps, net, optimizer, generators
        self.compiled = compiled
        self.device = next(net.parameters()).device
        on_gpu = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if on_gpu else None
        self.replays: dict[Shapes, Replay | None] = {}
        self._seen: list[Shapes] = []

    def __call__(self, *inputs: Tensor) -> Sums:
        """Make the steps; on a GPU perhaps beside other work, see :meth:`join`."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._seen:
            self._seen.append(shapes)
            return self.steps(*inputs)
        if shapes not in self.replays:
            return self._try(shapes, inputs)
        replay = self.replays[shapes]
        return self.steps(*inputs) if replay is None else self._launch(replay, inputs)

    def join(self) -> None:
        """Let what follows wait for the steps."""
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def _launch(self, replay: Replay, inputs: Sequence[Tensor]) -> Sums:
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for mine, given in zip(replay[0], inputs, strict=True):
                mine.copy_(given, non_blocking=True)
            return replay[1]()

    def _try(self, shapes: Shapes, inputs: Sequence[Tensor]) -> Sums:
        """Make the steps in each way from the same start; keep the first graph that is worth it."""
        before = self._state()
        sums, seconds = self._timed(partial(self.steps, *inputs))
        after = self._state()
        held = [tensor.to(self.device, copy=True) for tensor in inputs]
        is_first = self.compiled is not None and shapes == self._seen[0]
        self.replays[shapes] = None
        for steps in [self.compiled] * is_first + [self.steps]:
            assert steps is not None
            make = partial(steps, *held)
            try:
                if steps is self.compiled:
                    self._restore(before)
                    make()  # is compiled now
                self._restore(before)
                replay = capture(make, self.generators, self.stream)
                self._timed(replay)  # the first launch also uploads it
                self._restore(before)
                again, graph_seconds = self._timed(replay)
                reason = "" if graph_seconds < seconds else "is not faster"
                same = SAME_IN_BF16 if steps is self.compiled else SAME
                reason = reason if self._is_as(after, before, same) else "gives other numbers"
            except RuntimeError as error:
                reason = f"cannot be made ({str(error).splitlines()[0]})"
            if not reason:
                self.replays[shapes] = held, replay
                return {name: tensor + 0 for name, tensor in again.items()}
            kind = "compiled steps" if steps is self.compiled else "the steps"
            log.info("Without a CUDA graph: one of %s %s.", kind, reason)
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

    def _is_as(self, after: State, before: State, same: float) -> bool:
        """Whether the weights have moved as they have after the plain steps."""
        weights = self.net.state_dict().values()
        for now, then, start in zip(weights, after[0], before[0], strict=False):
            difference = (now.float() - then.float()).norm()
            if not bool(difference <= same * (then.float() - start.float()).norm() + 1e-6):
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
