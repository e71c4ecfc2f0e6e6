"""mappings/NAME.py of an architecture that was read, as a person would write it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..foreign.rows import in_python
from ..mappings import COMMON_HARMLESS, FRACTIONS
from ..translate.cells import Cell
from ..translate.pattern import Row
from .abstract import Abstract, our_name
from .sizing import DERIVED
from .source_text import Group, call, imported, laid_out, listed, literal, mapping
from .unread import in_any_layer


def mapping_text(abstract: Abstract, rows: Mapping[str, Cell], title: str) -> str:
    """The whole file."""
    imports = {"COMMON_HARMLESS", "COMMON_REQUIRES"}
    of_table = {"Table"}
    config: list[tuple[str, Group | str]] = [(name, literal(theirs)) for name, theirs in abstract.named.items()]
    for one in abstract.constants:
        if one.name == "activation":
            imports.add("ACTIVATIONS")
            of_table.add("config_field")
            config.append((one.name, f"config_field({literal(one.theirs)}, values=ACTIVATIONS)"))
        else:
            config.append((one.name, literal(one.theirs)))
    config += [
        (name, literal(theirs)) for theirs, name in {theirs: name for name, theirs in abstract.dropouts.items()}.items()
    ]
    config += [(our_name(name), literal(name)) for name in (*abstract.alike, *abstract.asked)]
    config += [("layer_types", '"layer_types"')] if abstract.by_type else []
    config += [("init_std", '"initializer_range"')] if "initializer_range" in abstract.harmless else []
    harmless = sorted(abstract.harmless - {"initializer_range"} - COMMON_HARMLESS - {*abstract.dropouts.values()})
    requires = ["COMMON_REQUIRES"]
    trained = any(one.name == "padding" for one in abstract.constants)
    read = sorted(({"pad_token_id"} if trained else set()) | (abstract.asked.keys() & COMMON_HARMLESS))
    ignoring = [f"(COMMON_HARMLESS - {{{', '.join(map(json.dumps, read))}}})" if read else "COMMON_HARMLESS"]
    if abstract.rotary_object:
        imports |= {"ROTARY", "ROTARY_HARMLESS", "ROTARY_SUPERSEDES"}
        config.append(("", "**ROTARY"))
        if abstract.fraction:
            if abstract.fractions == FRACTIONS:
                imports.add("ROTARY_FRACTION")
                config.append(("", "**ROTARY_FRACTION"))
            elif len(abstract.fractions) > 1:
                imports.add("FRACTIONS")
                of_table.add("config_field")
                written = f"config_field({literal(abstract.fractions[0])}, *FRACTIONS[1:])"
                config.append(("rotary_fraction", written))
            else:
                config.append(("rotary_fraction", literal(abstract.fraction)))
        else:
            imports.add("ROTARY_WHOLE_HEAD")
            requires.append("ROTARY_WHOLE_HEAD")
        ignoring += ["ROTARY_HARMLESS"]
    weights = [(name, _cell(cell)) for name, cell in rows.items()]
    words = {
        word for cell in rows.values() for word in ("rearranged", "sections", "only") if f"{word}(" in in_python(cell)
    }
    counted = "position_rows" in abstract.sizes  # from the padding on, which there has to be
    nullable = [
        one.name for one in abstract.constants if one.default is None or (one.name == "padding" and not counted)
    ]
    nullable += [name for name in DERIVED if name in abstract.named]
    nullable += [our_name(name) for name in abstract.alike]
    nullable += [our_name(name) for name, (default, _) in abstract.asked.items() if default is None]
    fixed = abstract.fixed
    lines = [f'"""{title}"""', "", laid_out(imported("archport.mappings", imports))]
    lines += [laid_out(imported("archport.translate.table", of_table | words)), ""]
    table: list[tuple[str, Group | str]] = [
        ("classes", literal(abstract.classes)),
        ("prefix", literal(abstract.prefix)),
    ]
    table += [
        ("config", mapping(config)),
        ("nullable", call("frozenset", [("", _set(nullable))] if nullable else [])),
    ]
    required = [mapping((name, literal(values)) for name, values in fixed.items())] if fixed else []
    table += [
        ("requires", _joined(requires, required)),
        ("harmless", _joined(ignoring, [_set(harmless)] if harmless else [])),
    ]
    table += [("supersedes", "ROTARY_SUPERSEDES")] if abstract.rotary_object else []
    table += [("weights", mapping(weights))]
    ignored = [(name, literal(f"the same tensor as {first}")) for name, first in abstract.twice.items()]
    ignored += [(name, literal("no pass reads it")) for name in in_any_layer(abstract.unread)]
    table += [("ignored", mapping(ignored))] if ignored else []
    tied = abstract.program.tied or "tied" in abstract.code
    table += [("tied", '{"head.weight": "embed.tokens.weight"}')] if tied else []
    needed = mapping((name, literal(value)) for name, value in sorted(abstract.written.items()))
    table += [("written", needed)] if abstract.written else []
    return "\n".join([*lines, laid_out(call("Table", table), 0, "TABLE = "), ""])


def _set(names: Iterable[str]) -> Group:
    """A set of names."""
    return listed("{", map(json.dumps, names), "}")


def _joined(names: list[str], group: list[Group]) -> Group | str:
    if not group:
        return " | ".join(names)
    [one] = group
    return replace(one, joined=tuple(names))


def _cell(cell: Cell) -> Group | str:
    """A row of weights, which may be longer than a line."""
    if not isinstance(cell, Row) or cell.only:
        return in_python(cell)
    distinct = list(dict.fromkeys(cell.keys))
    name = "sections" if len(distinct) == 1 < len(cell.keys) else "rearranged"
    keys = json.dumps(distinct[0]) if len(distinct) == 1 else listed("(", map(json.dumps, cell.keys), ")")
    return call(name, [("", keys), ("", json.dumps(cell.pattern))])
