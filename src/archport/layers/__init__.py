"""The parts a decoder is made of: pure mathematics."""

from .attention import QKV, Attention
from .block import Block, ParallelBlock, SequentialBlock, SharedNormBlock
from .context import AttentionContext, Cache, LayerCache
from .decoder import Decoder, initialise
from .embed import Embed, PositionedEmbed
from .mlp import ACTIVATIONS, MLP
from .rotary import Rotary, Rotation
from .scaling import DynamicNTK, LinearScaling, Llama3, LongRope, Scaling, Yarn

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "QKV",
    "Attention",
    "AttentionContext",
    "Block",
    "Cache",
    "Decoder",
    "DynamicNTK",
    "Embed",
    "LayerCache",
    "LinearScaling",
    "Llama3",
    "LongRope",
    "ParallelBlock",
    "PositionedEmbed",
    "Rotary",
    "Rotation",
    "Scaling",
    "SequentialBlock",
    "SharedNormBlock",
    "Yarn",
    "initialise",
]
