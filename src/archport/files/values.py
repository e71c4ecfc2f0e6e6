"""What tensors hold: whether two have the same bits, and whether all numbers are finite."""

import torch
from torch import Tensor


def same_bytes(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits: NaN equals itself, and 0.0 is not -0.0."""
    same = a.shape == b.shape and a.dtype == b.dtype
    return same and torch.equal(*(t.contiguous().view(-1).view(torch.uint8) for t in (a, b)))


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor is free of NaN and infinities; a NaN is its own minimum, so two numbers tell."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    return bool(torch.isfinite(torch.stack(wide.detach().aminmax())).all())
