"""A decoder class of transformers at tiny sizes: its own config, or a given one, shrunk by what its fields mean."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ..errors import SourceError, in_a_line
from ..files.checkpoint import CONFIG, MAX_CONFIG
from ..files.source import companions
from ..files.strict_json import read_json
from ..mappings import COMMON_HARMLESS, COMMON_REQUIRES
from ..parity.references import building, with_plain_experts
from .subject import MOST, TINY, Subject, ids_of, loud, run, spellings

LARGE = 24  # for a whole number that none of our words means
TURNED = 8  # of a head, by rotary positions, where that is a number


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
    kinds = {
        name: list(dict.fromkeys(value))
        for name, value in base.items()
        if name.endswith("_types") and isinstance(value, list) and value and isinstance(value[0], str)
    }
    layers = max([TINY["layers"], *map(len, kinds.values())])
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
