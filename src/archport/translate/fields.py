"""Config fields: a parsed config.json to our Config and back, by the key table."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from ..config import DecoderConfig
from ..errors import ConfigError, UnsupportedError
from .table import Table

C = TypeVar("C", bound=DecoderConfig)

# Without an origin nothing is known of special tokens, and HF's own defaults may lie outside the vocabulary.
NO_ORIGIN: Mapping[str, Any] = {"bos_token_id": None, "eos_token_id": None}


def read_config(table: Table, config_class: type[C], hf: Mapping[str, Any], where: str) -> tuple[C, tuple[str, ...]]:
    """Our config from a parsed config.json, and those of its fields that the table does not know.

    Raises: UnsupportedError for a value that would change the mathematics; ConfigError for a field that is missing,
    malformed or contradicts another one.
    """
    flat = _flatten(table, hf, where)
    _stop(dict(_refused(table, flat)), where, UnsupportedError)
    values, said_by = _values(table, flat, where)
    required = [item.name for item in fields(config_class) if item.default is MISSING and item.name not in values]
    _stop({table.field(name).spellings[0]: f"missing, it gives {name}" for name in required}, where)
    try:
        cfg = config_class(**values)
    except ConfigError as error:
        raise ConfigError({said_by.get(name, name): text for name, text in error.faults.items()}, where) from None
    _stop(dict(_contradictions(table, cfg, flat, said_by)), where)
    return cfg, tuple(sorted(flat.keys() - table.known_fields))


def _values(table: Table, flat: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The value of each of our fields that the config gives, and the spelling that gave it; all spellings agree."""
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
    _stop(faults, where)
    return values, said_by


def _contradictions(
    table: Table, cfg: DecoderConfig, flat: Mapping[str, Any], said_by: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    for echo, name in table.echoes.items():
        ours = getattr(cfg, name)
        if flat.get(echo) not in (None, ours):
            default = f"the default of {table.field(name).spellings[0]}" if name in table.config else f"our {name}"
            yield echo, f"found {flat[echo]!r}, but {said_by.get(name) or default} is {ours!r}"


def _refused(table: Table, flat: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    classes = flat.get("architectures")
    if classes and not (isinstance(classes, list) and set(map(str, classes)) <= set(table.classes)):
        yield "architectures", f"found {classes!r}, archport builds {' or '.join(table.classes)}"
    for name, allowed in table.requires.items():
        if flat.get(name) is not None and flat[name] not in allowed:
            expected = f"archport builds {' or '.join(map(repr, allowed))}" if allowed else "expected none"
            yield name, f"found {flat[name]!r}, {expected}"
    for name in table.config:
        spellings, meaning = table.field(name)
        for spelling in spellings:
            if meaning and spelling in flat and not (isinstance(flat[spelling], str) and flat[spelling] in meaning):
                yield spelling, f"found {flat[spelling]!r}, archport builds {', '.join(meaning)}"
    for name in sorted(flat.keys() - table.known_fields):
        if "." in name and name.partition(".")[0] in _opened(table):
            yield name, f"found {flat[name]!r}, a setting archport does not know"


def _stop(faults: dict[str, str], where: str, kind: type[ConfigError] = ConfigError) -> None:
    if faults:
        raise kind(faults, where)


def write_config(
    table: Table, cfg: DecoderConfig, architecture: str, origin: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A complete config.json for a model: the origin's own wherever it still says the same, ours where it does not."""
    hf: dict[str, Any] = {key: dict(v) if isinstance(v, dict) else v for key, v in (origin or NO_ORIGIN).items()}
    hf |= {"model_type": architecture, "architectures": [table.classes[0]]}
    said = read_config(table, type(cfg), hf, "config")[0] if origin else None
    flat = _flatten(table, hf, "config")
    defaults = {item.name: item.default for item in fields(cfg)}
    for name in table.config:
        value = getattr(cfg, name)
        spellings, meaning = table.field(name)
        null = any(flat.get(spelling, value) is None for spelling in spellings) and name not in table.nullable
        if said is not None and getattr(said, name) == value and not null:
            continue
        theirs = next((spelling for spelling, ours in meaning.items() if ours == value), value)
        optional = "." in spellings[0] and value == defaults[name]
        for spelling in [s for s in spellings if s in flat] or ([] if optional else spellings[:1]):
            outer, _, inner = spelling.partition(".")
            hf[outer] = {**(hf.get(outer) or {}), inner: theirs} if inner else theirs
    return hf


def _opened(table: Table) -> set[str]:
    """The config fields that are objects the table looks into."""
    return {name.partition(".")[0] for name in table.known_fields if "." in name}


def _flatten(table: Table, hf: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a config; those inside an object that the table looks into are spelt `outer.inner`."""
    ignored = {hidden for name, hidden in table.overrides.items() if hf.get(name)}
    flat: dict[str, Any] = {}
    for name, value in hf.items():
        if name not in _opened(table):
            flat[name] = value
        elif isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": v for inner, v in value.items() if name not in ignored}
        elif value is not None:
            raise ConfigError({name: f"found {value!r}, expected an object"}, where)
    return flat
