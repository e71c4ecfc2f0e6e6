"""Lines about train mode: without dropout the same logits as ever, and dropout where the reference has it.

Both draw alike: what is dropped depends on how many numbers there are, and on nothing else.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ...layers import Decoder
from ..budget import Check, hold
from ..compare import Comparison
from ..outputs import logits
from ..settings import without_dropout

TRAIN, DROPPED = "logits, train mode", "logits, dropout drawn alike"


def train_mode(comparison: Comparison, port: Decoder) -> Check:
    """Logits in train mode, with all dropout rates at 0."""
    with without_dropout():
        in_train_mode = logits(copy.deepcopy(port).train(), comparison.first_ids)
    return comparison.of_logits(TRAIN, in_train_mode, comparison.first)


def dropped(comparison: Comparison, port: Decoder) -> Iterator[Check]:
    """Logits in train mode, both dropping the same; no line where neither drops, or where a port draws by itself."""
    drawn = drawn_alike()
    ours = dropped_logits(port, comparison.short, drawn)
    exact = dropped_logits(comparison.exact, comparison.short, drawn)
    if not drawn.count:
        return
    if not torch.equal(ours, dropped_logits(port, comparison.short, drawn)):
        return
    yield comparison.held(
        lambda model: hold(DROPPED, ours, dropped_logits(model, comparison.short, drawn), exact, comparison.dtype)
    )


class drawn_alike(TorchFunctionMode):
    """Lets dropout draw by the number of elements alone, so that who drops the same tensor drops the same of it.

    `count` says how often something was dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func in (F.dropout, torch.dropout):
            return self._drop(*args, **kwargs)
        return func(*args, **kwargs)

    def _drop(self, input: Tensor, p: float = 0.5, training: bool = True, *_: Any, **how: Any) -> Tensor:
        if not how.get("train", training) or not p:
            return input
        self.count += 1
        generator = torch.Generator().manual_seed(input.numel())
        kept = torch.rand(input.numel(), generator=generator).view(input.shape).to(input.device) >= p
        return input * kept / (1 - p)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention whose probabilities are dropped as those that are a tensor of their own."""
        if not dropout_p:
            how: dict[str, Any] = {"attn_mask": attn_mask, "is_causal": is_causal, "scale": scale}
            return F.scaled_dot_product_attention(query, key, value, enable_gqa=enable_gqa, **how)
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
        scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.transpose(-1, -2)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            boolean = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if boolean else scores + attn_mask
        return self._drop(scores.softmax(-1), dropout_p) @ value


def dropped_logits(model: nn.Module, ids: Tensor, drawn: drawn_alike | None = None) -> Tensor:
    """Logits of a model in train mode that drops what any other model drops in tensors of the same size."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        with drawn or drawn_alike():
            return logits(model, ids)
    finally:
        for module, training in modes.items():
            module.training = training
