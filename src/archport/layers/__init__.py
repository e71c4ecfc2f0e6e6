"""The parts a decoder is made of: pure mathematics."""

from .attention import QKV, Attention
from .block import Block, ParallelBlock, SequentialBlock, SharedNormBlock
from .context import AttentionContext, Cache, LayerCache
from .decoder import Decoder, initialise
from .embed import Embed, PositionedEmbed
from .mlp import ACTIVATIONS, MLP
from .rotary import Rotary, Rotation

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "QKV",
    "Attention",
    "AttentionContext",
    "Block",
    "Cache",
    "Decoder",
    "Embed",
    "LayerCache",
    "ParallelBlock",
    "PositionedEmbed",
    "Rotary",
    "Rotation",
    "SequentialBlock",
    "SharedNormBlock",
    "initialise",
]
