"""Products of float32 matrices by oneDNN where torch leaves them to MKL, forward and backward: to train on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .direct import by_onednn

FEW = 16  # rows or columns: with fewer, nothing is gained


@contextmanager
def onednn_products() -> Iterator[None]:
    """Inside, large products of float32 matrices on a CPU are oneDNN's: the same numbers, added in another order.

    On an AMD EPYC with AVX-512 it was much faster than MKL, which gains nothing from AVX-512 there. Without it oneDNN
    was a little faster where no matrix has to be turned, which is forward. Where torch has no oneDNN, nothing changes.
    """
    if torch._C._has_mkldnn:
        with _OneDNN():
            yield
    else:
        yield


class _OneDNN(TorchDispatchMode):
    """Sees every operator of a pass, and answers two of them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.turns = torch.backends.cpu.get_cpu_capability() == "AVX512"

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator is torch.ops.aten.mm.default and self.takes(*args):
            return by_onednn(args[0], args[1].T, None)
        if operator is torch.ops.aten.addmm.default and not kwargs and self.takes(*args[1:]):
            bias, a, b = args
            if bias.shape == b.shape[1:] and bias.dtype == b.dtype:
                return by_onednn(a, b.T, bias.contiguous())
        return operator(*args, **(kwargs or {}))

    def takes(self, a: Tensor, b: Tensor) -> bool:  # (rows, in), (in, out)
        """Whether oneDNN is faster here."""
        fits = a.device.type == "cpu" and a.dtype == b.dtype == torch.float32 and min(*a.shape, *b.shape) >= FEW
        return fits and (self.turns or (a.is_contiguous() and b.T.is_contiguous()))
