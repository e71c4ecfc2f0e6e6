"""A config as a person gives it: ours, transformers', or a dictionary in the names of any library that we know."""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .config import DecoderConfig, Origin, required
from .errors import AsideWarning, ConfigError
from .formats import formats
from .registry import Architecture, architecture
from .translate.fields import read_config, require_language_model
from .translate.formats import Format
from .translate.planning import nearest
from .translate.table import Table

Way = tuple[Format, Table]  # in which another library may write the config of an architecture


def as_dict(cfg: Any) -> Mapping[str, Any]:
    """A dictionary of names, or a config of transformers as one. Raises: ConfigError."""
    if isinstance(cfg, Mapping):
        if other := [name for name in cfg if not isinstance(name, str)]:
            raise ConfigError({f"{other[0]!r:.60}": "no name of a field, expected text"})
        return cfg
    if hasattr(cfg, "model_type") and hasattr(cfg, "to_dict"):
        return cfg.to_dict()  # type: ignore[no-any-return]
    kind = f"{type(cfg).__module__}.{type(cfg).__name__}"
    raise ConfigError(
        {"config": f"found a {kind}, expected the architecture's own Config, a dict or a transformers config"}
    )


def config_of(arch: Architecture, cfg: Any) -> tuple[DecoderConfig, Origin | None]:
    """Our config from any of its forms, and the HF config it came from.

    A dictionary without a model_type is in the names of which it has most, ours before transformers' before a format's.

    Raises: ConfigError, also for names of two libraries.
    """
    if isinstance(cfg, arch.config_class):
        return cfg, None
    values = as_dict(cfg)
    if (named := values.get("model_type")) is not None:
        if architecture(named) != arch:
            raise ConfigError({"model_type": f"found {named!r}, expected {arch.name!r}"})
        return _of_transformers(arch, values)
    ways = [(kind, table) for kind in formats().values() for table in kind.tables_of(arch.name)]
    ours, theirs = sum(name in _names(arch) for name in values), _known(arch.table, values)
    most = max((_known(table, values) for _, table in ways), default=0)
    if ours >= max(theirs, most):
        return _of_ours(arch, values), None
    if theirs < most:
        return _of_format(arch, [way for way in ways if _known(way[1], values) == most], values), None
    others = {name: _meant(arch, name) for name in values if not _knows(arch.table, name)}
    if mixed := {name: f"no such field{whose}" for name, whose in others.items() if whose}:
        raise ConfigError(mixed, f"config of {arch.name}, in the names of transformers")
    return _of_transformers(arch, {**values, "model_type": arch.name})


def _names(arch: Architecture) -> list[str]:
    return [item.name for item in fields(arch.config_class) if item.init]


def _knows(table: Table, name: str) -> bool:
    """Whether a table has a field, or looks into it."""
    return table.knows(name) or table.decides(name)


def _known(table: Table, values: Mapping[str, Any]) -> int:
    return sum(_knows(table, name) for name in values)


def _of_ours(arch: Architecture, values: Mapping[str, Any]) -> DecoderConfig:
    names = _names(arch)
    faults = {
        name: f"no such field{_meant(arch, name) or nearest(name, names)}" for name in values if name not in names
    }
    faults |= {name: "missing" for name in required(arch.config_class) if name not in values}
    if faults:
        raise ConfigError(faults, f"config of {arch.name}")
    return arch.config_class(**values)


def _of_transformers(arch: Architecture, values: Mapping[str, Any]) -> tuple[DecoderConfig, Origin]:
    try:
        config, _ = read_config(arch.table, arch.config_class, values, "config")
    except ConfigError as error:
        raise type(error)(_strangers(arch, values) | error.faults, "config") from None
    require_language_model(arch.table, values, "config")
    return config, Origin("config", values)


def _strangers(arch: Architecture, values: Mapping[str, Any]) -> dict[str, str]:
    """Names that are not transformers', and what was meant, where we know."""
    tables = [arch.table, *(table for kind in formats().values() for table in kind.tables_of(arch.name))]
    spellings = {spelling for table in tables for ours in table.config for spelling in table.field(ours).spellings}
    strange = [name for name in values if not _knows(arch.table, name)]
    hints = {name: _meant(arch, name) or nearest(name, spellings - values.keys()) for name in strange}
    return {name: f"no such field{hint}" for name, hint in hints.items() if hint}


def _meant(arch: Architecture, name: str) -> str:
    """Whose name for a field of ours one is, as a hint; empty where nobody has it."""
    if name in _names(arch):
        return (
            f": it is archport's name for {arch.table.field(name).spellings[0] if name in arch.table.config else name}"
        )
    for kind in formats().values():
        for table in kind.tables_of(arch.name):
            for ours in table.config:
                if name in table.field(ours).spellings:
                    return f": it is {kind.title}'s name for {ours}"
    return ""


def _of_format(arch: Architecture, ways: list[Way], values: Mapping[str, Any]) -> DecoderConfig:
    """The config as the first way says that can be built. Warns of biases that the library would not have."""
    errors = []
    for kind, table in ways:
        where = f"config of {arch.name}, in the names of {kind.title}"
        whole = {**kind.defaults, **values}
        faults = {
            name: f"no such field{_called(kind, table, name, values)}" for name in values if not _knows(table, name)
        }
        for ours in required(arch.config_class):
            if ours in table.config and not table.field(ours).given(whole):
                faults[table.field(ours).spellings[0]] = f"missing, it gives {ours}"
        try:
            if faults:
                raise ConfigError(faults, where)
            config = read_config(table, arch.config_class, whole, where)[0]
        except ConfigError as error:
            unsaid = kind.defaults.keys() - values.keys()
            own = f"missing, and {kind.title}'s default does not fit: "
            said = {name: f"{own if name in unsaid else ''}{text}" for name, text in error.faults.items()}
            errors.append(type(error)(said, where))
            continue
        if table.bias_field is not None and values.get(table.bias_field) is False:
            zeros = f"found False, but {arch.name} has biases here: they are zeros at first, and training changes them"
            warnings.warn(AsideWarning(f"{where}: {table.bias_field}: {zeros}"), stacklevel=5)
        return config
    raise min(errors, key=lambda error: len(error.faults))


def _called(kind: Format, table: Table, name: str, values: Mapping[str, Any]) -> str:
    """What a format calls a field that it has under another name, as a hint."""
    if name in table.config:
        return f": {kind.title} calls it {table.field(name).spellings[0]}"
    spellings = {spelling for ours in table.config for spelling in table.field(ours).spellings}
    return nearest(name, spellings - values.keys())
