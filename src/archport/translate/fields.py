"""Config fields: a parsed config.json to our Config and back, by the key table."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ..checking import frozen, shown, thawed
from ..config import DecoderConfig, required
from ..errors import ConfigError, UnsupportedError
from .quantised import PLAIN, scheme
from .table import Table

C = TypeVar("C", bound=DecoderConfig)

# Without an origin nothing is known of special tokens, and HF's own defaults may lie outside the vocabulary.
NO_ORIGIN: Mapping[str, Any] = {"bos_token_id": None, "eos_token_id": None}

# Classes of models whose own head says something else than the next token.
OTHER_TASK = re.compile("Classification|QuestionAnswering|MultipleChoice|Reward|Regression|Scor")


def read_config(table: Table, config_class: type[C], hf: Mapping[str, Any], where: str) -> tuple[C, tuple[str, ...]]:
    """Our config from a parsed config.json, and those of its fields that the table does not know.

    Raises: UnsupportedError for a value that would change the mathematics; ConfigError for a field that is missing,
    malformed or contradicts another one.
    """
    flat = _flatten(table, hf, where)
    _stop(dict(_refused(table, flat)), where, UnsupportedError)
    values, sources = _values(table, flat, where)
    fields_of = {item.name for item in fields(config_class) if item.init}
    lost = {name: value for name, value in table.lost.items() if name in fields_of}
    values = {**lost, **values} | {name: allowed[0] for name, allowed in table.fixed.items()}
    _stop(_unlike(table, config_class), where)
    _stop(
        {
            table.field(name).spellings[0]: f"missing, it gives {name}"
            for name in required(config_class)
            if name not in values
        },
        where,
    )
    try:
        cfg = config_class(**values)
    except ConfigError as error:
        raise ConfigError({sources.get(name, name): text for name, text in error.faults.items()}, where) from None
    _stop(dict(_contradictions(table, cfg, flat, sources)), where)
    return cfg, tuple(sorted(name for name in flat if not table.knows(name)))


def require_language_model(table: Table, hf: Mapping[str, Any], where: str) -> None:
    """Refuse a class of models with a head for another task only. Raises: UnsupportedError."""
    classes = hf.get("architectures") or []
    if any(OTHER_TASK.search(name) for name in classes):
        wanted = f"a head of another task, archport builds {' or '.join(table.classes)}"
        raise UnsupportedError({"architectures": f"found {classes!r}, {wanted}"}, where)


def remote_code(hf: Mapping[str, Any]) -> dict[str, str]:
    """What a config says of code of its own for the model, by its field; empty where it has none."""
    named = hf.get("auto_map")
    named = named if isinstance(named, Mapping) else {}
    code = next((named[name] for name in ("AutoModelForCausalLM", "AutoModel") if name in named), None)
    return {} if code is None else {"auto_map": f"found code for the model, {code}, which archport never runs"}


def config_notes(table: Table, cfg: DecoderConfig, hf: Mapping[str, Any]) -> Iterator[str]:
    """A line for each field of a config.json that asks for something else than what is built."""
    others = [name for name in hf.get("architectures") or [] if name not in table.classes]
    if others:
        yield f"architectures: found {', '.join(others)}, loaded as {table.classes[0]}, which the tensors are"
    for name, text in remote_code(hf).items():
        yield f"{name}: {text}: it builds its own {table.classes[0]}, as transformers does unless told to trust that"
    for spelling in sorted(table.unread & hf.keys()):
        name, value = table.must_agree[spelling], hf[spelling]
        if value is not None and frozen(value) != getattr(cfg, name):
            first = table.field(name).spellings[0]
            yield f"{spelling}: found {value!r}, which transformers does not read: {first} is {getattr(cfg, name)!r}"


def _unlike(table: Table, config_class: type[DecoderConfig]) -> dict[str, str]:
    """Rows of a key table that its Config has no field for, and fields that need a row and have none."""
    names = {item.name for item in fields(config_class) if item.init}
    faults = {
        name: "has a row in the key table, but is no field of Config" for name in table.config if name not in names
    }
    missing = [name for name in required(config_class) if name not in table.config and name not in table.fixed]
    return faults | dict.fromkeys(missing, "has no default, and no row in the key table")


def _values(table: Table, flat: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The value of each of our fields that the config gives, and the spelling that gave it; all spellings agree."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    faults: dict[str, str] = {}
    for name in table.config:
        cell = table.field(name)
        given = cell.given(flat)
        # A null asks for the architecture's rule, unless another spelling gives the value.
        for spelling in [s for s in given if flat[s] is not None] or given[:1]:
            value = cell.ours(flat[spelling])
            if name in values and frozen(values[name]) != frozen(value):
                faults[spelling] = f"found {flat[spelling]!r}, but {sources[name]} is {flat[sources[name]]!r}"
            values.setdefault(name, value)
            sources.setdefault(name, spelling)
    _stop(faults, where)
    for name in values:
        if (whole := table.field(name).of) is not None:
            values[name] = table.field(name).share(values[name], values.get(whole))
    return values, sources


def _contradictions(
    table: Table, cfg: DecoderConfig, flat: Mapping[str, Any], sources: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    for spelling, name in table.must_agree.items():
        value, ours = flat.get(spelling), getattr(cfg, name)
        if spelling not in table.unread and value is not None and frozen(value) != ours:
            default = f"the default of {table.field(name).spellings[0]}" if name in table.config else f"our {name}"
            yield spelling, f"found {value!r}, but {sources.get(name) or default} is {ours!r}"


def _refused(table: Table, flat: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    classes = flat.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        yield "architectures", f"found {classes!r}, expected a list of names"
    for name, allowed in table.requires.items():
        if flat.get(name) is not None and frozen(flat[name]) not in map(frozen, allowed):
            expected = f"archport builds {' or '.join(map(repr, allowed))}" if allowed else "expected none"
            if name == "quantization_config":
                yield name, f"found {scheme(flat[name])} weights, {expected}: {PLAIN}"
            else:
                yield name, f"found {flat[name]!r}, {expected}"
    if table.bias_field is not None and type(flat.get(table.bias_field, True)) is not bool:
        yield table.bias_field, f"found {flat[table.bias_field]!r}, expected True or False"
    for cell in map(table.field, table.config):
        for spelling in cell.given(flat):
            try:
                cell.ours(flat[spelling])
            except KeyError:
                yield spelling, f"found {flat[spelling]!r}, archport builds {', '.join(map(str, cell.values))}"
    opened = _opened(table)
    for name in sorted(flat):
        if name.rpartition(".")[0] in opened and not table.knows(name):
            yield name, f"found {flat[name]!r}, a setting archport does not know"


def _stop(faults: dict[str, str], where: str, kind: type[ConfigError] = ConfigError) -> None:
    if faults:
        raise kind(faults, where)


def require_writable(table: Table, cfg: DecoderConfig, where: str) -> None:
    """Refuse a config that the table's files cannot say. Raises: ConfigError.

    A field with a row has a value that the row knows; one without has the value that it has when it is not given.
    """
    _stop(_unlike(table, type(cfg)), where)
    faults = {}
    for name in table.config:
        cell = table.field(name)
        try:
            cell.theirs(getattr(cfg, name))
        except KeyError:
            known = dict.fromkeys(map(str, cell.values.values()))
            faults[name] = f"found {shown(getattr(cfg, name))}, expected one of {', '.join(known)}"
    _stop(faults, where)
    for name, allowed in table.fixed.items():
        if getattr(cfg, name) not in allowed:
            faults[name] = f"found {shown(getattr(cfg, name))}, expected {' or '.join(map(repr, allowed))}"
    said = {*table.config, *table.fixed}
    try:
        default = type(cfg)(**{name: getattr(cfg, name) for name in said})
    except ConfigError:  # what follows from the others is what is wrong
        default = None
    why = "the key table has no row for it"
    for item in fields(cfg):
        value, expected = getattr(cfg, item.name), getattr(default or item, item.name if default else "default")
        free = item.name in said or item.name in table.lost or cfg.follows(item.name)
        if item.init and not free and value != expected:
            remedy = "; None has it follow the other fields" if item.default is None else ""
            faults[item.name] = f"found {shown(value)}, expected {shown(expected)}: {why}{remedy}"
    _stop(faults, where)


def write_config(
    table: Table, cfg: DecoderConfig, architecture: str, origin: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A complete config.json for a model: the origin's own wherever it still says the same, ours where it does not."""
    known = origin or {**NO_ORIGIN, **table.written}
    hf: dict[str, Any] = {key: dict(v) if isinstance(v, dict) else v for key, v in known.items()}
    hf |= {"model_type": architecture, "architectures": [table.classes[0]]}
    require_writable(table, cfg, f"config of {architecture}")
    flat = _flatten(table, hf, "config")
    defaults = {item.name: item.default for item in fields(cfg)}
    for name in _changed(table, cfg, flat, hf if origin else None):
        cell, value = table.field(name), getattr(cfg, name)
        optional = "." in cell.spellings[0] and value == defaults[name]
        given = [s for s in cell.spellings if s in flat]
        # What an origin lacks goes into an object that it has, or it might write one that supersedes that.
        beside = [
            s for s in cell.spellings if "." in s and any(other.startswith(s.rpartition(".")[0]) for other in flat)
        ]
        for spelling in given or ([] if optional else (beside or cell.spellings)[:1]):
            put(hf, spelling, thawed(cell.theirs(value)))
    for spelling, name in table.must_agree.items():
        if flat.get(spelling) is not None and frozen(flat[spelling]) != getattr(cfg, name):
            put(hf, spelling, thawed(getattr(cfg, name)))
    again = read_config(table, type(cfg), hf, f"config of {architecture}")[0]
    lost = [name for name in table.config if getattr(again, name) != getattr(cfg, name)]
    _stop({name: f"found {shown(getattr(cfg, name))}, but another field has the same key" for name in lost}, "config")
    return hf


