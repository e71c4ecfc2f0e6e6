"""The parts a decoder is made of: pure mathematics."""

from .attention import QKV, Attention, NormedLastAttention, Sinks
from .block import (
    Block,
    NormedStreamBlock,
    NormedSumBlock,
    ParallelBlock,
    PostNormBlock,
    SandwichBlock,
    ScaledBlock,
    SequentialBlock,
    SharedNormBlock,
)
from .context import AttentionContext, Cache, LayerCache
from .decoder import Decoder, initialise
from .embed import Embed, PositionedEmbed, ProjectedEmbed, ScaledEmbed, ScaledEmbedding, SummedEmbed
from .experts import (
    ChosenSoftmaxRouter,
    ClampedGatedMLP,
    Experts,
    NormalisedRouter,
    Router,
    SharedExpert,
    SigmoidRouter,
    SoftmaxRouter,
    UncastNormalisedRouter,
)
from .finish import LogitScale, SoftCap
from .mask import Alibi, Chunked, RoundedAlibi, SlotAlibi, Window
from .mlp import ACTIVATIONS, MLP, GatedMLP, QuickGELU, ReLUSquared
from .norm import AcrossHeads, LateRMSNorm, LayerNormByHead, OffsetRMSNorm, ProjectedNorm, RMSNorm, TransformedNorm
from .rotary import Rotary, Rotation, WideRotary
from .scaling import DynamicNTK, LinearScaling, Llama3, LongRope, Scaling, Yarn
from .sharding import Cut, Sharding

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "QKV",
    "AcrossHeads",
    "Alibi",
    "Attention",
    "AttentionContext",
    "Block",
    "Cache",
    "ChosenSoftmaxRouter",
    "Chunked",
    "ClampedGatedMLP",
    "Cut",
    "Decoder",
    "DynamicNTK",
    "Embed",
    "Experts",
    "GatedMLP",
    "LateRMSNorm",
    "LayerCache",
    "LayerNormByHead",
    "LinearScaling",
    "Llama3",
    "LogitScale",
    "LongRope",
    "NormalisedRouter",
    "NormedLastAttention",
    "NormedStreamBlock",
    "NormedSumBlock",
    "OffsetRMSNorm",
    "ParallelBlock",
    "PositionedEmbed",
    "PostNormBlock",
    "ProjectedEmbed",
    "ProjectedNorm",
    "QuickGELU",
    "RMSNorm",
    "ReLUSquared",
    "Rotary",
    "Rotation",
    "RoundedAlibi",
    "Router",
    "SandwichBlock",
    "ScaledBlock",
    "ScaledEmbed",
    "ScaledEmbedding",
    "Scaling",
    "SequentialBlock",
    "Sharding",
    "SharedExpert",
    "SharedNormBlock",
    "SigmoidRouter",
    "Sinks",
    "SlotAlibi",
    "SoftCap",
    "SoftmaxRouter",
    "SummedEmbed",
    "TransformedNorm",
    "UncastNormalisedRouter",
    "WideRotary",
    "Window",
    "Yarn",
    "initialise",
]
