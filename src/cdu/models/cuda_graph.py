"""A step on a GPU that is captured as a CUDA graph and replayed, so that the GPU does not wait for Python."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from cdu.progress import Progress

Step = Callable[[Tensor], None]

#: Steps before a capture: in them libraries make their handles and workspaces, and convolutions try their algorithms.
WARM_UP = 3


def replayed(step: Step, state: Sequence[Tensor]) -> Step:
    """The same step, captured and replayed where its state is on a CUDA device; elsewhere as it is."""
    return Captured(step, state) if state[0].is_cuda else step


class Captured:
    """``step(rows)``, captured once for each size of batch when it first occurs, and replayed from then on.

    A replay starts the kernels of the capture again, on the memory that they had. So a step must find all that it
    reads, and leave all that it changes, in tensors that stay where they are; it must not read a number back; and
    Python's part of it must not matter. A step that draws random numbers, as dropout does, or cannot be captured is
    run as it is.

    Args:
        step: What to do with the rows of a batch, int64 on a CUDA device.
        state: Every tensor that the step changes; captures leave them as they were.
    """

    def __init__(self, step: Step, state: Sequence[Tensor]) -> None:
        self._step = step
        self._state = list(state)
        self._device = state[0].device
        # A stream of its own: libraries keep a workspace per stream, which steps that run side by side must not share.
        self._stream = torch.cuda.Stream(self._device)
        # Nothing in it outlives a replay, so that the graphs of all sizes can share it.
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[int, tuple[Tensor, torch.cuda.CUDAGraph]] = {}
        self.obstacle = ""

    def __call__(self, rows: Tensor) -> None:
        """One step on the samples of ``rows``."""
        if not self.obstacle and len(rows) not in self._graphs:
            self._capture(rows)
            if self.obstacle:
                Progress.write(f"training goes step by step, more slowly than captured: {self.obstacle}")
        if self.obstacle:
            self._step(rows)
            return
        held, graph = self._graphs[len(rows)]
        held.copy_(rows)
        graph.replay()

    def _capture(self, rows: Tensor) -> None:
        """Capture the step for this number of rows, or note in ``obstacle`` why it cannot be captured."""
        before = [tensor.detach().clone() for tensor in self._state]
        streams = self._random_streams()
        held = rows.clone()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP):
                self._step(held)
            if all(torch.equal(one, other) for one, other in zip(streams, self._random_streams(), strict=True)):
                self._record(held)
            else:
                self.obstacle = "the network draws random numbers"
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        with torch.no_grad():
            for tensor, value in zip(self._state, before, strict=True):
                tensor.copy_(value)
        torch.default_generator.set_state(streams[0])
        torch.cuda.set_rng_state(streams[1], self._device)

    def _record(self, held: Tensor) -> None:
        """Capture on the stream of the warm-up."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                self._step(held)
        except RuntimeError as error:
            # A capture that fails on the device leaves the allocator in the pool, with a reference to its graph, and
            # the generator of random numbers in a state in which it refuses to draw. The next capture ends that.
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
            with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self._stream):
                held.clone()
            self.obstacle = f"it cannot be captured ({str(error).strip().splitlines()[0]})"
            return
        self._graphs[len(held)] = held, graph

    def _random_streams(self) -> tuple[Tensor, Tensor]:
        """The states of PyTorch's global generators, on the CPU and on the device."""
        return torch.default_generator.get_state(), torch.cuda.get_rng_state(self._device)
