"""Faults of attention in which heads, or queries, keys and values, are taken for each other."""

import copy
from typing import Any

from ...layers import Attention, Rotary
from ..faults import Fault, class_fault
from ..faulty import heads as faulty


def _one_query_a_key(attention: Any) -> bool:
    return bool(attention.kv_heads == attention.heads)


def _has_heads(attention: Any) -> bool:
    return bool(attention.heads > 1)


def _shares_keys(attention: Any) -> bool:
    return bool(1 < attention.kv_heads < attention.heads)


def _has_bias(attention: Any) -> bool:
    fused = getattr(attention, "qkv", None)  # which a class of one's own may not have
    return getattr(fused, "bias", None) is not None and attention.clip is None


def _places(attention: Any) -> bool:
    """Whether a key's place or a norm lets its bias count: else it adds the same to all scores of a query."""
    return attention.rotary is not None or attention.k_norm is not None


def _turns_part_of_the_head(attention: Any) -> bool:
    rotary = attention.rotary
    return isinstance(rotary, Rotary) and 2 < rotary.width < attention.head_width and rotary.scaling is None


def _divides_by_the_head(attention: Any) -> None:
    attention.rotary = copy.deepcopy(attention.rotary)
    attention.rotary.base **= attention.rotary.width / attention.head_width


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
    class_fault("keys tiled", "keys take turns among the queries", "gives each to queries that follow one another",
                "Attention.for_queries", Attention, faulty.TiledKeys, where=_shares_keys),
    class_fault("values tiled", "values take turns among the queries", "gives each to queries that follow one another",
                "Attention.for_queries", Attention, faulty.TiledValues, where=_shares_keys),
    class_fault("softmax in bfloat16", "softmax is computed in bfloat16", "computes it in float32",
                "Attention.probabilities", Attention, faulty.RoundedSoftmax,
                where=lambda attention: attention.sinks is None),
    class_fault("bias of keys dropped", "keys have no bias", "adds one", "Linear(bias=...) of attn.qkv", Attention,
                faulty.NoKeyBias, where=lambda attention: _has_bias(attention) and _places(attention)),
    class_fault("bias of values dropped", "values have no bias", "adds one", "Linear(bias=...) of attn.qkv", Attention,
                faulty.NoValueBias, where=_has_bias),
    Fault("rotary exponents over the whole head", "rotary's exponents are divided by the head's width",
          "divides by the width that it turns", "Rotary.frequencies", Attention, _divides_by_the_head,
          where=_turns_part_of_the_head, steps=("forward", "rotate")),
    class_fault("mask hides the token itself", "attention sees earlier tokens only", "sees the token itself too",
                "Attention.attend", Attention, faulty.HidesItself),
    class_fault("rotary on queries only", "rotary turns the queries only", "turns queries and keys",
                "Attention.rotate", Attention, faulty.RotaryOnQueriesOnly,
                where=lambda attention: attention.rotary is not None),
)  # fmt: skip
