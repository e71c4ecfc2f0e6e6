"""One decoding step in which no shape changes: compiled by torch.compile, and on a GPU captured as one CUDA graph.

With experts, shapes inside it do change, and it is compiled without a graph.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import GenerationError, in_a_line
from ..layers import Cache, Decoder, Experts

WARM_UPS = 3  # runs before a graph is captured, in which libraries choose their kernels and allocate


class FixedShapeCache(Cache, Protocol):
    """A cache in which no shape depends on how much of it is filled: its length is a tensor (1)."""

    length: Tensor
    batch: int
    capacity: int


def has_fixed_shapes(model: Decoder) -> bool:
    """Whether every shape in a step is known before it: not where a router decides how many tokens an expert gets."""
    return not any(isinstance(module, Experts) for module in model.modules())


class CompiledStep:
    """Continues a filled cache by one token a call: (batch, 1) -> logits (batch, vocab_size) in float32.

    `mask` (batch, tokens so far) is false for padding. The logits are overwritten by the next call.

    Raises: GenerationError where torch cannot compile it, as without a C++ compiler.
    Source: the CUDA graphs of https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs.
    """

    def __init__(self, model: Decoder, cache: FixedShapeCache, mask: Tensor | None) -> None:
        device = model.device
        self.ids = torch.zeros(cache.batch, 1, dtype=torch.long, device=device)
        full = None if mask is None else F.pad(mask, (0, cache.capacity - mask.shape[-1]), value=True)

        def step(ids: Tensor) -> Tensor:
            return model.next_logits(ids, mask=full, cache=cache)

        self._compiled: Callable[[Tensor], Tensor] = torch.compile(step, dynamic=False)
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda" and has_fixed_shapes(model):
            self._capture(cache)

    def _step(self, ids: Tensor) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException  # slow to import, but there once something was compiled

        try:
            return self._compiled(ids)
        except TorchDynamoException as error:
            raise GenerationError(f"torch.compile cannot compile a step here: {in_a_line(error)}") from None

    def _capture(self, cache: FixedShapeCache) -> None:
        """Record the step once; what the warm-ups write into the cache lies past its length, and is written over."""
        start = cache.length.clone()
        warm_up = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):
            for _ in range(WARM_UPS):
                self._step(self.ids)
                cache.length.copy_(start)
        torch.cuda.current_stream().wait_stream(warm_up)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._step(self.ids)
        cache.length.copy_(start)

    def __call__(self, ids: Tensor) -> Tensor:
        """The logits after a token for every row."""
        self.ids.copy_(ids)
        if self._graph is None:
            return self._step(self.ids)
        self._graph.replay()
        return self._logits
