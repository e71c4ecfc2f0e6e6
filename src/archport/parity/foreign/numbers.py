"""Usual numbers that a module may have where ours has others: an eps, a rotary base, a width that is turned."""

from collections.abc import Iterator

from torch import nn

from ...layers import Attention, Decoder, LayerNormByHead, RMSNorm, Rotary
from ..faults import Fault, parent, sets

EPS = (1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
BASES = (100.0, 1e3, 1e4, 1e5, 5e5, 1e6)
NORMS = (nn.LayerNorm, RMSNorm, LayerNormByHead)


def number_faults(model: Decoder) -> Iterator[Fault]:
    """A fault for each number that another model has, and this one has not."""
    parts = [*model.modules()]
    for eps in sorted({part.eps for part in parts if isinstance(part, NORMS)}):
        yield from (_eps(value, eps) for value in EPS if value != eps)
    for rotary in {part for part in parts if isinstance(part, Rotary)}:
        yield from (_base(value, rotary.base) for value in BASES if value != rotary.base)
        widest = max(part.head_width for part in parts if isinstance(part, Attention))
        yield from (_width(value, rotary.width) for value in range(2, widest + 1, 2) if value != rotary.width)


def _eps(value: float, right: float) -> Fault:
    return Fault(f"norm eps {value:g}", f"the norm's eps is {value:g}", f"has {right:g}", "Config.norm_eps",
                 NORMS, sets("eps", lambda _: value), where=lambda norm: norm.eps == right)  # fmt: skip


def _base(value: float, right: float) -> Fault:
    return Fault(f"rotary base {value:g}", f"rotary's base is {value:g}", f"has {right:g}", "Rotary(base=...)",
                 Rotary, sets("base", lambda _: value), shows_at=parent)  # fmt: skip


def _width(value: int, right: int) -> Fault:
    return Fault(f"rotary width {value}", f"rotary turns {value} elements of each head", f"turns {right}",
                 "Rotary(width)", Rotary, sets("width", lambda _: value), shows_at=parent)  # fmt: skip
