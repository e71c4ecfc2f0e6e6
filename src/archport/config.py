"""What a model is and where it came from: DecoderConfig, checked on construction, and Origin."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from functools import cache
from inspect import getattr_static
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

import torch

from .checking import Bounds, Kind, kind, require
from .errors import ConfigError

# Far above any published model, far below what would hang the machine while it is built.
LIMITS = {"vocab_size": 1 << 24, "context": 1 << 24, "width": 1 << 20, "layers": 1 << 10, "heads": 1 << 14}
LIMITS |= {"head_width": 1 << 20, "kv_heads": 1 << 14, "mlp_width": 1 << 22, "rotary_width": 1 << 20}
LIMITS |= {"expert_width": 1 << 22, "experts": 1 << 12, "experts_per_token": 1 << 12}

NOT_OF_TRANSFORMERS = (
    "found a bare model of archport, expected one of transformers: pass archport.as_transformers(model)"
)


def bounded(default: Any = MISSING, *, least: float, most: float | None = None) -> Any:
    """A field of a Config whose numbers start elsewhere than at 1 (whole ones) or above 0 (the others).

    As in `padding: int = bounded(0, least=-1)`, or `scale: float = bounded(1.0, least=-math.inf)`.
    """
    return field(default=default, metadata={"least": least, "most": most})


def fixed(value: Any) -> Any:
    """A field that a Config inherits and in which it has no choice: always this value, and no argument."""
    return field(default=value, init=False)


class Derived:
    """A field that follows from the others by a rule as long as it is None; the class reads as None, its default."""

    def __init__(self, rule: Callable[[Any], Any]) -> None:
        self.rule = rule

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        if config is None:
            return None
        value = vars(config).get(self.name)
        return self.rule(config) if value is None else value

    def __set__(self, config: Any, value: Any) -> None:
        vars(config)[self.name] = value


def derived(rule: Callable[[Any], Any]) -> Any:
    """A field of a Config that is `rule(config)` unless given."""
    return Derived(rule)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The sizes and rates of a decoder; an architecture's own Config adds its fields and defaults.

    Sizes count elements; unless given, `mlp_width` is four times `width`, `head_width` is `width` over `heads`, and
    `kv_heads` are as many as `heads`. `norm_eps` and `init_std` are absolute; the dropout rates are probabilities and
    act in train mode only. `tied` means the head is the token embedding. A field of an architecture's own may have
    any type that JSON has values of; lists are kept as tuples.

    `dataclasses.replace` keeps what was derived: set a derived field to None to have it follow the others again.

    Raises: ConfigError, naming every field that is wrong.
    """

    vocab_size: int
    context: int
    width: int
    layers: int
    heads: int
    head_width: int = derived(lambda cfg: cfg.width // cfg.heads)
    kv_heads: int = derived(lambda cfg: cfg.heads)
    mlp_width: int = derived(lambda cfg: 4 * cfg.width)
    activation: str = "gelu"
    norm_eps: float = 1e-5
    tied: bool = False
    embed_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    init_std: float = bounded(0.02, least=0)

    def __post_init__(self) -> None:
        kinds = {name: one for name, one in _kinds(type(self)).items() if not self.follows(name)}  # type: ignore[arg-type]
        require(self, {name: (one.fits, one.words) for name, one in kinds.items()}, "config")
        for name, one in kinds.items():
            object.__setattr__(self, name, one.keep(getattr(self, name)))
        faults = dict(self.faults())
        if faults:
            raise ConfigError(faults)

    def follows(self, name: str) -> bool:
        """Whether a field is derived from the others."""
        return isinstance(getattr_static(type(self), name, None), Derived) and vars(self).get(name) is None

    def faults(self) -> Iterator[tuple[str, str]]:
        """Pairs of a field and what is wrong with its value; an architecture adds its own checks."""
        if self.follows("head_width") and self.width % self.heads:
            yield "heads", f"found {self.heads}, expected a divisor of width {self.width}"
        if self.heads % (self.kv_heads or self.heads):
            yield "kv_heads", f"found {self.kv_heads}, expected a divisor of heads {self.heads}"

    @property
    def axes(self) -> dict[str, int]:
        """Lengths of the axes that the patterns of a key table may name."""
        kv = self.kv_heads
        sizes = {"head": self.heads, "kv": kv, "group": self.heads // kv, "dim": self.head_width}
        # `half` is for heads whose rotary pairs are neighbours, (half two), where ours are (two half).
        return sizes | {"n": self.layers, "half": self.head_width // 2}

    @property
    def residual_init_std(self) -> float:
        """Standard deviation of fresh weights that write to the residual stream."""
        return self.init_std

    def to_dict(self) -> dict[str, Any]:
        """Its fields, for libraries that look into configs; one that transformers' have besides is a TypeError."""
        return _OurFields(asdict(self))


class _OurFields(dict[str, Any]):
    def __missing__(self, name: str) -> NoReturn:
        raise TypeError(NOT_OF_TRANSFORMERS) if name == "model_type" else KeyError(name)


if TYPE_CHECKING:

    class AnyConfig(DecoderConfig):
        """The Config of an architecture that is not known before it runs: it may have any field of its own."""

        def __getattr__(self, name: str) -> Any: ...

else:
    AnyConfig = DecoderConfig


def required(config_class: type[DecoderConfig]) -> list[str]:
    """The fields that have no default."""
    return [one.name for one in fields(config_class) if one.default is MISSING and one.default_factory is MISSING]


@cache
def _kinds(config_class: type[DecoderConfig]) -> dict[str, Kind]:
    """What each field of a Config may be. Raises: ConfigError for a type that cannot be read or is none of JSON's."""
    where = f"{config_class.__module__}.{config_class.__qualname__}"
    try:
        hints = get_type_hints(config_class)
    except Exception as error:  # a type written as text is evaluated, and may be anything
        raise ConfigError({"types": f"cannot be read: {error}"}, where) from None
    kinds, faults = {}, {}
    for one in fields(config_class):
        try:
            kinds[one.name] = kind(hints[one.name], _bounds(one))
        except TypeError as error:
            faults[one.name] = str(error)
    if faults:
        raise ConfigError(faults, where)
    return kinds


def _bounds(one: Field[Any]) -> Bounds:
    most = one.metadata.get("most")
    return Bounds(
        one.metadata.get("least"), LIMITS.get(one.name) if most is None else most, one.name.endswith("_dropout")
    )


@dataclass(frozen=True)
class Origin:
    """Where a model came from: its name, the parsed config.json, the folder of its files, the Hub's revision,
    and the parsed generation_config.json where there is one; then how the folder is read: which variant of its
    weights, and whether links out of it are followed. What came from a file `alone` is nothing that transformers reads.
    """

    name: str
    hf: Mapping[str, Any]
    folder: Path | None = None
    revision: str | None = None
    commit: str | None = None
    generation: Mapping[str, Any] | None = None
    variant: str | None = None
    follow_links: bool = False
    alone: bool = False

    @property
    def source(self) -> str | Path | None:
        """What `load` is to be told to read it again, from its files here; None where there are none."""
        return self.name if self.alone else self.folder

    @property
    def how(self) -> dict[str, Any]:
        """What `load` is to be told to read the folder in the same way."""
        return {"variant": self.variant, "follow_links": self.follow_links}


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as config.json spells it."""
    return str(dtype).removeprefix("torch.")
