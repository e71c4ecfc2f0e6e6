"""What is read: a decoder class of transformers, or a class of one's own, at tiny sizes and with loud weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SourceError, in_a_line
from ..files.checkpoint import CONFIG, MAX_CONFIG
from ..files.source import companions, is_folder
from ..files.strict_json import read_json
from ..foreign.importing import made
from ..foreign.running import logits_of
from ..foreign.sizes import OTHERS, Sizes
from ..mappings import COMMON_HARMLESS, COMMON_REQUIRES
from ..parity.references import building, with_plain_experts
from ..registry import architecture, architectures

# Tiny sizes, of which no two are alike: what has one of them can be nothing else.
TINY = {"vocab_size": 139, "width": 48, "heads": 4, "kv_heads": 2, "head_width": 10, "mlp_width": 88, "context": 96}
TINY |= {"layers": 2, "window": 7, "experts": 5, "experts_per_token": 2, "expert_width": 36}
SEQ = 17  # ids in a row, past the window
LARGE = 24  # for a whole number that none of our words means
TURNED = 8  # of a head, by rotary positions, where that is a number
MOST = 3_000_000  # parameters of a tiny model


@dataclass(frozen=True)
class Subject:
    """Something to be read: what makes a module of some settings, and how the settings are called.

    `config` are the settings of the tiny one, flat, as a config of transformers has them, or none.
    """

    name: str
    source: str  # the class it is read from
    config: dict[str, Any]
    make: Callable[[Mapping[str, Any]], nn.Module] = field(repr=False)
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of the same settings
    model_type: str | None = None
    classes: tuple[str, ...] = ()
    prefix: str = ""

    def module(self, changes: Mapping[str, Any] | None = None, seed: int = 0) -> nn.Module:
        """A module of the tiny settings, some of them changed, with loud weights, in float64.

        Raises: SourceError where there is none.
        """
        module = self.make(changes or {}).double().eval()
        if sum(one.numel() for one in module.parameters()) > MOST:
            raise SourceError(f"{self.name}: has more than {MOST:,} parameters at the smallest sizes")
        return loud(module, seed)

    def at(self, changes: Mapping[str, Any]) -> "Subject":
        """The same subject, whose tiny settings are others."""
        given = dict(changes)
        make = self.make
        return replace(self, config=self.config | given, make=lambda more: make(given | dict(more)))

    def constants(self, changes: Mapping[str, Any] | None = None) -> dict[str, float]:
        """The numbers among its settings."""
        values = {**self.config, **(changes or {})}
        return {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }


def run(module: nn.Module, ids: Tensor) -> Tensor:
    """The logits (batch, seq, vocab_size) of a module."""
    try:
        logits: Tensor = module(input_ids=ids, use_cache=False).logits
        return logits
    except TypeError:
        return logits_of(module, ids, vocab_of(module))


def vocab_of(module: nn.Module) -> int:
    """How many ids a module knows: the rows of its table of token vectors, or the tiny size."""
    tables = (len(one.weight) for one in module.modules() if isinstance(one, nn.Embedding))
    return next(tables, TINY["vocab_size"])


@torch.no_grad()
def loud(module: nn.Module, seed: int) -> nn.Module:
    """The module with weights drawn anew, none of them quiet, zero or alike; what a file holds of buffers, too."""
    generator = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    buffers = [one for name, one in module.named_buffers() if name in state and one.is_floating_point()]
    for one in (*module.parameters(), *buffers):
        if one.ndim > 1:
            one.normal_(0, 0.3, generator=generator)
        else:
            one.uniform_(-1, 1, generator=generator)
    return module


# --- classes of transformers ---


def model_types() -> dict[str, str]:
    """The class of each causal decoder that transformers has, by its model_type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    return {name.replace("-", "_"): kind if isinstance(kind, str) else kind[0] for name, kind in NAMES.items()}


