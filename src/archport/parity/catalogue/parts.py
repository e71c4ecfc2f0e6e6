"""Faults of norms, MLPs, linear maps, embeddings and of what follows the head."""

from collections.abc import Callable
from typing import Any

from torch import nn

from ...layers import (
    ACTIVATIONS,
    MLP,
    Decoder,
    Embed,
    GatedMLP,
    LateRMSNorm,
    LayerNormByHead,
    LogitScale,
    OffsetRMSNorm,
    PositionedEmbed,
    RMSNorm,
    ScaledEmbedding,
    SoftCap,
)
from ...layers.experts import ClampedGatedMLP
from ..faults import Becomes, Fault, class_fault, holders, parent, sets
from ..faulty import parts as faulty
from ..locate import DECODER

MLPS = (ClampedGatedMLP, MLP, GatedMLP)
ROUNDS_ALIKE = "in float32, where both round alike"


def _is_square(linear: Any) -> bool:
    return bool(linear.in_features == linear.out_features > 1)


def _counts_from_0(embed: Any) -> bool:
    return isinstance(embed.positions, nn.Embedding) and not isinstance(embed.positions, faulty.OffByOne)


def _is_not_scaled(embed: Any) -> bool:
    return embed.scale is None and embed.norm is None and not isinstance(embed.tokens, ScaledEmbedding)


def _is_scaled(part: Any) -> bool:
    return part.scale not in (None, 1.0)


def _after_the_head(site: str) -> tuple[str, ...]:
    return site, DECODER


def _transposes(linear: nn.Linear) -> None:
    linear.weight.data = linear.weight.data.T.contiguous()


def _exchanges(mlp: Any) -> None:
    for gate, up in zip(mlp.gate.parameters(), mlp.up.parameters(), strict=True):
        gate.data, up.data = up.data, gate.data


def _activation(name: str, kind: Callable[[], nn.Module]) -> Fault:
    return Fault(f"activation {name}", f"the activation is {name}", "uses another one", "MLP(activation=...)",
                 MLPS, sets("activation", lambda _: kind()),
                 where=lambda mlp: repr(mlp.activation) != repr(kind()), steps=("forward",))  # fmt: skip


def _eps(value: float) -> Fault:
    return Fault(f"norm eps {value:g}", f"the norm's eps is {value:g}", "uses another one", "Config.norm_eps",
                 (nn.LayerNorm, RMSNorm, LayerNormByHead), sets("eps", lambda _: value),
                 where=lambda norm: norm.eps != value, steps=("forward",), early=True)  # fmt: skip


def bias(
    holder: type[nn.Module] | tuple[type[nn.Module], ...], name: str, linear: str, steps: tuple[str, ...]
) -> Fault:
    """The bias of a linear map forgotten."""

    def has_bias(part: Any) -> bool:
        child = getattr(part, linear, None)
        return isinstance(child, nn.Linear) and child.bias is not None

    def drop(part: Any) -> None:
        getattr(part, linear).bias = None

    def shows_at(site: str) -> tuple[str, ...]:
        return ("head",) if holder is Decoder else (f"{site}.{linear}", *holders(site))

    return Fault(f"{name} bias dropped", f"{name} adds no bias", "adds one", f"Linear(bias=...) of {name}",
                 holder, drop, where=has_bias, steps=("forward", *steps), shows_at=shows_at)  # fmt: skip


