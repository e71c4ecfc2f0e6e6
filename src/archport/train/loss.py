"""The loss that trains a model, made for a few tokens at a time, so that never all logits are held."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.checkpoint import checkpoint

from ..checking import shown
from ..config import dtype_name
from ..errors import ConfigError
from ..fast.linears import is_swapped
from ..keywords import strict_keywords
from ..layers import Decoder
from ..observing import is_observed

NONE = -100  # a target that does not count, as in torch and transformers
REDUCTIONS = ("mean", "sum", "none")
OWN = ("forward", "logits")  # methods of a Decoder that a loss in chunks goes around
FSDP = "torch.distributed.fsdp"
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


@strict_keywords
def loss(
    model: Decoder,
    ids: Tensor,
    targets: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    reduction: str = "mean",
    chunk: int = 128,
) -> Tensor:  # (batch, seq) -> (), or (batch, seq) where the reduction is none
    """Cross-entropy of the token that follows each prefix, in nats, in float32 or wider; `backward` goes through it.

    `targets` (batch, seq) are the tokens that follow, -100 for one that does not count; unless given, each next one of
    `ids`. `mask` (batch, seq) is true for tokens, false for padding, which is not seen, does not follow, and is not
    followed. Logits are held of `chunk` tokens at once, and their gradients made with them;
    without reduction they are made again in the backward pass. All are held at once, as the model makes them, where it
    is observed, has hooks or other methods, its head is not one plain linear map, or this is compiled or on meta.
    Raises: ConfigError, ValueError.

    Source: Liger Kernel, arXiv 2410.10989.
    """
    _require(model, reduction, chunk)
    whole = torch.compiler.is_compiling() or model.device.type == "meta" or not _has_plain_head(model)
    made = model(ids, mask=mask) if whole else model.stream(ids, mask=mask)
    following = _following(ids, targets, mask).flatten()
    try:
        if whole:
            losses = _losses(made.flatten(0, 1), following, reduction)
        else:
            losses = _in_chunks(model, model.norm(made).flatten(0, 1), following, reduction, chunk)
    except IndexError:
        size = model.config.vocab_size
        outside = following[(following != NONE) & ((following < 0) | (following >= size))].tolist()
        if not outside:
            raise
        raise ValueError(f"target {outside[0]}, expected 0 to {size - 1}, or {NONE} for none") from None
    return losses.view(ids.shape) if reduction == "none" else losses


def _require(model: Any, reduction: Any, chunk: Any) -> None:
    faults = {}
    if not isinstance(model, Decoder):
        faults["model"] = f"found a {type(model).__name__}, expected a Decoder of archport"
    elif is_swapped(model):
        faults["model"] = (
            "its linear maps are direct, packed or quantised, and only go forward: load it without linears"
        )
    if reduction not in REDUCTIONS:
        faults["reduction"] = f"found {shown(reduction)}, expected {', '.join(REDUCTIONS)}"
    if type(chunk) is not int or chunk < 1:
        faults["chunk"] = f"found {shown(chunk)}, expected a whole number from 1"
    if faults:
        raise ConfigError(faults, "loss")


def _following(ids: Tensor, targets: Any, mask: Tensor | None) -> Tensor:  # (batch, seq), same out
    """The token after each, or NONE. Raises: ValueError."""
    known = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    if targets is None:
        targets = F.pad(ids.masked_fill(~known, NONE), (0, 1), value=NONE)[:, 1:]
    if not isinstance(targets, Tensor):
        raise ValueError(f"targets: found a {type(targets).__name__}, expected a tensor (batch, seq)")
    if targets.shape != ids.shape:
        raise ValueError(f"targets of shape {tuple(targets.shape)}, expected {tuple(ids.shape)}, a token for each")
    if targets.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"targets: found {dtype_name(targets.dtype)}, expected int64 or int32")
    return targets.masked_fill(~known, NONE).long()


def _has_plain_head(model: Decoder) -> bool:
    """Whether logits are one linear map and a finish that learns nothing, and nobody looks on or stands in."""
    after = [model.head, *(() if model.finish is None else model.finish.modules())]
    learns = model.finish is not None and any(True for _ in model.finish.parameters())
    hooks = [hook for part in after for hook in _hooks(part)]
    # FSDP's of the model itself are there for its stream too: archport.parallel.shard.
    hooks += [hook for hook in _hooks(model) if not str(getattr(hook, "__module__", "")).startswith(FSDP)]
    hooked = bool(hooks or _has_any_global_hook()) or is_observed(model)  # type: ignore[no-untyped-call]
    patched = any("forward" in vars(part) for part in after) or not all(_is_own(model, name) for name in OWN)
    return type(model.head) is nn.Linear and not learns and not hooked and not patched


def _is_own(model: Decoder, method: str) -> bool:
    """Whether a method is the one that every Decoder has."""
    return method not in vars(model) and getattr(type(model), method) is getattr(Decoder, method)


def _hooks(part: nn.Module) -> Iterator[Any]:
    return (hook for kind in HOOKS for hook in vars(part)[kind].values())


def _in_chunks(
    model: Decoder, hidden: Tensor, following: Tensor, reduction: str, chunk: int
) -> Tensor:  # (tokens, width), (tokens) -> (tokens) or ()
    """The losses of tokens from what the head reads."""
    if reduction == "none" or not torch.is_grad_enabled():
        parts = [slice(start, start + chunk) for start in range(0, max(1, len(hidden)), chunk)]
        again = partial(checkpoint, _losses_after, model, use_reentrant=False)
        losses = torch.cat([again(hidden[part], following[part]) for part in parts])
        return losses if reduction == "none" else losses.sum() / _count(following, reduction)
    given: list[Tensor | None] = [hidden, model.head.weight, model.head.bias]
    if torch.is_autocast_enabled(hidden.device.type):  # which does not look into the sum
        dtype = torch.get_autocast_dtype(hidden.device.type)
        given = [None if part is None else part.to(dtype) for part in given]
    count = _count(following, reduction)
    total: Tensor = _Sum.apply(*given, model.finish, following, count, chunk)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """The losses of tokens, summed and divided; the gradients of each chunk of logits are made before it is let go."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        finish: nn.Module | None,
        following: Tensor,
        count: Tensor,
        chunk: int,
    ) -> Tensor:  # (tokens, width), (vocab_size, width), (vocab_size) -> ()
        """Sums in float32 or wider; divided last, for what half precision would lose."""
        ctx.dtype, wide = hidden.dtype, torch.promote_types(hidden.dtype, torch.float32)
        of_hidden, of_weight, of_bias = (
            torch.zeros_like(part, dtype=wide) if part is not None and needed else None
            for part, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        )
        total = torch.zeros((), dtype=wide, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            lost, of_logits = _with_gradient(F.linear(hidden[rows], weight, bias), finish, following[rows])
            total += lost
            if of_hidden is not None:
                of_hidden[rows] = of_logits @ weight
            if of_weight is not None:
                _add_product(of_weight, of_logits.T, hidden[rows])
            if of_bias is not None:
                of_bias += of_logits.sum(0, dtype=wide)
        # Where no target counts the loss is 0 / 0, but the gradients are zeros, as torch's are.
        gradients = [
            None if part is None else part.div_(count.clamp(min=1)) for part in (of_hidden, of_weight, of_bias)
        ]
        ctx.save_for_backward(*gradients)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by: Tensor) -> tuple[Tensor | None, ...]:
        """They are there already."""
        parts = (part if part is None or by == 1 else part * by for part in ctx.saved_tensors)
        return *(None if part is None else part.to(ctx.dtype) for part in parts), None, None, None, None


def _with_gradient(logits: Tensor, finish: nn.Module | None, following: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of losses, and its gradient by the logits (tokens, vocab_size)."""
    with torch.enable_grad():
        logits.requires_grad_()
        lost = _losses(logits if finish is None else finish(logits), following, "sum")
    [gradient] = torch.autograd.grad(lost, logits)
    return lost.detach(), gradient


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a product, without making it first where it has the dtype of the total."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _losses_after(model: Decoder, hidden: Tensor, following: Tensor) -> Tensor:  # (tokens, width) -> (tokens)
    logits = model.head(hidden)
    return _losses(logits if model.finish is None else model.finish(logits), following, "none")


def _losses(logits: Tensor, following: Tensor, reduction: str) -> Tensor:  # (tokens, vocab_size) -> (tokens) or ()
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, following, ignore_index=NONE, reduction=reduction)


def _count(following: Tensor, reduction: str) -> Tensor:
    """What a sum is divided by."""
    return (following != NONE).sum() if reduction == "mean" else following.new_ones(())
