"""What is read: something that makes modules at tiny sizes, which are given loud weights and run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SourceError
from ..foreign.running import logits_of
from ..foreign.sizes import OTHERS
from ..foreign.theirs import Theirs
from ..parity.references import saved_buffers
from ..registry import architecture, architectures
from .own_part import OwnPart

# Tiny sizes, of which no two are alike: what has one of them can be nothing else.
TINY = {"vocab_size": 139, "width": 48, "heads": 4, "kv_heads": 2, "head_width": 10, "mlp_width": 88, "context": 96}
TINY |= {"layers": 2, "window": 7, "experts": 5, "experts_per_token": 2, "expert_width": 36}
# What the configs of decoders that we do not have call them.
ALSO = {
    "width": ("emb_dim", "word_embed_proj_dim", "embedding_size", "input_embedding_size", "output_embedding_size"),
    "layers": ("decoder_layers", "encoder_layers"),
    "heads": ("decoder_attention_heads", "encoder_attention_heads", "attention_heads"),
    "mlp_width": ("decoder_ffn_dim", "encoder_ffn_dim"),
    "experts": ("n_routed_experts", "moe_num_experts"),
    "experts_per_token": ("moe_k", "moe_top_k", "moe_topk"),
}
SEQ = 17  # ids in a row, past the window
MOST = 3_000_000  # parameters of a tiny model


@dataclass(frozen=True)
class Subject:
    """Something to be read: what makes a module of some settings, and how the settings are called.

    `config` are the settings of the tiny one, flat, as a config of transformers has them, or none.
    """

    name: str
    source: str  # the class it is read from
    config: dict[str, Any]
    make: Callable[[Mapping[str, Any]], nn.Module] = field(repr=False)
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of the same settings
    model_type: str | None = None
    classes: tuple[str, ...] = ()
    prefix: str = ""
    parts: tuple[OwnPart, ...] = ()  # of one's own

    def module(self, changes: Mapping[str, Any] | None = None, seed: int = 0) -> nn.Module:
        """A module of the tiny settings, some of them changed, with loud weights, in float64.

        Raises: SourceError where there is none.
        """
        module = self.make(changes or {}).double().eval()
        if sum(one.numel() for one in module.parameters()) > MOST:
            raise SourceError(f"{self.name}: has more than {MOST:,} parameters at the smallest sizes")
        return loud(module, seed)

    def at(self, changes: Mapping[str, Any]) -> "Subject":
        """The same subject, whose tiny settings are others."""
        given = dict(changes)
        make = self.make
        return replace(self, config=self.config | given, make=lambda more: make(given | dict(more)))

    def constants(self, changes: Mapping[str, Any] | None = None) -> dict[str, float]:
        """The numbers among its settings."""
        values = {**self.config, **(changes or {})}
        return {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }


def run(module: nn.Module, ids: Tensor) -> Tensor:
    """The logits (batch, seq, vocab_size) of a module. Raises: CodeError where a class of one's own gives none."""
    config = getattr(module, "config", None)
    if hasattr(config, "to_dict") and hasattr(config, "model_type"):
        with _default_of(module):
            logits: Tensor = module(input_ids=ids, use_cache=False).logits
        return logits
    return logits_of(module, ids, vocab_of(module))


@contextmanager
def _default_of(module: nn.Module) -> Iterator[None]:
    """What a module makes without a dtype has that of its weights, where that is float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(max(before, next(module.parameters()).dtype, key=lambda one: one.itemsize))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def vocab_of(module: nn.Module) -> int:
    """How many ids a module knows: the rows of its table of token vectors, or the tiny size."""
    tables = (len(one.weight) for one in module.modules() if isinstance(one, nn.Embedding))
    return next(tables, TINY["vocab_size"])


@torch.no_grad()
def loud(module: nn.Module, seed: int) -> nn.Module:
    """The module with weights drawn anew, none of them quiet, zero or alike; what a file holds of buffers, too."""
    generator = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    buffers = [one for name, one in module.named_buffers() if name in state and one.is_floating_point()]
    for one in (*module.parameters(), *buffers):
        if one.ndim > 1:
            one.normal_(0, 0.3, generator=generator)
        else:
            one.uniform_(-1, 1, generator=generator)
    return module


def ids_of(vocab: int, seed: int = 1, batch: int = 2, seq: int = SEQ) -> Tensor:
    """Random ids (batch, seq)."""
    return torch.randint(int(vocab), (batch, seq), generator=torch.Generator().manual_seed(seed))


def named_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config, and its sizes by our names too, those that follow from others among them."""
    ours = {name: config[theirs] for name, names in spellings().items() for theirs in names if theirs in config}
    ours = {name: value for name, value in ours.items() if value is not None}
    if {"width", "heads"} <= ours.keys():
        follows = {"kv_heads": ours["heads"], "head_width": ours["width"] // ours["heads"]}
        ours = follows | {"mlp_width": 4 * ours["width"]} | ours
    return ours | dict(config)


def theirs_of(module: nn.Module) -> Theirs:
    """The tensors of a module that a file holds: buffers too, where they are weights."""
    theirs = Theirs(module)
    theirs.parameters |= {name: theirs.buffers.pop(name) for name in saved_buffers(module) if name in theirs.buffers}
    return theirs


@cache
def spellings() -> dict[str, frozenset[str]]:
    """What the tables of the architectures and people's code call each of our sizes."""
    names: dict[str, set[str]] = {name: {name, *OTHERS.get(name, ()), *ALSO.get(name, ())} for name in TINY}
    for arch in map(architecture, architectures()):
        for name in TINY.keys() & arch.table.config.keys():
            names[name] |= {one for one in arch.table.field(name).spellings if "." not in one}
    return {name: frozenset(one) for name, one in names.items()}