def of_source(source: str, *, revision: str | None = None, offline: bool = False) -> Subject:
    """The decoder of transformers that a folder or a Hub id has the config of, at tiny sizes, else as it is set there.

    Raises: SourceError, CheckpointError.
    """
    path = companions(source, revision=revision, offline=offline) / CONFIG
    hf = read_json(path, MAX_CONFIG)
    if not isinstance(hf.get("model_type"), str):
        raise SourceError(f"{path}: found no model_type, expected that of a decoder of transformers")
    return of_transformers(hf["model_type"], hf)


def of_transformers(model_type: str, given: Mapping[str, Any] = MappingProxyType({})) -> Subject:
    """A decoder of transformers by its model_type, at tiny sizes, and else as it is `given` or by default.

    Raises: SourceError where transformers has none, or where no tiny config of it can be made.
    """
    import transformers

    class_name = model_types().get(model_type.replace("-", "_"))
    if class_name is None:
        raise SourceError(
            f"{model_type}: transformers {transformers.__version__} has no causal decoder of this model_type"
        )
    with building(f"{model_type}: "):
        kind = getattr(transformers, class_name)
        config_class = kind.config_class

    def make(settings: Mapping[str, Any]) -> nn.Module:
        with building(f"{model_type}: "):
            config = config_class(**nested(settings))
            config._attn_implementation = "eager"
            with torch.device("meta"):
                count = sum(one.numel() for one in kind(config).parameters())
            if count > MOST:
                raise ValueError(f"found {count:,} parameters at tiny sizes, expected up to {MOST:,}")
            made: nn.Module = with_plain_experts(kind(config).eval())
            return made

    first: SourceError | None = None
    for settings in _tiny_settings(config_class, given):
        try:
            module = make(settings)
            with torch.no_grad():
                logits = run(loud(module.double(), 0), ids_of(settings.get("vocab_size", TINY["vocab_size"])))
            if not logits.isfinite().all():
                raise SourceError(f"{model_type}: gives logits that are not finite at tiny sizes")
        except SourceError as error:
            first = first or error
            continue
        except Exception as error:  # it is the reference's code
            first = first or SourceError(
                f"{model_type}: does not run at tiny sizes: {type(error).__name__}: {in_a_line(error)}"
            )
            continue
        own: Any = module.config
        config = flat(own.to_dict())
        prefix = f"{kind.base_model_prefix}." if kind.base_model_prefix else ""
        base = type(getattr(module, kind.base_model_prefix, module)).__name__
        defaults = flat(config_class().to_dict())
        kinds = (class_name, base)
        return Subject(model_type, class_name, config, make, defaults, config["model_type"], kinds, prefix).at(settings)
    raise first or SourceError(f"{model_type}: no tiny config")


def ids_of(vocab: int, seed: int = 1, batch: int = 2, seq: int = SEQ) -> Tensor:
    """Random ids (batch, seq)."""
    return torch.randint(int(vocab), (batch, seq), generator=torch.Generator().manual_seed(seed))


