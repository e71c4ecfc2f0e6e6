"""CodeGen: a GPT-J with one fused projection in the file. Source: arXiv 2203.13474; `CodeGenForCausalLM`."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..layers import Decoder
from . import gptj

SHARDS = 4  # of the machines it was trained on; the file's fused rows go by them


@dataclass(frozen=True, kw_only=True)
class Config(gptj.Config):
    """Sizes of a CodeGen, whose heads are dealt out to four shards."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Each shard has whole heads."""
        yield from super().faults()
        if self.heads % SHARDS:
            yield "heads", f"found {self.heads}, expected a multiple of {SHARDS}"

    @property
    def axes(self) -> dict[str, int]:
        """Lengths of the axes that the patterns of a key table may name; `head` counts those of a shard."""
        return super().axes | {"shard": SHARDS, "head": self.heads // SHARDS}


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    return gptj.build(cfg)


SIZES = gptj.SIZES | {"width": 96, "heads": 8}
VARIANTS = {
    "activation gelu": {"activation": "gelu"},
    "tied True": {"tied": True},
    "rotary_width 12": {"rotary_width": 12},
}
_PUBLISHED = {"vocab_size": 51200, "context": 2048}
PUBLISHED = {
    "Salesforce/codegen-350M-mono": _PUBLISHED | {"layers": 20, "width": 1024, "heads": 16, "rotary_width": 32},
    "Salesforce/codegen-2B-mono": _PUBLISHED | {"layers": 32, "width": 2560, "heads": 32, "rotary_width": 64},
    "Salesforce/codegen-6B-mono": _PUBLISHED | {"layers": 33, "width": 4096, "heads": 16, "rotary_width": 64},
    "Salesforce/codegen-16B-mono": _PUBLISHED | {"layers": 34, "width": 6144, "heads": 24, "rotary_width": 64},
}
