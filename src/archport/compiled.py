"""One decoding step in which no shape changes: compiled by torch.compile, and on a GPU captured as one CUDA graph."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .cache import KVCache
from .errors import GenerationError, in_a_line
from .layers import Decoder

WARM_UPS = 3  # runs before a graph is captured, in which libraries choose their kernels and allocate


@dataclass
class _WholeLayer:
    """One layer of a cache that gives all of its room back; what is not filled yet, a mask leaves out."""

    keys: Tensor  # (batch, heads, capacity, head_width)
    values: Tensor
    length: Tensor

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (batch, heads, 1, head_width) of each after what is there."""
        self.keys.index_copy_(2, self.length, k)
        self.values.index_copy_(2, self.length, v)
        return self.keys, self.values


class _WholeCache:
    """A KVCache, its memory and all, whose length is a tensor (1)."""

    def __init__(self, cache: KVCache, device: torch.device) -> None:
        self.capacity = cache.capacity
        self.length = torch.tensor([cache.length], device=device)
        self.layers = [_WholeLayer(layer.keys, layer.values, self.length) for layer in cache.layers]
        for layer in self.layers:  # what is masked counts 0 times, and 0 times NaN would be NaN
            layer.keys[:, :, cache.length :] = 0
            layer.values[:, :, cache.length :] = 0

    def keys(self, seq: int) -> int:  # noqa: ARG002  # however many are added
        """How many keys a layer gives back."""
        return self.capacity

    def advance(self, seq: int) -> None:
        """Count tokens that were added."""
        self.length.add_(seq)


class CompiledStep:
    """Goes on from a filled cache by one token a call: (batch, 1) -> logits (batch, vocab_size) in float32.

    `mask` (batch, tokens so far) is false for padding. The logits are overwritten by the next call.

    Raises: GenerationError where torch cannot compile it, as without a C++ compiler.
    Source: the CUDA graphs of https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs.
    """

    def __init__(self, model: Decoder, cache: KVCache, mask: Tensor | None) -> None:
        device = model.norm.weight.device
        self.ids = torch.zeros(cache.batch, 1, dtype=torch.long, device=device)
        whole = _WholeCache(cache, device)
        full = None if mask is None else F.pad(mask, (0, cache.capacity - mask.shape[-1]), value=True)

        def step(ids: Tensor) -> Tensor:
            return model.next_logits(ids, mask=full, cache=whole)

        self._compiled: Callable[[Tensor], Tensor] = torch.compile(step, dynamic=False)
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._capture(whole)

    def _step(self, ids: Tensor) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException  # slow to import, but there once something was compiled

        try:
            return self._compiled(ids)
        except TorchDynamoException as error:
            raise GenerationError(f"torch.compile cannot compile a step here: {in_a_line(error)}") from None

    def _capture(self, whole: _WholeCache) -> None:
        """Record the step once; what the warm-ups write into the cache lies past its length, and is written over."""
        start = whole.length.clone()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self._step(self.ids)
                whole.length.copy_(start)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._step(self.ids)
        whole.length.copy_(start)

    def __call__(self, ids: Tensor) -> Tensor:
        """The logits after a token for every row."""
        self.ids.copy_(ids)
        if self._graph is None:
            return self._step(self.ids)
        self._graph.replay()
        return self._logits
