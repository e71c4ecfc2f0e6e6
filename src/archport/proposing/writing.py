"""The two files of a module that was read, and the architecture that they are."""

import sys
from types import ModuleType
from typing import Any

from ..foreign.finding import rows_like
from ..foreign.rows import Rows
from ..registry import Architecture, architecture_of
from .abstract import Abstract, abstract
from .mapping_file import mapping_text
from .model_file import ModelFile
from .rounding import rounding_as
from .subject import Subject, theirs_of
from .varying import Fields, Reading, uses


def written(
    subject: Subject, base: Reading, name: str
) -> tuple[Abstract, tuple[tuple[str, str], ...], Rows, Architecture]:
    """What was made of it, the two files, their rows, and the architecture that they are.

    Raises: Unwritten, MappingError.
    """
    fields = uses(subject, base)
    whole = abstract(name, subject, base, fields, rounding_as(subject, base))
    title = f"{subject.name}, as it was read by running it. Source: `{subject.source}`."
    model, mapping = ModelFile(whole, title).text(), mapping_text(whole, {}, title)
    rows = _rows(base, whole, fields, executed(name, model, mapping))
    mapping = mapping_text(whole, rows, title)
    files = ((f"models/{name}.py", model), (f"mappings/{name}.py", mapping))
    return whole, files, rows, executed(name, model, mapping)


def _rows(base: Reading, whole: Abstract, fields: Fields, arch: Architecture) -> Rows:
    """The rows of every parameter that a module has at any of the settings that were tried."""
    readings: list[tuple[Reading, dict[str, Any]]] = [(base, {})]
    tried = fields.used | fields.orders
    for one in (one for one in whole.constants if one.theirs in tried):
        again = tried[one.theirs].again
        if again.shapes.keys() != base.shapes.keys():
            readings.append((again, {one.name: one.tried}))
    found: dict[str, Any] = {}
    for read, changes in readings:
        config = arch.config_class(**{**arch.sizes, **changes})
        state = {name: w.detach() for name, w in read.program.make().named_parameters(remove_duplicate=False)}
        theirs = theirs_of(read.module)
        theirs.parameters = {name: one for name, one in theirs.parameters.items() if name not in read.unread}
        for name, cell in rows_like(theirs, arch, config, None, state.__getitem__).items():
            both = f"{name.rpartition('.')[0]}.*"
            if name == both:  # of weight and bias, where the others have one of them
                alone = (f"{both[:-1]}weight", f"{both[:-1]}bias")
                found = {both if old in alone else old: one for old, one in found.items()} | {both: cell}
            elif both not in found:
                found.setdefault(name, cell)
    theirs = theirs_of(base.module)
    tied = [other for other, first in theirs.aliases.items() if first == found.get("embed.tokens.weight")]
    if base.program.tied and tied and "head.*" not in found:
        found.setdefault("head.weight", tied[0])
    return Rows(found)


def executed(name: str, model: str, mapping: str) -> Architecture:
    """The architecture that two texts are."""
    modules = []
    for room, text in (("models", model), ("mappings", mapping)):
        module = ModuleType(f"archport_proposed_{room}_{name}")
        sys.modules[module.__name__] = module
        exec(compile(text, f"{room}/{name}.py", "exec"), vars(module))  # it is ours
        modules.append(module)
    return architecture_of(name, *modules)