@cache
def spellings() -> dict[str, frozenset[str]]:
    """What the tables of the architectures and people's code call each of our sizes."""
    names: dict[str, set[str]] = {name: {name, *OTHERS.get(name, ())} for name in TINY}
    for arch in map(architecture, architectures()):
        for name in TINY.keys() & arch.table.config.keys():
            names[name] |= {one for one in arch.table.field(name).spellings if "." not in one}
    return {name: frozenset(one) for name, one in names.items()}


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The fields of a config, those within others as `outer.inner`."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
            fields |= flat(value, f"{above}{name}.")
        else:
            fields[f"{above}{name}"] = value
    return fields


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The other way round."""
    config: dict[str, Any] = {}
    for name, value in fields.items():
        outer, _, inner = name.partition(".")
        if inner:
            config.setdefault(outer, {})[inner] = value
        else:
            config[name] = value
    return config


def _tiny_settings(config_class: Any, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings of a tiny model, the likeliest first: a class's own config, its sizes shrunk by what they mean."""
    aside = COMMON_HARMLESS | COMMON_REQUIRES.keys() | {"architectures", "model_type"}
    kept = {name: value for name, value in given.items() if name not in aside and not name.startswith("_")}
    with building():
        base = config_class(**kept).to_dict()
    meaning = {name: ours for ours, names in spellings().items() for name in names}
    settings = flat({name: value for name, value in kept.items() if name in base})
    unknown, factors = iter(range(20, 60, 2)), iter((1.3, 0.7, 1.6, 0.6, 1.9, 0.8))
    for name, value in base.items():
        if isinstance(value, bool):
            continue
        if name in meaning and (value is None or isinstance(value, int)):
            settings[name] = TINY[meaning[name]]
        elif isinstance(value, int) and value > LARGE and not name.endswith("_id"):
            settings[name] = TURNED if "rot" in name or "rope" in name else next(unknown)
        elif isinstance(value, float | int) and "drop" in name:
            settings[name] = 0.0
        elif value == 1 and isinstance(value, float) and any(word in name for word in ("mult", "scal")):
            settings[name] = next(factors)  # or it would not show
        elif name.endswith("_id"):
            settings[name] = {"pad_token_id": 0, "bos_token_id": 1}.get(name, 2) if value is not None else None
    rotary = base.get("rope_parameters")
    if isinstance(rotary, dict) and rotary.get("rope_type", "default") != "default":  # its scalings are variants of it
        kept = {name: one for name, one in rotary.items() if name in ("rope_theta", "partial_rotary_factor")}
        settings |= {f"rope_parameters.{name}": one for name, one in {**kept, "rope_type": "default"}.items()}
    layers = TINY["layers"]
    kinds = {
        name: list(dict.fromkeys(value))
        for name, value in base.items()
        if name.endswith("_types") and isinstance(value, list) and value and isinstance(value[0], str)
    }
    layers = max(layers, *map(len, kinds.values())) if kinds else layers
    count = [name for name in settings if meaning.get(name) == "layers"]
    settings |= dict.fromkeys(count, layers)
    settings |= {name: [*values, *[values[-1]] * layers][:layers] for name, values in kinds.items()}
    kv = [name for name in settings if meaning.get(name) == "kv_heads"]
    yield settings
    yield settings | dict.fromkeys(kv, TINY["heads"])
    whole = dict.fromkeys((one for one in settings if meaning.get(one) == "head_width"), TINY["width"] // TINY["heads"])
    yield settings | whole
    yield settings | whole | dict.fromkeys(kv, TINY["heads"])
    without = {name: value for name, value in settings.items() if name in meaning or "drop" in name}
    yield without
    yield without | dict.fromkeys(count, 4)


def subject_of(source: str, *, revision: str | None = None, offline: bool = False) -> Subject:
    """Whatever is to be read: MODULE:CLASS, a folder or a Hub id, or a model_type. Raises: SourceError and others."""
    if ":" in source:
        return of_class(source)
    if is_folder(source) or "/" in source:
        return of_source(source, revision=revision, offline=offline)
    return of_transformers(source)


# --- classes of one's own ---


def of_class(name: str) -> Subject:
    """A class or function of one's own, as my_model.py:GPT, at tiny sizes. Raises: SourceError, CodeError."""
    arch = architecture("llama")  # whose sizes have a name for most that people ask for
    tiny: dict[str, Any] = {one: TINY[one] for one in OTHERS if one in TINY and one != "head_width"}
    given = Sizes(arch, arch.config_class(**tiny))

    def make(settings: Mapping[str, Any]) -> nn.Module:
        return made(name, given.changed(settings))

    asked = given.changed({})
    module = made(name, asked).eval()
    with torch.no_grad():
        run(module, ids_of(TINY["vocab_size"]))
    config = {one: asked[one] for one in sorted(asked.read)}
    own = name.rpartition(":")[2]
    return Subject(own, name, config, make, config, None, (own,))
