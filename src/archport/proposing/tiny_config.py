"""Settings of a tiny model of a class of transformers: those of its own config, shrunk by what they mean."""

from collections.abc import Iterator, Mapping
from itertools import chain, count
from typing import Any

from ..mappings import COMMON_HARMLESS, COMMON_REQUIRES
from ..parity.references import building
from .subject import TINY, spellings

LARGE = 24  # for a whole number that none of our words means
SHARE = 0.4  # of a head of 10 or 12, which makes an even number
TURNED = 8  # of a head, by rotary positions, where that is a number


def tiny_settings(config_class: Any, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings of a tiny model, the likeliest first: a class's own config, its sizes shrunk by what they mean."""
    aside = COMMON_HARMLESS | COMMON_REQUIRES.keys() | {"architectures", "model_type"}
    kept = {name: value for name, value in given.items() if name not in aside and not name.startswith("_")}
    with building():
        base = config_class(**kept).to_dict()
    meaning = {name: ours for ours, names in spellings().items() for name in names}
    settings = flat({name: value for name, value in kept.items() if name in base})
    unknown, factors = count(20, 2), chain((1.3, 0.7, 1.6, 0.6, 1.9, 0.8), (2 + number / 10 for number in count(1)))
    for name, value in base.items():
        if isinstance(value, bool):
            if name == "is_decoder":  # or some classes see what comes after
                settings[name] = True
            continue
        if name in meaning and (value is None or isinstance(value, int)):
            settings[name] = TINY[meaning[name]]
        elif value is None and "shared_experts" in name:
            settings[name] = 1
        elif isinstance(value, int) and value > LARGE and not name.endswith("_id"):
            settings[name] = TURNED if "rot" in name or "rope" in name else next(unknown)
        elif isinstance(value, float | int) and "drop" in name:
            settings[name] = 0.0
        elif value == 1 and isinstance(value, float) and any(word in name for word in ("mult", "scal")):
            settings[name] = next(factors)  # or it would not show
        elif name.endswith("_id"):
            settings[name] = {"pad_token_id": 0, "bos_token_id": 1}.get(name, 2) if value is not None else None
    shares = [
        n for n, one in flat(base).items() if isinstance(one, float) and one < 1 and ("partial" in n or "pct" in n)
    ]
    settings |= dict.fromkeys(shares, SHARE)
    rotary = base.get("rope_parameters")
    if isinstance(rotary, dict) and rotary.get("rope_type", "default") != "default":  # its scalings are variants of it
        kept = {name: one for name, one in rotary.items() if name in ("rope_theta", "partial_rotary_factor")}
        settings |= {f"rope_parameters.{name}": one for name, one in {**kept, "rope_type": "default"}.items()}
    for name, value in base.items():  # as `GPTNeoConfig` has them: [[["global", "local"], 12]]
        if name.endswith("_types") and isinstance(value, list) and value and isinstance(value[0], list):
            settings[name] = [[value[0][0], max(1, TINY["layers"] // len(value[0][0]))]]
    kinds = {
        name: list(dict.fromkeys(value))
        for name, value in base.items()
        if name.endswith("_types") and isinstance(value, list) and value and isinstance(value[0], str)
    }
    layers = max([TINY["layers"], *map(len, kinds.values())])
    counts = [name for name in settings if meaning.get(name) == "layers"]
    settings |= dict.fromkeys(counts, layers)
    settings |= {name: [*values, *[values[-1]] * layers][:layers] for name, values in kinds.items()}
    kv = [name for name in settings if meaning.get(name) == "kv_heads"]
    yield settings
    yield settings | dict.fromkeys(kv, TINY["heads"])
    whole = dict.fromkeys((one for one in settings if meaning.get(one) == "head_width"), TINY["width"] // TINY["heads"])
    yield settings | whole
    yield settings | dict.fromkeys(whole, TURNED) | dict.fromkeys(kv, TINY["heads"])
    yield settings | whole | dict.fromkeys(kv, TINY["heads"])
    without = {name: value for name, value in settings.items() if name in meaning or "drop" in name}
    yield without
    yield without | dict.fromkeys(counts, 4)


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
        *outer, inner = name.split(".")
        place = config
        for one in outer:
            place = place.setdefault(one, {})
        place[inner] = value
    return config
