"""Config fields: a parsed config.json to our Config and back, by the key table."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from .config import DecoderConfig
from .errors import ConfigError, UnsupportedError
from .table import Table

C = TypeVar("C", bound=DecoderConfig)

# Without an origin nothing is known of special tokens, and HF's own defaults may lie outside the vocabulary.
NO_ORIGIN: Mapping[str, Any] = {"bos_token_id": None, "eos_token_id": None}


def read_config(table: Table, config_class: type[C], hf: Mapping[str, Any], where: str) -> tuple[C, tuple[str, ...]]:
    """Our config from a parsed config.json, and those of its fields that the table does not know.

    Raises: UnsupportedError for a value that would change the mathematics; ConfigError for a field that is missing,
    malformed or contradicts another one.
    """
    flat = _flatten(table, hf)
    refused = dict(_refused(table, flat))
    if refused:
        raise UnsupportedError(refused, where)
    values: dict[str, Any] = {}
    said_by: dict[str, str] = {}
    faults: dict[str, str] = {}
    for name in table.config:
        spellings, meaning = table.field(name)
        given = [spelling for spelling in spellings if spelling in flat]
        # A null asks for the architecture's rule, unless another spelling gives the value.
        for spelling in [s for s in given if flat[s] is not None] or given[:1]:
            value = meaning[flat[spelling]] if meaning else flat[spelling]
            if name in values and values[name] != value:
                faults[spelling] = f"found {flat[spelling]!r}, but {said_by[name]} is {flat[said_by[name]]!r}"
            values.setdefault(name, value)
            said_by.setdefault(name, spelling)
    for item in fields(config_class):
        if item.default is MISSING and item.name not in values:
            faults[table.field(item.name).spellings[0]] = f"missing, it gives {item.name}"
    if faults:
        raise ConfigError(faults, where)
    try:
        cfg = config_class(**values)
    except ConfigError as error:
        raise ConfigError({said_by.get(name, name): text for name, text in error.faults.items()}, where) from None
    for echo, name in table.echoes.items():
        if flat.get(echo) not in (None, getattr(cfg, name)):
            source = said_by.get(name) or f"the default of {table.field(name).spellings[0]}"
            faults[echo] = f"found {flat[echo]!r}, but {source} is {getattr(cfg, name)!r}"
    if faults:
        raise ConfigError(faults, where)
    return cfg, tuple(sorted(flat.keys() - table.known_fields))


def _refused(table: Table, flat: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    classes = flat.get("architectures")
    if classes and not (isinstance(classes, list) and set(map(str, classes)) <= set(table.classes)):
        yield "architectures", f"found {classes!r}, archport builds {' or '.join(table.classes)}"
    for name, allowed in table.requires.items():
        if flat.get(name) is not None and flat[name] not in allowed:
            yield name, f"found {flat[name]!r}, archport builds {' or '.join(map(repr, allowed))}"
    for name in table.config:
        spellings, meaning = table.field(name)
        for spelling in spellings:
            if meaning and spelling in flat and not (isinstance(flat[spelling], str) and flat[spelling] in meaning):
                yield spelling, f"found {flat[spelling]!r}, archport builds {', '.join(meaning)}"


def write_config(
    table: Table, cfg: DecoderConfig, architecture: str, origin: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A complete config.json for a model: the origin's own wherever it still says the same, ours where it does not."""
    hf: dict[str, Any] = {key: dict(v) if isinstance(v, dict) else v for key, v in (origin or NO_ORIGIN).items()}
    hf |= {"model_type": architecture, "architectures": [table.classes[0]]}
    said = read_config(table, type(cfg), hf, "config")[0] if origin else None
    flat = _flatten(table, hf)
    defaults = {item.name: item.default for item in fields(cfg)}
    for name in table.config:
        value = getattr(cfg, name)
        if said is not None and getattr(said, name) == value:
            continue
        spellings, meaning = table.field(name)
        theirs = next((spelling for spelling, ours in meaning.items() if ours == value), value)
        optional = "." in spellings[0] and value == defaults[name]
        for spelling in [s for s in spellings if s in flat] or ([] if optional else spellings[:1]):
            outer, _, inner = spelling.partition(".")
            hf[outer] = {**(hf.get(outer) or {}), inner: theirs} if inner else theirs
    return hf


def _flatten(table: Table, hf: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config; those inside an object that the table looks into are spelt `outer.inner`."""
    opened = {name.partition(".")[0] for name in table.known_fields if "." in name}
    flat: dict[str, Any] = {}
    for name, value in hf.items():
        if name not in opened:
            flat[name] = value
        elif isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": v for inner, v in value.items()}
        elif value is not None:
            raise ConfigError({name: f"found {value!r}, expected an object"})
    return flat