OF_PARTS: tuple[Fault, ...] = (
    _activation("GELU (erf)", nn.GELU),
    _activation("GELU (tanh)", lambda: nn.GELU(approximate="tanh")),
    _activation("quick GELU", ACTIVATIONS["quick_gelu"]),
    _activation("ReLU", nn.ReLU),
    _activation("ReLU squared", ACTIVATIONS["relu_squared"]),
    _activation("SiLU", nn.SiLU),
    _activation("missing", nn.Identity),
    Fault("gate and up exchanged in the file", "gate and up-projection have changed places", "has them the other way",
          "mlp.gate and mlp.up in the key table", (ClampedGatedMLP, GatedMLP), _exchanges,
          steps=("forward",), weights_only=True),
    class_fault("gate and up exchanged", "the up-projection is activated", "activates the gate", "the MLP's forward",
                GatedMLP, faulty.UpForGate),
    class_fault("clamp missing", "the MLP clamps nothing", "clamps gate and up-projection", "ClampedGatedMLP",
                ClampedGatedMLP, faulty.Unclamped),
    class_fault("up-projection not raised", "the up-projection is not raised by one", "raises it", "ClampedGatedMLP",
                ClampedGatedMLP, faulty.NotRaised),
    _eps(1e-6),
    _eps(1e-5),
    _eps(1e-3),
    class_fault("norm without bias", "the norm adds no bias", "adds one", "LayerNorm(bias=...)",
                nn.LayerNorm, faulty.UnbiasedNorm, where=lambda norm: norm.bias is not None),
    class_fault("RMS norm", "the norm does not subtract the mean", "does", "LayerNorm, not RMSNorm",
                nn.LayerNorm, faulty.MeanKept, where=lambda norm: len(norm.normalized_shape) == 1),
    class_fault("mean subtracted", "the norm subtracts the mean", "does not", "RMSNorm, not LayerNorm",
                RMSNorm, faulty.MeanSubtracted),
    class_fault("norm without weight", "the norm does not use its weights", "multiplies by them", "RMSNorm.weighted",
                RMSNorm, faulty.UnweightedRMSNorm),
    class_fault("norm weights from one", "one is added to the norm's weights", "takes them as they are",
                "RMSNorm, not OffsetRMSNorm", RMSNorm, faulty.WeightedFromOne,
                where=lambda norm: not isinstance(norm, OffsetRMSNorm)),
    class_fault("norm weights from zero", "the norm's weights are taken as they are", "adds one to them",
                "OffsetRMSNorm", OffsetRMSNorm, faulty.WeightedFromZero),
    class_fault("norm cast early", "the norm is cast before it is weighted", "casts it last", "LateRMSNorm",
                LateRMSNorm, faulty.CastEarly, equivalent=ROUNDS_ALIKE),
    class_fault("norm cast early, weights from one", "the norm is cast before it is weighted", "casts it last",
                "OffsetRMSNorm", OffsetRMSNorm, faulty.OffsetCastEarly, equivalent=ROUNDS_ALIKE),
    Fault("positions off by one", "learned positions start at 1", "starts at 0", "Embed.place",
          PositionedEmbed, lambda embed: Becomes(faulty.OffByOne)(embed.positions), where=_counts_from_0),
    Fault("positions shifted by two", "learned positions start at 2", "starts at 0", "Embed.place",
          PositionedEmbed, lambda embed: Becomes(faulty.OffByTwo)(embed.positions), where=_counts_from_0),
    class_fault("positions missing", "learned positions are not added", "adds them", "Embed.place",
                PositionedEmbed, faulty.NoPositions),
    class_fault("embedding scaled", "token vectors are scaled by sqrt(width)", "uses them as they are",
                "Embed.place", Embed, faulty.ScaledBySqrt, where=_is_not_scaled),
    Fault("embedding not scaled", "token vectors are not scaled", "scales them", "Embed(scale=...) or ScaledEmbed",
          (ScaledEmbedding, Embed), sets("scale", lambda _: 1.0), where=_is_scaled, shows_at=parent),
    Fault("embedding scaled twice", "token vectors are scaled twice", "scales them once",
          "Embed(scale=...) or ScaledEmbed", (ScaledEmbedding, Embed), sets("scale", lambda part: part.scale**2),
          where=_is_scaled, shows_at=parent),
    class_fault("embedding's scale not rounded", "the factor of token vectors has all its bits",
                "rounds it to the weights' dtype", "ScaledEmbedding", ScaledEmbedding, faulty.UnroundedScale,
                equivalent=ROUNDS_ALIKE),
    Fault("embedding not normed", "token vectors are not normed", "norms them", "Embed(norm=...)",
          Embed, sets("norm", lambda _: None), where=lambda embed: embed.norm is not None, steps=("scaled",)),
    Fault("logits not scaled", "logits are not scaled", "scales them", "LogitScale",
          LogitScale, sets("scale", lambda _: 1.0), where=_is_scaled, shows_at=_after_the_head),
    Fault("logits divided by their scale", "logits are divided by the scale", "multiplies by it", "LogitScale",
          LogitScale, sets("scale", lambda part: 1 / part.scale), where=_is_scaled, shows_at=_after_the_head),
    class_fault("logits not capped", "logits are not capped", "caps them", "SoftCap",
                SoftCap, faulty.NoSoftCap, shows_at=_after_the_head),
    Fault("square projection transposed", "a square weight is transposed", "has it the other way",
          "its row in the key table", nn.Linear,
          _transposes, where=_is_square, shows_at=parent),
    bias(MLPS, "mlp.up", "up", ()),
    bias(MLPS, "mlp.gate", "gate", ()),
    bias(MLPS, "mlp.down", "down", ()),
    bias(Decoder, "head", "head", ("logits",)),
)  # fmt: skip
