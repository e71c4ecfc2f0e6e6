"""Which formats of other libraries there are: the file name is the registry; what config and tensors of one mean."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch

from .config import DecoderConfig, required
from .errors import ConfigError, MappingError, UnsupportedError
from .files.checkpoint import Checkpoint
from .mappings import formats as mappings
from .registry import Architecture, architecture, skeleton
from .translate.fields import read_config, require_writable, write_config
from .translate.formats import Format, said_otherwise, same_there
from .translate.key_names import unwrapped
from .translate.planning import plan
from .translate.table import Table


@cache
def formats() -> dict[str, Format]:
    """Every format beside transformers' own, by its name."""
    names = [module.name for module in iter_modules(mappings.__path__)]
    return {name: import_module(f"{mappings.__name__}.{name}").FORMAT for name in names}


def format_named(name: object) -> Format:
    """A format by its name. Raises: UnsupportedError, listing what there is."""
    if name not in formats():
        raise UnsupportedError({f"{name!s:.60}": f"no such, archport knows {', '.join(formats())}"}, "format")
    return formats()[str(name)]


@dataclass(frozen=True)
class Reading:
    """What a config of another library may mean: an architecture with the table for it, our config, transformers'.

    `notes` are lines on what is taken as that config says, and the library computes otherwise.
    """

    architecture: Architecture
    config: DecoderConfig
    hf: Mapping[str, Any]
    unknown: tuple[str, ...]
    options: Mapping[str, bool]
    notes: tuple[str, ...] = ()


def readings(checkpoint: Checkpoint, tied: bool | None) -> Iterator[Reading | ConfigError]:
    """What the config of a checkpoint in another format may mean, the likeliest first, or why it does not mean that.

    `tied` goes before what any config says of the head.
    """
    kind, said = format_named(checkpoint.format), checkpoint.origin.hf.get("model_type")
    given = checkpoint.settings
    if given is not None and (missing := sorted(_needed_by_all(kind) - given.keys())):
        yield ConfigError(dict.fromkeys(missing, "missing"), f"{checkpoint.weights_name}: {kind.title}'s config")
        return
    for name, table in sorted(kind.tables, key=lambda pair: pair[0] != said):
        arch = replace(architecture(name), table=table)
        try:
            own = checkpoint.settings is not None
            yield _of_settings(checkpoint, kind, arch, tied) if own else _of_hf(checkpoint, kind, arch, tied)
        except ConfigError as error:
            yield error


def _needed_by_all(kind: Format) -> set[str]:
    """The fields without which a config of a format describes no model of any architecture."""
    needed = [
        {table.field(ours).spellings[0] for ours in required(architecture(name).config_class) if ours in table.config}
        for name, table in kind.tables
    ]
    return set.intersection(*needed) - kind.defaults.keys()


def _of_settings(checkpoint: Checkpoint, kind: Format, arch: Architecture, tied: bool | None) -> Reading:
    """What the format's own config means; a config.json beside it says the rest, where both say the same."""
    where, table, hf = f"{checkpoint.weights_name}: {kind.title}'s config", arch.table, checkpoint.origin.hf
    settings = {**kind.defaults, **(checkpoint.settings or {})}
    config, unknown = read_config(table, arch.config_class, settings, where)
    noted = None
    if hf.get("model_type") == arch.name:
        whole = read_config(architecture(arch.name).table, arch.config_class, hf, where)[0]
        if same_there(table, whole, config):
            config, noted = whole, hf
    return _reading(arch, config, tied, noted, settings, unknown)


def _of_hf(checkpoint: Checkpoint, kind: Format, arch: Architecture, tied: bool | None) -> Reading:
    """What transformers' config means for tensors of a format. Raises: ConfigError where the format has no such."""
    hf, where = checkpoint.origin.hf, checkpoint.origin.name
    if hf.get("model_type") != arch.name:
        found = {"model_type": f"found {hf.get('model_type')!r:.60}, expected {arch.name!r}"}
        raise ConfigError(found, where)
    config, unknown = read_config(architecture(arch.name).table, arch.config_class, hf, where)
    require_writable(arch.table, config, where)
    notes = (
        f"{where}: {field} is {value!r} in this config, and {theirs!r} in {kind.title}: taken as the config says"
        for field, value, theirs in said_otherwise(arch.table, config)
        if field != "tied"  # which the tensors say
    )
    return replace(_reading(arch, config, tied, hf, hf, unknown), notes=tuple(notes))


def _reading(
    arch: Architecture,
    config: DecoderConfig,
    tied: bool | None,
    origin: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    unknown: tuple[str, ...],
) -> Reading:
    config = config if tied is None else replace(config, tied=tied)
    hf = write_config(architecture(arch.name).table, config, arch.name, origin)
    return Reading(arch, config, hf, unknown, {"without_biases": settings.get(arch.table.bias_field or "") is False})


def in_another_library_s_names(error: ConfigError, checkpoint: Checkpoint) -> ConfigError:
    """The error for a config of no architecture that we can tell: whose it is, where it has another library's names."""
    for name, kind in formats().items():
        if _needed_by_all(kind) <= checkpoint.origin.hf.keys():
            how = f'archport.from_state_dict(config, state_dict, format="{name}") takes it'
            said = f"missing, and the other fields are {kind.title}'s: this is {kind.title}'s format: {how}"
            return ConfigError({"model_type": said}, checkpoint.config_name)
    return error


def in_another_format(
    error: MappingError, checkpoint: Checkpoint, arch: Architecture, config: DecoderConfig
) -> MappingError:
    """The error for tensors that are not as transformers has them: what they are, where they are another format's."""
    for name, kind in formats().items():
        if any(_fits(table, checkpoint, arch, config) for table in kind.tables_of(arch.name)):
            how = f'archport.from_state_dict(config, state_dict, format="{name}") takes it'
            return MappingError([f"{kind.unlike}: this is {kind.title}'s format: {how}"], checkpoint.origin.name)
    return error


def _fits(table: Table, checkpoint: Checkpoint, arch: Architecture, config: DecoderConfig) -> bool:
    """Whether the tensors of a checkpoint are those of a format, by their names and shapes."""
    where = checkpoint.origin.name
    try:
        names = unwrapped(table, checkpoint.headers, where)[0]
        present = {meaning for name in names for meaning in table.canonical(name)}
        if not any(present.issuperset(row.keys) for row in table.rows("embed.tokens.weight", config, present)):
            return False  # which every model has: no need to compare thousands of others
        headers = {name: checkpoint.headers[key] for name, key in names.items()}
        plan(table, config, skeleton(arch, config), headers, dtype=torch.float32, where=where, without_biases=True)
    except MappingError:
        return False
    return True
