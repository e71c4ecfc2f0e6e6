"""Faults of attention in which heads, or queries, keys and values, are taken for each other."""

from typing import Any

from ...layers import Attention
from ..faults import Fault, class_fault
from ..faulty import heads as faulty


def _one_query_a_key(attention: Any) -> bool:
    return bool(attention.kv_heads == attention.heads)


def _has_heads(attention: Any) -> bool:
    return bool(attention.heads > 1)


OF_HEADS: tuple[Fault, ...] = (
    class_fault("q and v exchanged", "queries and values are taken for each other", "takes them as they are",
                "Attention.project", Attention, faulty.QueriesForValues, where=_one_query_a_key),
    class_fault("q, k and v cycled", "queries are taken for keys, keys for values, values for queries",
                "takes them as they are", "Attention.project", Attention, faulty.Cycled, where=_one_query_a_key),
    class_fault("q, k and v cycled back", "queries are taken for values, values for keys, keys for queries",
                "takes them as they are", "Attention.project", Attention, faulty.CycledBack, where=_one_query_a_key),
    class_fault("qkv taken head by head", "the fused product is split head by head",
                "takes it as all q, all k, all v", "Attention.split", Attention, faulty.HeadsForThirds,
                where=lambda attention: attention.kv_heads > 1, steps=("project",)),
    class_fault("heads not brought together", "what heads gather is read head by head", "reads it token by token",
                "Attention.output", Attention, faulty.HeadsApart, where=_has_heads),
    class_fault("softmax over queries", "the softmax goes over the queries of a key",
                "lets it go over the keys of a query", "Attention.probabilities", Attention, faulty.OverQueries,
                where=lambda attention: attention.sinks is None and attention.softcap is None),
    class_fault("mask hides the token itself", "attention sees earlier tokens only", "sees the token itself too",
                "Attention.attend", Attention, faulty.HidesItself),
    class_fault("rotary on queries only", "rotary turns the queries only", "turns queries and keys",
                "Attention.rotate", Attention, faulty.RotaryOnQueriesOnly,
                where=lambda attention: attention.rotary is not None),
)  # fmt: skip
