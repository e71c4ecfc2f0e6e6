"""GPT-NeoX and Pythia: rotary halves, parallel or sequential residual. Source: arXiv 2204.06745."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch.nn import LayerNorm, Linear

from ..layers import MLP, Attention, Decoder, Embed, ParallelBlock, SequentialBlock
from . import RotaryConfig, rotary_variants


@dataclass(frozen=True, kw_only=True)
class Config(RotaryConfig):
    """Sizes of a GPT-NeoX, which turns a quarter of each head unless told otherwise."""

    rotary_fraction: float = 0.25
    parallel: bool = True
    attention_bias: bool = True

    def faults(self) -> Iterator[tuple[str, str]]:
        """One rate is for the embedding and for what joins the stream."""
        yield from super().faults()
        if self.embed_dropout != self.residual_dropout:
            yield (
                "embed_dropout",
                f"found {self.embed_dropout}, but residual_dropout is {self.residual_dropout}: one rate",
            )


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps)
    attention = partial(Attention, dropout=cfg.residual_dropout, score_dropout=cfg.attention_dropout)
    block = ParallelBlock if cfg.parallel else SequentialBlock
    rotary = cfg.rotary("halves")
    return Decoder(
        embed=Embed(cfg.vocab_size, cfg.width, dropout=cfg.embed_dropout),
        blocks=[
            block(
                norm_attn=norm(),
                attn=attention(cfg.width, cfg.heads, bias=cfg.attention_bias, rotary=rotary),
                norm_mlp=norm(),
                mlp=MLP(cfg.width, cfg.mlp_width, activation=cfg.activation, dropout=cfg.residual_dropout),
            )
            for _ in range(cfg.layers)
        ],
        norm=norm(),
        head=Linear(cfg.width, cfg.vocab_size, bias=False),
        tied=cfg.tied,
    )


SIZES = {
    "vocab_size": 113,
    "context": 43,
    "width": 70,
    "layers": 3,
    "heads": 5,
    "mlp_width": 102,
    "norm_eps": 3e-5,
    "rotary_fraction": 0.6,
    "rotary_base": 9973.0,
}
VARIANTS = {
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "activation relu": {"activation": "relu"},
    "tied True": {"tied": True},
    "parallel False": {"parallel": False},
    "attention_bias False": {"attention_bias": False},
    "rotary_fraction 1.0": {"rotary_fraction": 1.0},
    **rotary_variants(pairs=4, context=11),
}


def _published(layers: int, width: int, heads: int, vocab_size: int = 50304, **more: object) -> dict[str, object]:
    sizes = {"vocab_size": vocab_size, "context": 2048, "layers": layers, "width": width, "heads": heads}
    return sizes | more


PUBLISHED = {
    "EleutherAI/gpt-neox-20b": _published(44, 6144, 64, 50432, activation="gelu_tanh"),
    "EleutherAI/pythia-14m": _published(6, 128, 4),
    "EleutherAI/pythia-31m": _published(6, 256, 8),
    "EleutherAI/pythia-70m": _published(6, 512, 8),
    "EleutherAI/pythia-160m": _published(12, 768, 12),
    "EleutherAI/pythia-410m": _published(24, 1024, 16),
    "EleutherAI/pythia-1b": _published(16, 2048, 8),
    "EleutherAI/pythia-1.4b": _published(24, 2048, 16),
    "EleutherAI/pythia-2.8b": _published(32, 2560, 32),
    "EleutherAI/pythia-6.9b": _published(32, 4096, 32, 50432),
    "EleutherAI/pythia-12b": _published(36, 5120, 40, 50688),
    "togethercomputer/RedPajama-INCITE-7B-Base": _published(32, 4096, 32, 50432, parallel=False, rotary_fraction=1.0),
}
