"""One file an architecture, named by its Hugging Face model_type: a Config, and build(cfg) -> Decoder.

Beside them: SIZES of a tiny model to test with, VARIANTS of it, PUBLISHED models by Hub id, FAULTS of its own.
Here: what several architectures share.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..config import DecoderConfig, bounded, derived
from ..layers import DynamicNTK, LinearScaling, Llama3, LongRope, Rotary, Scaling, Window, Yarn

LayerTypes = tuple[Literal["full_attention", "sliding_attention"], ...]
RotaryScaling = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"]

# The settings that a scaling cannot do without.
NEEDED = {
    "linear": ("rotary_factor",),
    "dynamic": ("rotary_factor",),
    "llama3": ("rotary_factor", "rotary_low_factor", "rotary_high_factor"),
    "yarn": ("rotary_factor",),
    "longrope": ("rotary_short_factors", "rotary_long_factors"),
}


@dataclass(frozen=True, kw_only=True)
class RotaryConfig(DecoderConfig):
    """Sizes of a decoder with rotary positions: `rotary_fraction` of each head is turned.

    `rotary_scaling` is how a model reaches past `rotary_context`, the length it was first trained on, which is
    `context` unless given; the fields after that are for one scaling or another, which leaves out those of the others.
    Without a `rotary_factor`, longrope takes `context` over `rotary_context`; its lists have a number for each pair.
    """

    rotary_base: float = 10000.0
    rotary_fraction: float = 1.0
    rotary_scaling: RotaryScaling = "default"
    rotary_context: int | None = None
    rotary_factor: float | None = None
    rotary_low_factor: float | None = None
    rotary_high_factor: float | None = None
    rotary_attention_factor: float | None = None
    rotary_beta_fast: float = 32.0
    rotary_beta_slow: float = 1.0
    rotary_mscale: float | None = bounded(None, least=0)
    rotary_mscale_all_dim: float | None = bounded(None, least=0)
    rotary_truncate: bool = True
    rotary_short_factors: tuple[float, ...] | None = None
    rotary_long_factors: tuple[float, ...] | None = None

    def faults(self) -> Iterator[tuple[str, str]]:
        """Rotary turns pairs, no more than a head has; its scaling has what it needs."""
        yield from super().faults()
        pairs = (self.rotary_width + 1) // 2  # what is odd is turned with one more
        if pairs < 1 or 2 * pairs > self.head_width:
            share = f"{self.rotary_fraction} of head width {self.head_width} is {self.rotary_width}"
            yield "rotary_fraction", f"{share}, expected a number from 1 whose pairs fit into the head"
        missing = [name for name in NEEDED.get(self.rotary_scaling, ()) if getattr(self, name) is None]
        for name in missing:
            yield name, f"{self.rotary_scaling} scaling needs it, found none"
        if not missing:
            yield from self._scaling_faults(pairs)

    def _scaling_faults(self, pairs: int) -> Iterator[tuple[str, str]]:
        """Where the formula of the scaling would divide by 0, or its lists do not fit."""
        if self.rotary_scaling == "dynamic" and self.rotary_width < 3:
            yield "rotary_fraction", f"turns {self.rotary_width} of each head, dynamic scaling needs 3 or more"
        if self.rotary_scaling == "llama3" and self.rotary_high_factor <= self.rotary_low_factor:  # type: ignore[operator]
            expected = f"expected more than rotary_low_factor, which is {self.rotary_low_factor}"
            yield "rotary_high_factor", f"found {self.rotary_high_factor}, {expected}"
        if self.rotary_scaling == "yarn" and self.rotary_base == 1:
            yield "rotary_base", "found 1.0, which yarn scaling cannot use"
        if self.rotary_scaling == "longrope":
            if (self.rotary_context or self.context) == 1:
                yield "rotary_context", "found 1, which longrope scaling cannot use"
            for name in NEEDED["longrope"]:
                if len(getattr(self, name)) != pairs:
                    yield name, f"found {len(getattr(self, name))} numbers, expected {pairs}, one a rotary pair"

    @property
    def rotary_width(self) -> int:
        """Elements of each head that are turned."""
        return int(self.head_width * self.rotary_fraction)

    @property
    def axes(self) -> dict[str, int]:
        """Lengths of the axes that the patterns of a key table may name."""
        return super().axes | {"rotary": self.rotary_width + self.rotary_width % 2}

    @property
    def scaling(self) -> Scaling | None:
        """How rotary frequencies are changed; None where they are not."""
        cfg: Any = self  # faults() has seen to it that what a scaling needs is not None
        trained = self.rotary_context or self.context
        match self.rotary_scaling:
            case "linear":
                return LinearScaling(cfg.rotary_factor)
            case "dynamic":
                return DynamicNTK(cfg.rotary_factor, self.context)
            case "llama3":
                return Llama3(cfg.rotary_factor, cfg.rotary_low_factor, cfg.rotary_high_factor, trained)
            case "yarn":
                return Yarn(
                    cfg.rotary_factor,
                    trained,
                    beta_fast=self.rotary_beta_fast,
                    beta_slow=self.rotary_beta_slow,
                    truncate=self.rotary_truncate,
                    mscale=self.rotary_mscale,
                    mscale_all_dim=self.rotary_mscale_all_dim,
                    magnitude=self.rotary_attention_factor,
                )
            case "longrope":
                return LongRope(
                    self.rotary_factor or self.context / trained,
                    trained,
                    short=cfg.rotary_short_factors,
                    long=cfg.rotary_long_factors,
                    magnitude=self.rotary_attention_factor,
                )
        return None

    def rotary(self, pairing: str = "halves", *, kind: type[Rotary] = Rotary) -> Rotary:
        """The part that turns queries and keys by their positions."""
        return kind(self.rotary_width, base=self.rotary_base, pairing=pairing, scaling=self.scaling)


@dataclass(frozen=True, kw_only=True)
class WindowConfig(DecoderConfig):
    """Sizes of a decoder whose layers of sliding attention see `window` tokens, and all others what came before.

    An architecture has a rule of its own for `layer_types`, or a default.
    """

    window: int | None = None
    layer_types: LayerTypes = derived(lambda cfg: ("full_attention",) * cfg.layers)

    def faults(self) -> Iterator[tuple[str, str]]:
        """Each layer has its type, and those of sliding attention their window."""
        yield from super().faults()
        if len(self.layer_types) != self.layers:
            yield "layer_types", f"found {len(self.layer_types)}, expected {self.layers}, one a layer"
        if self.window is None and "sliding_attention" in self.layer_types:
            yield "window", "found None, which layers of sliding attention cannot use"

    def windows(self) -> list[Window | None]:
        """The mask of each layer: one window for all that have it, None for those that see everything."""
        window = None if self.window is None else Window(self.window)
        return [window if kind == "sliding_attention" else None for kind in self.layer_types]


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig(DecoderConfig):
    """Sizes of a decoder with `experts` in a layer, of which each token goes through `experts_per_token`."""

    experts: int
    experts_per_token: int

    def faults(self) -> Iterator[tuple[str, str]]:
        """A token chooses among the experts that there are."""
        yield from super().faults()
        if self.experts_per_token > self.experts:
            yield "experts_per_token", f"found {self.experts_per_token}, expected at most {self.experts} experts"

    @property
    def axes(self) -> dict[str, int]:
        """Lengths of the axes that the patterns of a key table may name."""
        return super().axes | {"e": self.experts}


def rotary_variants(pairs: int, context: int) -> dict[str, dict[str, object]]:
    """Variants of a tiny model with so many rotary pairs that give each setting a value; `context` is a few tokens.

    Texts of four times `context` take all to where they are scaled but dynamic and longrope, whose frequencies follow
    the length of a pass: beyond their length a cached pass is another function than the whole one.
    """
    longer = {"context": 4 * context, "rotary_context": context, "rotary_factor": 4.0}
    yarn = {"rotary_scaling": "yarn", **longer, "rotary_beta_fast": 1.9, "rotary_beta_slow": 0.3}
    return {
        "rotary_scaling linear": {"rotary_scaling": "linear", "rotary_factor": 3.0},
        "rotary_scaling dynamic": {"rotary_scaling": "dynamic", "rotary_factor": 3.0},
        "rotary_scaling llama3": {
            "rotary_scaling": "llama3",
            **longer,
            "rotary_low_factor": 0.5,
            "rotary_high_factor": 1.7,
        },
        "rotary_scaling yarn": yarn,
        "rotary_truncate False": yarn | {"rotary_truncate": False},  # since transformers 4.55
        "rotary_mscale": yarn | {"rotary_mscale": 1.2, "rotary_mscale_all_dim": 0.4},
        "rotary_scaling longrope": {
            "rotary_scaling": "longrope",
            "rotary_attention_factor": 1.3,
            "rotary_short_factors": tuple(1 + pair / 16 for pair in range(pairs)),
            "rotary_long_factors": tuple(2 + pair / 8 for pair in range(pairs)),
        },
    }