def _changed(
    table: Table, cfg: DecoderConfig, flat: Mapping[str, Any], origin: Mapping[str, Any] | None
) -> Iterator[str]:
    """The fields to write: all, or those that an origin says otherwise, or leaves to a rule that is ours alone."""
    before = read_config(table, type(cfg), origin, "config")[0] if origin else None
    for name in table.config:
        cell, value = table.field(name), getattr(cfg, name)
        null = any(flat.get(spelling, value) is None for spelling in cell.spellings)
        ours_alone = (null and name not in table.nullable) or cell.given(flat) == [cell.otherwise]
        if before is None or getattr(before, name) != value or ours_alone:
            yield name


def put(hf: dict[str, Any], spelling: str, value: Any) -> None:
    """Give a field of a config a value; `a.b` is field b of the object a."""
    outer, _, inner = spelling.partition(".")
    if inner:
        hf[outer] = dict(hf.get(outer) or {})
        put(hf[outer], inner, value)
    else:
        hf[outer] = value


def _opened(table: Table) -> set[str]:
    """The config fields that are objects the table looks into."""
    paths = [name.split(".") for name in table.fields]
    return {".".join(path[:length]) for path in paths for length in range(1, len(path))}


def _flatten(table: Table, hf: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a config; those inside an object that the table looks into are named `outer.inner`."""
    ignored = {hidden for name, hidden in table.supersedes.items() if hf.get(name)}
    opened = _opened(table)

    def flat(outer: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for inner, value in fields.items():
            name = outer + inner
            if name not in opened:
                yield name, value
            elif isinstance(value, Mapping):
                yield from flat(f"{name}.", {} if name in ignored else value)
            elif value is not None:
                raise ConfigError({name: f"found {value!r}, expected an object"}, where)

    return dict(flat("", hf))
