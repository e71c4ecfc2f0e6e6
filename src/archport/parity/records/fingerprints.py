"""Hashes of what a record speaks of: files, a key table, the code of a model, sizes."""

import ast
import hashlib
import inspect
import io
import json
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import SourceError, in_a_line
from ...files.checkpoint import Checkpoint
from ...registry import Architecture

ROOMS = ("archport.layers", "archport.models")  # of archport's own code, what a forward pass runs through
PIECE = 1 << 20  # bytes read at once


def of_files(checkpoint: Checkpoint) -> dict[str, str]:
    """The SHA-256 of the config and of each file of weights, as sha256sum prints it and the Hub names large ones."""
    return {name: _of_file(path) for name, path in checkpoint.paths.items()}


def of_table(arch: Architecture) -> str:
    """Of what the architecture's key table says; how it is written does not count."""
    return _of_text(json.dumps(_spelt(arch.table)))


def of_sizes(arch: Architecture) -> str:
    """Of the tiny models that the architecture is tested at."""
    return _of_text(json.dumps(_spelt((arch.sizes, arch.variants))))


def of_code(arch: Architecture) -> str:
    """Of the model's code: its `build` and all that this imports of archport's mathematics or of its own package.

    Comments, docstrings and blanks do not count. Raises: SourceError where there is no source.
    """
    modules: dict[str, ModuleType] = {}
    waiting = [arch.build.__module__, arch.config_class.__module__]
    rooms = (*ROOMS, *{name.partition(".")[0] for name in waiting} - {"archport"})
    while waiting:
        name = waiting.pop()
        if name in modules or not any(name == room or name.startswith(f"{room}.") for room in rooms):
            continue
        modules[name] = sys.modules[name]
        waiting += _imported(modules[name])
    try:
        return _of_text("\n".join(_code(inspect.getsource(modules[name])) for name in sorted(modules)))
    except (OSError, TypeError) as error:  # of a notebook, say
        raise SourceError(f"{arch.name}: the code of its model cannot be read: {in_a_line(error)}") from None


def _imported(module: ModuleType) -> Iterator[str]:
    """The modules from which a module has what it uses; what a package has of its own may be there by chance."""
    for name, value in list(vars(module).items()):
        home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(home, str) and home in sys.modules and home != f"{module.__name__}.{name}":
            yield home


def _code(source: str) -> str:
    """Source without comments, docstrings and blanks, the same in every release of Python."""
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            span = slice(node.lineno - 1, node.end_lineno)
            if "\n".join(lines[span]).strip() == ast.get_source_segment(source, node):  # alone on its lines
                lines[span] = [""] * len(lines[span])
    return "".join("".join(lines).split())


def _spelt(value: Any) -> Any:
    """Literal data as JSON that is the same wherever the data are; what stands at its default is left out."""
    if is_dataclass(value) and not isinstance(value, type):
        defaults = {one.name: _default(one) for one in fields(value)}
        return _changed({name: getattr(value, name) for name in defaults}, defaults)
    if hasattr(value, "_asdict"):  # a named tuple
        return _changed(value._asdict(), value._field_defaults)
    if isinstance(value, Mapping):
        return sorted(([_spelt(key), _spelt(inner)] for key, inner in value.items()), key=repr)
    if isinstance(value, set | frozenset):
        return sorted(map(_spelt, value), key=repr)
    return list(map(_spelt, value)) if isinstance(value, list | tuple) else repr(value)


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not the default."""
    return {name: _spelt(value) for name, value in values.items() if name not in defaults or value != defaults[name]}


def _default(one: Field[Any]) -> Any:
    return one.default_factory() if one.default_factory is not MISSING else one.default


def _of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
