"""BigCode: a GPT-2 whose queries share one key and one value. Source: arXiv 2301.03988; `GPTBigCodeForCausalLM`."""

from dataclasses import dataclass

from ..config import derived
from ..layers import Decoder
from . import gpt2


@dataclass(frozen=True, kw_only=True)
class Config(gpt2.Config):
    """Sizes of a BigCode; without `multi_query` each head has a key and a value."""

    multi_query: bool = True
    kv_heads: int = derived(lambda cfg: 1 if cfg.multi_query else cfg.heads)


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    return gpt2.build(cfg)


SIZES = gpt2.SIZES
VARIANTS = {
    "multi_query False": {"multi_query": False},
    "activation gelu": {"activation": "gelu"},
    "tied False": {"tied": False},
    "scale_scores False": {"scale_scores": False},
}
PUBLISHED = {
    "bigcode/gpt_bigcode-santacoder": {"vocab_size": 49280, "context": 2048, "layers": 24, "width": 2048, "heads": 16},
    "bigcode/starcoder": {
        "vocab_size": 49152,
        "context": 8192,
        "layers": 40,
        "width": 6144,
        "heads": 48,
        "activation": "gelu",
    },
}
