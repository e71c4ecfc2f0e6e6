"""Faults of attention, its masks and its rotary positions."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import (
    AcrossHeads,
    Alibi,
    Attention,
    Chunked,
    LongRope,
    NormedLastAttention,
    RMSNorm,
    Rotary,
    Sinks,
    Window,
)
from ..faults import Fault, class_fault, parent, rows, sets
from ..faulty import attention as faulty
from .parts import bias


def _one_query_a_key(attention: Any) -> bool:
    return bool(attention.kv_heads == attention.heads)


def _has_groups(attention: Any) -> bool:
    return bool(attention.kv_heads > 1)


def _shares_keys(attention: Any) -> bool:
    return bool(1 < attention.kv_heads < attention.heads)


def _is_rotated(attention: Any) -> bool:
    return attention.rotary is not None


def _turns_part_of_the_head(attention: Any) -> bool:
    rotary = attention.rotary
    fixed = isinstance(rotary, Rotary) and isinstance(rotary.scaling, LongRope)  # a factor for each of its pairs
    return isinstance(rotary, Rotary) and rotary.width < attention.head_width and not fixed


def _is_scaled(attention: Any) -> bool:
    return bool(attention.scale != 1.0)


def _keeps_the_width(attention: Any) -> bool:
    out = attention.out
    return isinstance(out, nn.Linear) and out.in_features == out.out_features > 1


def _norms(attention: Any) -> bool:
    return attention.q_norm is not None or attention.k_norm is not None


def _norms_and_turns(attention: Any) -> bool:
    return _norms(attention) and _is_rotated(attention)


def _norms_each_head(attention: Any) -> bool:
    return all(isinstance(norm, RMSNorm) for norm in (attention.q_norm, attention.k_norm)) and attention.kv_heads > 1


def _norms_alike(attention: Any) -> bool:
    both = attention.q_norm, attention.k_norm
    shapes = [[p.shape for p in norm.parameters()] for norm in both if norm is not None]
    return len(shapes) == 2 and shapes[0] == shapes[1] != []


def _is_odd(alibi: Any) -> bool:
    return bool(alibi.heads & (alibi.heads - 1))


def _read_as_thirds(slots: Tensor) -> Tensor:
    group, flat = slots.shape[1] - 2, slots.flatten(0, 1)
    q, k, v = flat.split((group * len(slots), len(slots), len(slots)))
    return torch.cat((q.unflatten(0, (-1, group)), k[:, None], v[:, None]), dim=1)


def _read_by_group(slots: Tensor) -> Tensor:
    return torch.cat((slots[:, :-2].flatten(0, 1), slots[:, -2], slots[:, -1])).view(slots.shape)


def _moves_queries(slots: Tensor) -> Tensor:
    return torch.cat((slots[:, :-2].roll(1, 1), slots[:, -2:]), dim=1)


def _exchanges_norms(attention: Any) -> None:
    attention.q_norm, attention.k_norm = attention.k_norm, attention.q_norm


def _turns_the_whole_head(attention: Any) -> None:
    attention.rotary = copy.deepcopy(attention.rotary)
    attention.rotary.width = attention.head_width


def _base(value: int) -> Fault:
    return Fault(f"rotary base {value}", f"rotary's base is {value}", "uses another one", "Rotary(base=...)",
                 Rotary, sets("base", lambda _: float(value)), where=lambda rotary: rotary.base != value,
                 steps=("forward", "frequencies"), shows_at=parent)  # fmt: skip


def _pairing(here: str, there: str) -> Fault:
    words = {"halves": "halves (i, i + width / 2)", "neighbours": "neighbours (2i, 2i + 1)"}
    return Fault(f"rotary {here}", f"rotary pairs {words[here]}", f"turns {words[there]}", "Rotary(pairing=...)",
                 Rotary, sets("pairing", lambda _: here),
                 where=lambda rotary: rotary.pairing == there,
                 steps=("forward", "rotation"), shows_at=parent)  # fmt: skip


ROWS = ("forward", "project", "split")  # of attention: they give the fused rows their meaning
ATTEND = ("forward", "attend")

OF_ATTENTION: tuple[Fault, ...] = (
    _pairing("neighbours", "halves"),
    _pairing("halves", "neighbours"),
    _base(10_000),
    _base(500_000),
    Fault("rotary over the whole head", "rotary turns the whole head", "turns its first elements only",
          "Rotary(width)", Attention, _turns_the_whole_head, where=_turns_part_of_the_head,
          steps=("forward", "rotate")),
    class_fault("rotary not scaled", "rotary turns at plain frequencies", "scales them", "Rotary(scaling=...)",
                Rotary, faulty.PlainRotary, where=lambda rotary: rotary.scaling is not None, shows_at=parent),
    class_fault("rotary's factor missing", "cosines and sines are not multiplied by a factor", "multiplies them",
                "the attention factor of Rotary(scaling=...)", Rotary, faulty.FactorlessRotary,
                where=lambda rotary: getattr(rotary.scaling, "attention_factor", 1) != 1, shows_at=parent),
    class_fault("rotary off by one", "rotary counts positions from 1", "counts from 0", "the positions rotary is given",
                Rotary, faulty.ShiftedRotary, shows_at=parent,
                equivalent="scores depend on differences of positions only"),
    class_fault("rotary inverted", "rotary turns the other way", "turns forward", "the signs in Rotation",
                Rotary, faulty.InvertedRotary, shows_at=parent),
    class_fault("rotary in half precision", "rotary angles are computed in float16", "computes them in float32",
                "Rotary.forward", Rotary, faulty.HalfRotary, shows_at=parent),
    class_fault("rotary on values", "rotary turns the values too", "turns queries and keys", "Attention.rotate",
                Attention, faulty.RotaryOnValues, where=_is_rotated),
    class_fault("rotary on keys only", "rotary turns the keys only", "turns queries and keys", "Attention.rotate",
                Attention, faulty.RotaryOnKeysOnly, where=_is_rotated),
    class_fault("rotary missing", "rotary is not applied", "applies it", "Attention.rotate",
                Attention, faulty.NoRotary, where=_is_rotated),
    class_fault("q and k not normed", "queries and keys are not normed", "norms them", "Attention(q_norm=...)",
                Attention, faulty.NotNormed, where=_norms, steps=("place",)),
    Fault("norms of q and k exchanged", "the norms of queries and keys have changed places", "has them the other way",
          "attn.q_norm and attn.k_norm in the key table", Attention, _exchanges_norms, where=_norms_alike,
          steps=("forward", "place", "norm")),
    class_fault("q and k normed after rotary", "queries and keys are normed once they are turned",
                "norms them before", "Attention.place", Attention, faulty.NormedAfterRotary,
                where=_norms_and_turns, steps=("norm", "rotate")),
    class_fault("q and k normed before rotary", "queries and keys are normed before they are turned",
                "turns them first", "NormedLastAttention", NormedLastAttention, faulty.NormedBeforeRotary,
                where=_norms_and_turns, steps=("norm", "rotate")),
    class_fault("q and k normed as one", "all heads of queries or keys are normed as one vector", "norms each head",
                "AcrossHeads", Attention, faulty.NormedAsOne, where=_norms_each_head),
    class_fault("q and k normed by head", "each head of queries or keys is normed alone", "norms them as one vector",
                "AcrossHeads", AcrossHeads, faulty.NormedByHead, where=lambda part: isinstance(part.norm, RMSNorm)),
    Fault("clip missing", "queries, keys and values are not clipped", "clips them", "Attention(clip=...)",
          Attention, sets("clip", lambda _: None), where=lambda attention: attention.clip is not None,
          steps=("forward", "project")),
    Fault("q and k exchanged in the file", "rows of queries and keys have changed places", "has them the other way",
          "the row of attn.qkv in the key table", Attention, rows(lambda slots: slots[:, [1, 0, 2]]),
          where=_one_query_a_key, steps=ROWS, weights_only=True),
    Fault("k and v exchanged in the file", "rows of keys and values have changed places", "has them the other way",
          "the row of attn.qkv in the key table", Attention,
          rows(lambda slots: torch.cat((slots[:, :-2], slots[:, -1:], slots[:, -2:-1]), dim=1)),
          steps=ROWS, weights_only=True),
    class_fault("q and k exchanged", "queries and keys are taken for each other", "takes them as they are",
                "Attention.project", Attention, faulty.KeysForQueries, where=_one_query_a_key),
    class_fault("k and v exchanged", "keys and values are taken for each other", "takes them as they are",
                "Attention.project", Attention, faulty.ValuesForKeys),
    Fault("qkv read as thirds in the file", "fused rows are read as all q, all k, all v", "has them group by group",
          "the row of attn.qkv in the key table", Attention, rows(_read_as_thirds),
          where=_has_groups, steps=ROWS, weights_only=True),
    class_fault("qkv read as thirds", "the fused product is split as all q, all k, all v", "splits it group by group",
                "Attention.split", Attention, faulty.ThirdsForHeads, where=_has_groups, steps=("project",)),
    Fault("qkv read head by head", "fused rows are read group by group", "has them as all q, all k, all v",
          "the row of attn.qkv in the key table", Attention, rows(_read_by_group), where=_has_groups, steps=ROWS,
          weights_only=True),
    Fault("heads permuted", "the heads of qkv have moved by one", "has them in order",
          "the row of attn.qkv in the key table", Attention, rows(lambda slots: slots.roll(1, 0)),
          where=lambda attention: attention.kv_heads > 1, steps=ROWS),
    Fault("queries of a group permuted", "the queries of each group have moved by one", "has them in order",
          "the row of attn.qkv in the key table", Attention, rows(_moves_queries),
          where=lambda attention: attention.kv_heads < attention.heads, steps=ROWS),
    class_fault("keys and values tiled", "keys and values take turns among the queries",
                "gives each to queries that follow one another", "Attention.for_queries",
                Attention, faulty.TiledHeads, where=_shares_keys),
    Fault("scale missing", "scores are not scaled", "scales them", "Attention(scale=...)",
          Attention, sets("scale", lambda _: 1.0), where=_is_scaled, steps=ATTEND),
    Fault("scale of width", "scores are scaled by 1 / sqrt(width)", "takes another number", "Attention(scale=...)",
          Attention, sets("scale", lambda a: (a.heads * a.head_width) ** -0.5),
          where=lambda a: a.scale != (a.heads * a.head_width) ** -0.5, steps=ATTEND),
    Fault("scale of the head's width", "scores are scaled by 1 / sqrt(head width)", "takes another number",
          "Attention(scale=...)", Attention, sets("scale", lambda a: a.head_width**-0.5),
          where=lambda a: a.scale != a.head_width**-0.5, steps=ATTEND),
    Fault("scaled twice", "scores are scaled twice", "scales them once", "Attention(scale=...)",
          Attention, sets("scale", lambda attention: attention.scale**2), where=_is_scaled, steps=ATTEND),
    class_fault("mask missing", "attention sees every token", "sees no later token", "Attention.attend",
                Attention, faulty.NoMask),
    class_fault("mask includes the next token", "attention sees the next token", "sees no later token",
                "Attention.attend", Attention, faulty.MaskOneTooFar),
    class_fault("mask by -1e4", "masked scores are -1e4", "masks exactly", "Attention.scores",
                Attention, faulty.FiniteMask,
                equivalent="exp(-1e4) is exactly 0 beside any score of ordinary size"),
    class_fault("window missing", "attention sees what is outside the window", "does not", "Attention(mask=...)",
                Window, faulty.NoWindow, shows_at=parent),
    Fault("window one too wide", "the window has one token more", "has one less", "Window(size)",
          Window, sets("size", lambda window: window.size + 1), steps=("forward",), shows_at=parent),
    Fault("window one too narrow", "the window has one token less", "has one more", "Window(size)",
          Window, sets("size", lambda window: window.size - 1), where=lambda window: window.size > 1,
          steps=("forward",), shows_at=parent),
    class_fault("chunks missing", "attention sees other chunks", "does not", "Attention(mask=...)",
                Chunked, faulty.NoChunks, shows_at=parent),
    Fault("chunks one too long", "a chunk has one token more", "has one less", "Chunked(size)",
          Chunked, sets("size", lambda chunks: chunks.size + 1), steps=("forward",), shows_at=parent),
    class_fault("ALiBi missing", "distance lowers no score", "lowers scores by distance", "Attention(mask=...)",
                Alibi, faulty.NoAlibi, shows_at=parent),
    class_fault("ALiBi slopes of any heads", "the slopes of ALiBi are those of a power of two",
                "takes every second one of twice as many heads for the rest", "Alibi.slopes",
                Alibi, faulty.SlopesOfAnyHeads, where=_is_odd, shows_at=parent),
    Fault("ALiBi factor missing", "the price of distance has no factor", "has one", "Alibi(factor=...)",
          Alibi, sets("factor", lambda _: 1.0), where=lambda alibi: alibi.factor != 1, steps=("forward",),
          shows_at=parent),
    Fault("scores not capped", "scores are not capped", "caps them", "Attention(softcap=...)",
          Attention, sets("softcap", lambda _: None), where=lambda attention: attention.softcap is not None,
          steps=(*ATTEND, "scores")),
    class_fault("scores capped after the mask", "what is masked is capped too", "caps scores, then masks",
                "Attention.scores", Attention, faulty.CapAfterMask,
                where=lambda attention: attention.softcap is not None, steps=ATTEND),
    class_fault("sinks dropped", "no attention goes to sinks", "lets sinks take a part", "Attention(sinks=...)",
                Sinks, faulty.NoSinks, shows_at=parent),
    class_fault("softmax in half precision", "softmax is computed in float16", "computes it in float32",
                "Attention.probabilities", Attention, faulty.HalfSoftmax,
                where=lambda attention: attention.sinks is None),
    class_fault("attention output not projected", "attention's output projection is skipped", "applies it",
                "Attention.output", Attention, faulty.NoOutProjection, where=_keeps_the_width),
    bias(Attention, "attn.qkv", "qkv", ("project",)),
    bias(Attention, "attn.out", "out", ("output",)),
)  # fmt: skip
