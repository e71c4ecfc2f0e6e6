"""What forward passes for inference need around them: eval mode, and the place of a number that is not finite."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..config import dtype_name
from ..layers import Decoder
from ..observing import hooked


@contextmanager
def in_eval_mode(model: Decoder) -> Iterator[None]:
    """Without dropout, and afterwards each module as it was."""
    with evaluating([module for module in model.modules() if module.training]):
        yield


@contextmanager
def evaluating(training: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules that are in train mode into eval mode for a while."""
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.inference_mode()
def first_overflow(model: Decoder, ids: Tensor, mask: Tensor | None) -> str:
    """Which module is the first to make something that is not finite, in words."""
    names: list[str] = []

    def watch(name: str, _: nn.Module, __: Any, ___: Any, result: Any) -> None:
        if isinstance(result, Tensor) and not torch.isfinite(result).all():
            names.append(name)

    with hooked({name: module for name, module in model.named_modules() if name}, after=watch):
        model(ids, mask=mask)
    where = names[0] if names else "the head"
    dtype = model.dtype
    small = dtype == torch.float16
    advice = "load it in bfloat16 or float32" if small else "its weights may not be finite either, see check_finite"
    return f"{where} makes numbers that are not finite in {dtype_name(dtype)}: {advice}"
