"""What each part of a model does, and where each of its tensors lies in a checkpoint."""

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from ..config import DecoderConfig
from ..errors import ConfigError
from ..translate.table import Table
from .describing import Description
from .descriptions import described
from .fact_table import layer_of, layers_in_words
from .layouts import layout
from .selecting import nearest_names
from .subjects import Subject
from .trees import Line, every, folded


def explain(subject: Subject, pattern: str | None = None) -> list[dict[str, Any]]:
    """A row a module, alike blocks once, as `blocks.{n}`: what it does, its tensors' shapes, keys and layout there.

    `layers` says in which it is, where those are not all.
    `pattern` is a part of a path, of a tensor's name or of its key, or a glob of one. Raises: ConfigError.
    """
    rows = list(_rows(subject))
    if pattern is None:
        return rows
    layer = re.search(r"(?:^|\.)(\d+)(?:\.|$)", pattern)
    if layer and int(layer[1]) >= subject.config.layers:
        raise ConfigError({"pattern": f"found layer {layer[1]}, expected 0 to {subject.config.layers - 1}"}, "explain")
    wanted = every(pattern)
    names = [_names(row, subject.architecture.table, subject.config) for row in rows]
    matching = [
        row
        for row, called in zip(rows, names, strict=True)
        if any(wanted in name or fnmatchcase(name, wanted) for name in called)
    ]
    if not matching:
        near = nearest_names(wanted, {name: () for called in names for name in called})
        message = f"found {pattern!r}, which names nothing here; the nearest are {', '.join(near)}"
        raise ConfigError({"pattern": message}, "explain")
    return matching


def heading(row: Mapping[str, Any]) -> str:
    """The class of a part, how many there are, and in which layers, where those are not all."""
    counted = f", {row['count']} of them" if row["count"] > 1 else ""
    return str(row["kind"]) + counted + (f": {row['layers']}" if row["layers"] else "")


def sentence(row: Mapping[str, Any]) -> str:
    """What a part does, with its source."""
    return str(row["text"]) + (f" ({row['source']})" if row["source"] else "")


def stored(subject: Subject, descriptions: Mapping[str, Description], name: str, ndim: int) -> str:
    """How a checkpoint stores one of our parameters, in words."""
    owner = descriptions[name.rpartition(".")[0]]
    return layout(subject.architecture.table.row(name, subject.config), ndim, fused=owner.fused)


def _names(row: dict[str, Any], table: Table, cfg: DecoderConfig) -> dict[str, None]:
    """All that a part may be called: by us, by its file, and by others of its kind."""
    names = [row["path"], every(table.module(_first(row["path"])) or row["path"])]
    for tensor in row["tensors"]:
        known = {every(key) for row_of in table.rows(_first(tensor["name"]), cfg) for key in row_of.keys}
        aliases = (other for other, key in table.aliases.items() if every(key) in known)
        names += [tensor["name"], *tensor["keys"], *known, *aliases]
    return dict.fromkeys(names)


def _first(name: str) -> str:
    """The first of the modules that are called so."""
    return name.replace("{n}", "0").replace("{e}", "0")


def _rows(subject: Subject) -> Iterator[dict[str, Any]]:
    """A row for each part that something is said of; of several lines of the tree that say the same, one."""
    descriptions, layers = described(subject), len(subject.model.blocks)
    modules = dict(subject.model.named_modules(remove_duplicate=False))
    merged: dict[str, dict[str, tuple[dict[str, Any], list[str]]]] = {}  # by name, so that its variants are together
    for line in folded(subject.model):
        row = _row(subject, descriptions, line)
        if row["text"] or row["tensors"]:
            merged.setdefault(row["path"], {}).setdefault(str(row), (row, []))[1].extend(line.paths)
    for row, paths in (one for variants in merged.values() for one in variants.values()):
        row["count"] = len({id(modules[path]) for path in paths})  # of one that several layers use, 1
        found = sorted({layer for path in paths if (layer := layer_of(path)) is not None})
        row["layers"] = layers_in_words(found, layers) if 0 < len(found) < layers else ""
        yield row


def _row(subject: Subject, descriptions: Mapping[str, Description], line: Line) -> dict[str, Any]:
    """What is said of a line of the tree, not counted yet."""
    table, tensors = subject.architecture.table, []
    in_file = {step.name: step.keys for step in subject.plan.mapped} if subject.plan else {}
    for name, parameter in subject.model.get_submodule(line.path).named_parameters(line.path, recurse=False):
        keys = [every(key) for key in in_file.get(name, table.row(name, subject.config).keys)]
        how = stored(subject, descriptions, name, parameter.ndim)
        if subject.model.tied and name in table.tied:
            how = f"the same tensor as {table.tied[name]}; a file may leave it out"
        tensors.append({"name": every(name), "shape": list(parameter.shape), "keys": keys, "stored": how})
    said, kind = descriptions[line.path], re.sub(r"^\d+ x ", "", line.kind)
    row = {"path": every(line.path), "count": 0, "layers": "", "kind": kind, "text": " ".join(said.text.split())}
    return row | {"source": said.source, "tensors": tensors}
