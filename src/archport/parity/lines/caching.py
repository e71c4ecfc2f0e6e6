"""Lines about the cache: logits that go through it in pieces, with padding, far, and into a static one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...layers import Decoder
from ..budget import Check, by_severity, hold
from ..compare import Comparison
from ..passes import (
    cached_logits,
    long_pieces,
    padded_logits,
    padded_pieces,
    padded_rows,
    pieces,
    step_pieces,
    stepped_logits,
)
from .padding import of_two_rows

CACHED, CACHED_FAR = "logits, cached", "logits, cached, long text"
CACHED_PADDED = "logits, cached, left-padded"
STATIC, COMPILED = "next tokens, static cache", "next tokens, compiled"


def cached(comparison: Comparison, port: Decoder) -> Check:
    """Logits made through a cache: one token, several, and the last ones each alone."""
    return _cached(comparison, port, CACHED, comparison.first)


def cached_far(comparison: Comparison, port: Decoder) -> Check:
    """Logits of the longest text, made through a cache in few pieces."""
    return _cached(comparison, port, CACHED_FAR, comparison.longest)


def _cached(comparison: Comparison, port: Decoder, name: str, on: str) -> Check:
    ids = comparison.ids[on]
    bounds = (pieces if on == comparison.first else long_pieces)(ids.shape[-1])
    ours = cached_logits(port, ids, bounds)
    if not comparison.follows_length:
        return comparison.of_logits(name, ours, on)
    exact = cached_logits(comparison.exact, ids, bounds)
    return comparison.held(lambda model: hold(name, ours, cached_logits(model, ids, bounds), exact, comparison.dtype))


def cached_padded(comparison: Comparison, port: Decoder) -> Check:
    """Logits of two rows, one of them padded, through a cache: as where prompts of two lengths are continued."""
    bounds = padded_pieces(comparison.first_ids.shape[-1])

    def made(model: nn.Module) -> Tensor:
        return padded_logits(model, comparison.first_ids, bounds=bounds)

    return of_two_rows(comparison, CACHED_PADDED, made(port), made)


def static(comparison: Comparison, port: Decoder) -> Check:
    """Tokens added one by one to a cache in which no shape changes, with and without padding."""
    return _stepped(comparison, port, STATIC, compiled=False)


def compiled(comparison: Comparison, port: Decoder) -> Check:
    """The same, by the step that `generate(compiled=True)` compiles."""
    return _stepped(comparison, port, COMPILED, compiled=True)


def _stepped(comparison: Comparison, port: Decoder, name: str, *, compiled: bool) -> Check:
    ids = comparison.first_ids[:2]
    rows, mask = padded_rows(ids, "left")
    bounds = step_pieces(ids.shape[-1])
    count = len(bounds) - 1

    def of_plain(model: nn.Module) -> Tensor:
        theirs = cached_logits(model, ids, bounds) if comparison.follows_length else comparison.logits(model)[:2]
        return theirs[:, -count:]

    def of_padded(model: nn.Module) -> Tensor:
        same = comparison.follows_length
        both = padded_logits(model, ids, bounds=bounds) if same else comparison.rows_alone(model)
        return torch.cat([row[:, -count:] for row in both.split([ids.shape[-1], both.shape[1] - ids.shape[-1]], dim=1)])

    def line(ours: Tensor, of: Callable[[nn.Module], Tensor]) -> Check:
        exact = of(comparison.exact)
        return comparison.held(lambda model: hold(name, ours, of(model), exact, comparison.dtype))

    checks = [line(stepped_logits(port, ids, compiled=compiled), of_plain)]
    if mask[:, bounds[1] - 1].all():  # else a row would be padding alone, or go on with it
        checks.append(line(stepped_logits(port, rows, mask, compiled=compiled), of_padded))
    return max(checks, key=by_severity)
