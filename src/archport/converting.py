"""A model in another library's format, written by one of its tables."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import DecoderConfig, Origin
from .errors import AsideWarning, ConfigError, ExportError, plain
from .files.format_writer import check_place, write_beside_yaml, write_file, write_folder
from .files.pickle_file import beside_tensors
from .formats import format_named
from .registry import Architecture
from .translate.formats import Format, said_otherwise, settings_of
from .translate.table import Table
from .translate.tensors import Outgoing, export_tensors

SHOWN = 5  # names in a message


def check_format(path: Path, name: str, *, force: bool = False) -> None:
    """Look at a target before anything is computed for it. Raises: ExportError, UnsupportedError."""
    kind = format_named(name)
    check_place(path, folder=kind.settings_key is None, force=force)
    if path.is_file():
        written = {kind.tensors_key, kind.settings_key, "hf_config"}
        lost = [
            one for one, value in beside_tensors(path).items() if one not in written and not _ours(kind, one, value)
        ]
        if lost:
            found = f"found {', '.join(map(repr, lost[:SHOWN]))}, which no export writes and which would be lost"
            raise ExportError(f"{path}: {plain(found)}: choose another name, or move it")


def _ours(kind: Format, name: str, value: Any) -> bool:
    """Whether what a file has beside its model is what an export writes there."""
    return name in kind.others and not isinstance(value, Tensor) and bool(value == kind.others[name])


def write_format(
    path: Path,
    name: str,
    arch: Architecture,
    config: DecoderConfig,
    parameters: Mapping[str, nn.Parameter],
    hf: Mapping[str, Any],
    origin: Origin | None,
    *,
    dtype: torch.dtype | None = None,
    force: bool = False,
) -> Path:
    """Write a model, whose config and parameters agree, in a format by its name; the path is returned.

    What its config does not say lies beside it, as transformers says it, where that library does not look.

    Raises: ExportError for a target that cannot be written or a model that the format has no room for.
    """
    kind = format_named(name)
    path = path.expanduser().resolve()
    check_format(path, name, force=force)
    table, settings = settings_in(kind, arch, config)
    if table.bias_field is not None:
        settings[table.bias_field] = any(p.detach().any() for n, p in parameters.items() if n.endswith(".bias"))
        parameters = {n: p for n, p in parameters.items() if settings[table.bias_field] or not n.endswith(".bias")}
    tensors = export_tensors(table, config, with_more(table, parameters), dtype=dtype)
    same = _shared(table, config)
    for field, value, theirs in said_otherwise(table, config):
        said = f"{field} is {value!r} in this model, and {theirs!r} in {kind.title}, which has no field for it"
        warnings.warn(AsideWarning(f"{path}: {said}: logits differ there"), stacklevel=3)
    if kind.settings_key is not None:

        def around(held: dict[str, Tensor]) -> dict[str, Any]:
            settled = {str(kind.tensors_key): held, str(kind.settings_key): settings}
            return {**settled, **kind.others, "hf_config": dict(hf)}

        write_file(path, tensors, same, around)
        return path
    settings["hf_config"] = {"name": settings.get("name", arch.name), "org": "archport", "config": dict(hf)}
    if path.suffix:
        write_beside_yaml(path, tensors, same, settings)
    else:
        write_folder(path, tensors, same, settings, hf, origin, force=force)
    return path


def settings_in(kind: Format, arch: Architecture, config: DecoderConfig) -> tuple[Table, dict[str, Any]]:
    """The table of a format for a model, and its config there. Raises: ExportError."""
    errors = []
    for table in kind.tables_of(arch.name):
        try:
            return table, settings_of(table, config, kind.title)
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise ExportError(f"{kind.title} has no such {arch.name}: {min(errors, key=lambda one: len(one.faults))}")
    names = dict.fromkeys(name for name, _ in kind.tables)
    raise ExportError(f"found a {arch.name}, {kind.title}'s format is for {', '.join(names)}")


def with_more(table: Table, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters, and what a format has beside them: zeros, and repeated ones."""
    more: dict[str, Tensor] = {}
    for name, shape in table.beside({name: tuple(one.shape) for name, one in parameters.items()}).items():
        other, like = table.repeated(name), parameters.get(f"{name.removesuffix('bias')}weight")
        if other is not None:
            more[name] = parameters[other]
        elif like is not None:
            more[name] = like.new_zeros(shape)
    return {**parameters, **more}


def _shared(table: Table, config: DecoderConfig) -> dict[str, str]:
    """The key of a tied head that lies as its embedding does, and so in the same memory."""
    if not config.tied:
        return {}
    head, embedding = (table.row(name, config) for name in ("head.weight", "embed.tokens.weight"))
    return {head.keys[0]: embedding.keys[0]} if head.pattern is None and embedding.pattern is None else {}


def tensors_as(table: Table, config: DecoderConfig, parameters: Mapping[str, Tensor]) -> dict[str, Outgoing]:
    """Every tensor of a model under its key in a format."""
    return export_tensors(table, config, with_more(table, parameters))
