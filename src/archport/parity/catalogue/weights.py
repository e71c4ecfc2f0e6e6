"""Faults of weights: rounded on their way, or in an order that no key table should give them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import Attention, Decoder
from ..faults import Fault, parent, rows
from ..locate import DECODER

ROWS = ("forward", "project", "split")  # of attention: they give the fused rows their meaning


def _one_query_a_key(attention: Any) -> bool:
    return bool(attention.kv_heads == attention.heads)


def _loses_bits(part: nn.Module, dtype: torch.dtype) -> bool:
    """Whether any of its numbers has more bits; of weights that are not there yet, any may."""
    return any(one.is_meta or not torch.equal(one, _rounded(one, dtype)) for one in part.parameters())


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).to(tensor.dtype)


def _rounding(dtype: torch.dtype) -> tuple[Fault, Fault]:
    """One linear map rounded through a dtype, and the whole model; those of their parameters that are in the port."""
    name = str(dtype).removeprefix("torch.")

    def rounds(names: set[str] | None = None) -> Callable[[nn.Module], None]:
        def plant(part: nn.Module) -> None:
            for key, parameter in part.named_parameters():
                if names is None or key in names:
                    parameter.data = _rounded(parameter.data, dtype)

        return plant

    def where(part: nn.Module) -> bool:
        return _loses_bits(part, dtype)

    def read_one(port: Decoder, right: Decoder) -> Fault | None:
        leaves = {key.rpartition(".")[2] for key in _without_bits(port, right, dtype)}
        return replace(one, plant=rounds(leaves), read=None) if leaves else None

    def read_all(port: Decoder, right: Decoder) -> Fault | None:
        names = _without_bits(port, right, dtype)
        return replace(all_, plant=rounds(names), read=None) if len(names) > 1 else None

    see = "the dtype it was loaded in"
    one = Fault(f"weight rounded through {name}", f"a weight was rounded through {name}", "has all its bits", see,
                nn.Linear, rounds(), where=where, shows_at=parent, read=read_one)  # fmt: skip
    all_ = Fault(f"all weights rounded through {name}", f"all weights were rounded through {name}",
                 "has all their bits", see, Decoder, rounds(), where=where, shows_at=_anywhere,
                 read=read_all)  # fmt: skip
    return one, all_


def _without_bits(port: Decoder, right: Decoder, dtype: torch.dtype) -> set[str]:
    """The parameters of a port that are a right one's rounded through a dtype, where that changes anything."""
    theirs = dict(right.named_parameters())
    pairs = {key: (one.to(theirs[key]), theirs[key]) for key, one in port.named_parameters() if key in theirs}
    return {
        key for key, (ours, exact) in pairs.items()
        if ours.shape == exact.shape and not torch.equal(ours, exact) and torch.equal(ours, _rounded(exact, dtype))
    }  # fmt: skip


def _anywhere(_: str) -> tuple[str, ...]:
    return ("embed", "blocks", "norm", "head", DECODER)


def _reorders(order: list[int]) -> Fault:
    """The blocks of a model in an order."""

    def plant(model: Decoder) -> None:
        model.blocks = nn.ModuleList([model.blocks[number] for number in order])

    words = f"the blocks are in the order {', '.join(map(str, order))}"
    return Fault("blocks in another order", words, "counts from 0 up", "the layer numbers in the key table", Decoder,
                 plant, shows_at=lambda _: ("blocks",))  # fmt: skip


def _order_in(port: Decoder, right: Decoder) -> Fault | None:
    """That order of a right port's blocks which another has, by their weights."""
    theirs = [block.state_dict() for block in right.blocks]
    order = [number for block in port.blocks for number, state in enumerate(theirs) if _same(block.state_dict(), state)]
    return _reorders(order) if sorted(order) == [*range(len(theirs))] != order else None


def _same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(one.to(theirs[name]), theirs[name]) for name, one in ours.items()
    )


def _reverses(model: Decoder) -> None:
    _reorders([*reversed(range(len(model.blocks)))]).plant(model)


OF_WEIGHTS: tuple[Fault, ...] = (
    *_rounding(torch.bfloat16),
    *_rounding(torch.float16),
    Fault("heads reversed in the file", "the heads of qkv are in reverse", "has them in order",
          "the row of attn.qkv in the key table", Attention, rows(lambda slots: slots.flip(0)),
          where=lambda attention: attention.kv_heads > 2, steps=ROWS),
    Fault("q, k and v cycled in the file", "rows of queries hold keys, of keys values, of values queries",
          "has each in its place", "the row of attn.qkv in the key table", Attention,
          rows(lambda slots: slots[:, [1, 2, 0]]), where=_one_query_a_key, steps=ROWS, weights_only=True),
    Fault("q, k and v cycled back in the file", "rows of queries hold values, of keys queries, of values keys",
          "has each in its place", "the row of attn.qkv in the key table", Attention,
          rows(lambda slots: slots[:, [2, 0, 1]]), where=_one_query_a_key, steps=ROWS, weights_only=True),
    Fault("blocks in another order", "the blocks are in reverse", "counts from 0 up",
          "the layer numbers in the key table", Decoder, _reverses, where=lambda model: len(model.blocks) > 1,
          shows_at=lambda _: ("blocks",), read=_order_in),
)  # fmt: skip
