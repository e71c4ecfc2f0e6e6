"""What a model is and where it came from: DecoderConfig, checked on construction, and Origin."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args

import torch

from .errors import ConfigError

# Far above any published model, far below what would hang the machine while it is built.
LIMITS = {"vocab_size": 1 << 24, "context": 1 << 24, "width": 1 << 20, "layers": 1 << 10, "heads": 1 << 14}
LIMITS |= {"mlp_width": 1 << 22, "rotary_width": 1 << 20}
LIMIT = 1 << 24  # of any other whole number
LARGEST = 1e30  # of any other number


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The sizes and rates of a decoder; an architecture's own Config adds its fields and defaults.

    Sizes count elements; `mlp_width` is four times `width` unless given. `norm_eps` and `init_std` are absolute; the
    dropout rates are probabilities and act in train mode only. `tied` means the head is the token embedding.

    Raises: ConfigError, naming every field that is wrong.
    """

    vocab_size: int
    context: int
    width: int
    layers: int
    heads: int
    mlp_width: int = cast(int, None)
    activation: str = "gelu"
    norm_eps: float = 1e-5
    tied: bool = False
    embed_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if self.mlp_width is None and type(self.width) is int:
            object.__setattr__(self, "mlp_width", 4 * self.width)
        faults = dict(_type_faults(self))
        for field in fields(self):
            if field.name in faults:
                continue
            if float in (field.type, *get_args(field.type)) and type(getattr(self, field.name)) is int:
                object.__setattr__(self, field.name, float(getattr(self, field.name)))
        if not faults:
            faults = dict(self.faults())
        if faults:
            raise ConfigError(faults)

    def faults(self) -> Iterator[tuple[str, str]]:
        """Pairs of a field and what is wrong with its value; an architecture adds its own checks."""
        if self.width % self.heads:
            yield "heads", f"found {self.heads}, expected a divisor of width {self.width}"

    @property
    def head_width(self) -> int:
        """Elements of one head."""
        return self.width // self.heads

    @property
    def axes(self) -> dict[str, int]:
        """Lengths of the axes that the patterns of a key table may name."""
        return {"qkv": 3, "head": self.heads, "dim": self.head_width}

    @property
    def residual_init_std(self) -> float:
        """Standard deviation of fresh weights that write to the residual stream."""
        return self.init_std


def _type_faults(cfg: DecoderConfig) -> Iterator[tuple[str, str]]:
    for field in fields(cfg):
        problem = _problem(field.name, field.type, getattr(cfg, field.name))
        if problem:
            yield field.name, problem


def _problem(name: str, kind: Any, value: object) -> str | None:
    """What is wrong with one value, by the type its field declares; None when nothing is."""
    optional = [option for option in get_args(kind) if option is not NoneType]
    if optional:
        return None if value is None else _problem(name, optional[0], value)
    if kind is bool:
        return None if isinstance(value, bool) else f"found {value!r}, expected true or false"
    if kind is str:
        return None if isinstance(value, str) else f"found {value!r}, expected a name"
    if kind is int:
        limit = LIMITS.get(name, LIMIT)
        whole = type(value) is int and 1 <= value <= limit
        return None if whole else f"found {value!r}, expected a whole number from 1 to {limit}"
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    if name.endswith("_dropout"):
        return None if number and 0 <= cast(float, value) < 1 else f"found {value!r}, expected a rate in [0, 1)"
    return None if number and cast(float, value) > 0 else f"found {value!r}, expected a positive number"


@dataclass(frozen=True)
class Origin:
    """Where a model came from: its name, the parsed config.json, the folder of its files, the Hub's revision,
    and the parsed generation_config.json where there is one.
    """

    name: str
    hf: Mapping[str, Any]
    folder: Path | None = None
    revision: str | None = None
    commit: str | None = None
    generation: Mapping[str, Any] | None = None


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as config.json spells it."""
    return str(dtype).removeprefix("torch.")
