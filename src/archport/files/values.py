"""What tensors hold: whether two have the same bits, and whether all numbers are finite."""

import torch
from torch import Tensor

PIECE = 1 << 20  # numbers that are cast at a time


def same_bytes(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits: NaN equals itself, and 0.0 is not -0.0."""
    same = a.shape == b.shape and a.dtype == b.dtype
    return same and torch.equal(*(t.contiguous().view(-1).view(torch.uint8) for t in (a, b)))


def same_values(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors are equal once both are cast: NaN equals nothing, and 0.0 is -0.0."""
    if a.shape != b.shape:
        return False
    pieces = zip(torch.split(a.reshape(-1), PIECE), torch.split(b.reshape(-1), PIECE), strict=True)
    return all(torch.equal(one.to(dtype), other.to(dtype)) for one, other in pieces)


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor is free of NaN and infinities.

    Neither leaves a sum finite, so a sum, which is fast, tells most; where it overflows, the smallest and the largest
    number tell, for a NaN is its own minimum.
    """
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    wide = (tensor.float() if tensor.dtype.itemsize == 1 else tensor).detach()
    return bool(wide.sum().isfinite()) or bool(torch.stack(wide.aminmax()).isfinite().all())
