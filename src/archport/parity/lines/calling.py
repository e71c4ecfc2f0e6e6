"""Lines about other ways to call a model: ids of another type, positions that are given, autocast, and once more."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import Decoder
from ...observing import hooked
from ..budget import Check, allowed, hold, largest
from ..compare import Comparison
from ..outputs import logits
from ..passes import autocast_logits, next_logits, positioned_logits, takes_positions
from ..running import RaisedError

INT32, POSITIONS, NEXT = "logits, int32 ids", "logits, positions given", "next tokens"
AUTOCAST, AGAIN = "logits, autocast", "logits, run again"


def int32_ids(comparison: Comparison, port: Decoder) -> Check:
    """Logits of ids of 32 bits."""
    return comparison.of_logits(INT32, logits(port, comparison.first_ids.int()), comparison.first)


def positions_given(comparison: Comparison, port: Decoder) -> Iterator[Check]:
    """Logits with positions that do not count from 0, where the reference can be given any."""
    if not takes_positions(comparison.reference):
        return
    made = partial(positioned_logits, ids=comparison.short, first=comparison.first_position)
    ours, exact = made(port), made(comparison.exact)
    yield comparison.held(lambda model: hold(POSITIONS, ours, made(model), exact, comparison.dtype))


def next_tokens(comparison: Comparison, port: Decoder) -> Check:
    """What `next_logits` says of two rows, one of them padded: the last of the reference's logits."""
    ours = next_logits(port, comparison.first_ids)
    last = comparison.first_ids.shape[-1] - 1, -1

    def of(model: nn.Module) -> Tensor:
        return comparison.rows_alone(model)[0, last][:, None]

    exact = of(comparison.exact)
    return comparison.held(lambda model: hold(NEXT, ours, of(model), exact, comparison.dtype))


def autocast(comparison: Comparison, port: Decoder) -> Iterator[Check]:
    """Logits under autocast to bfloat16, where the reference has any; rounding may choose other experts there."""
    if comparison.dtype != torch.float32 or comparison.chooses:
        return
    try:
        theirs = autocast_logits(comparison.reference, comparison.short)
    except RaisedError:
        return
    exact = logits(comparison.exact, comparison.short)
    yield hold(AUTOCAST, autocast_logits(port, comparison.short), theirs.double(), exact, torch.bfloat16)


def again(comparison: Comparison, port: Decoder) -> Check:
    """The same ids before and after others: nothing is remembered, nothing is drawn. GPUs may add in another order."""
    first, _, second = (logits(port, ids) for ids in (comparison.short, comparison.short[:, :1], comparison.short))
    budget = 0.0 if first.device.type == "cpu" else allowed(0.0, largest(first), comparison.dtype)
    changed = largest(second - first)
    return Check(AGAIN, changed, 0.0, budget, "" if changed <= budget else _first_to_change(port, comparison.short))


def _first_to_change(port: Decoder, ids: Tensor) -> str:
    """The first module that makes other numbers in a second run."""
    first, second = (_made(port, ids) for _ in range(2))
    return next((name for name, made in first.items() if not torch.equal(made, second[name])), "")


def _made(port: Decoder, ids: Tensor) -> dict[str, Tensor]:
    """What the modules make, in the order in which they are done."""
    made: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: Any, ___: Any, result: Any) -> None:
        if isinstance(result, Tensor):
            made[name] = result.clone()

    with hooked({name: module for name, module in port.named_modules() if name}, after=keep):
        logits(port, ids)
    return made
