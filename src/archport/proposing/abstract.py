"""From the program of one tiny module to an architecture: sizes become fields, constants fields, layers one block."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ArchportError
from ..layers import Attention, Embed
from ..mappings import FRACTIONS, ROTARY_OBJECTS, ROTARY_SETTINGS
from ..registry import architecture, architectures
from .part import Program
from .subject import Subject, spellings
from .varying import Use

REQUIRED = ("vocab_size", "context", "width", "layers", "heads", "expert_width", "experts", "experts_per_token")
DERIVED = ("kv_heads", "head_width", "mlp_width")  # which follow from the others where a config does not say them
# Fields of theirs that `RotaryConfig` reads by itself.
OF_ROTARY = {
    *FRACTIONS,
    "rope_theta",
    *(f"{place}.{name}" for place in ROTARY_OBJECTS for names in ROTARY_SETTINGS.values() for name in names),
}
# What our config calls a field that decides nothing but settings that end so.
STANDARD = {
    "norm_eps": ".eps",
    "activation": ".activation",
    "tied": "tied",
    "window": ".mask.size",
    "padding": ".padding",
}
DROPOUTS = ("embed_dropout", "attention_dropout", "residual_dropout")


class Unwritten(ArchportError):
    """What of a program has no place in a file."""


@dataclass(frozen=True)
class Constant:
    """A field of the config that a file will have: our name, theirs, its default, its value here, and another."""

    name: str
    theirs: str
    default: Any
    here: Any
    tried: Any
    tried_there: Any  # as they call it


@dataclass(frozen=True)
class Abstract:
    """An architecture: its block, and what of it are fields.

    `code` says how each setting of a part is written, by where it is; layers are `blocks`. `sizes` are our sizes here,
    `named` and `dropouts` their names in a config, `constants` the other fields. Fields of theirs are `harmless`, or
    `fixed` to the values that were understood.
    """

    name: str
    model_type: str  # where it is not the name of the files
    program: Program
    classes: tuple[str, ...]
    prefix: str
    defaults: Mapping[str, Any]
    sizes: Mapping[str, int]
    named: Mapping[str, str]
    constants: tuple[Constant, ...]
    code: Mapping[str, str]
    dropouts: Mapping[str, str]
    harmless: frozenset[str]
    fixed: Mapping[str, tuple[Any, ...]]
    rotary_object: bool
    fraction: str | None  # what the config calls the share of a head that rotary positions turn, if not all
    fraction_here: float | None
    types_here: tuple[str, ...] | None

    @property
    def used(self) -> int:
        """How many fields of a config decide something."""
        return len(self.named) + len(self.constants) + len(self.dropouts)

    @property
    def by_type(self) -> bool:
        """Whether the type of a layer says if it has a window."""
        return self.types_here is not None

    def dropout(self, kind: Any) -> dict[str, str]:
        """The dropout settings of a part, as code."""
        known = {name for one in kind.__mro__[:-1] for name in inspect.signature(one.__init__).parameters}
        if issubclass(kind, Embed):
            names = {"dropout": "embed_dropout"}
        elif issubclass(kind, Attention):
            names = {"score_dropout": "attention_dropout", "dropout": "residual_dropout"}
        else:
            names = {"dropout": "residual_dropout"}
        fields = {theirs: ours for ours, theirs in self.dropouts.items()}  # one field may be several of ours
        return {
            name: f"cfg.{fields[self.dropouts[ours]]}"
            for name, ours in names.items()
            if name in known and ours in self.dropouts
        }


def sizes_of(program: Program, config: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of a program by our names."""
    first = program.blocks[0].settings
    attn, mlp = first["attn"].settings, first["mlp"].settings
    sizes = {"vocab_size": program.embed.settings["vocab_size"], "width": program.embed.settings["width"]}
    sizes |= {"layers": len(program.blocks), "heads": attn["heads"], "kv_heads": attn.get("kv_heads", attn["heads"])}
    sizes |= {"head_width": attn.get("head_width", sizes["width"] // attn["heads"])}
    if "mlp_width" in mlp:
        sizes["mlp_width"] = mlp["mlp_width"]
    if "router" in mlp:
        width = mlp["experts"].parts[0].settings["mlp_width"]
        own = any(config.get(name) == width for name in spellings()["expert_width"])
        sizes["expert_width" if own else "mlp_width"] = width
        router = mlp["router"].settings
        sizes |= {"experts": router["experts"], "experts_per_token": router["top"]}
        shared = mlp["shared"].settings if "shared" in mlp else {}
        sizes |= {"mlp_width": shared["mlp_width"]} if own and "mlp_width" in shared else {}
    named = spellings()["context"]
    context = program.embed.settings.get("context") or next((v for n, v in config.items() if n in named and v), 2048)
    return sizes | {"context": context}


def abstract(
    name: str,
    subject: Subject,
    program: Program,
    used: Mapping[str, Use],
    harmless: set[str],
    fixed: Mapping[str, tuple[Any, ...]],
    types: tuple[str, ...] | None = None,
) -> Abstract:
    """The architecture of which a program is a tiny model; `types` of its layers are what gives them windows.

    Raises: Unwritten.
    """
    sizes = sizes_of(program, subject.config)
    named = _named(subject, sizes)
    _require_alike(program)
    if len(set(program.windows)) > 1 and types is None:
        raise Unwritten("blocks: some layers have a window and others none, by no field of the config that is known")
    rotary_object = any(name.startswith("rope_parameters.") for name in subject.config)
    rotary_object &= "rotary" in program.blocks[0].settings["attn"].settings
    fraction = _fraction(subject, program, sizes) if rotary_object else None
    constants: dict[str, Constant] = {}
    code: dict[str, str] = {}
    for theirs, use in used.items():
        if theirs in named.values() or theirs == "layer_types" or (rotary_object and theirs in OF_ROTARY):
            continue
        field = next((one for one, end in STANDARD.items() if all(path.endswith(end) for path in use.ways)), None)
        field = field if field and field not in constants else theirs.replace(".", "_")
        here, default = subject.config[theirs], subject.defaults.get(theirs, subject.config[theirs])
        values = default, use.ours(here), use.ours(use.tried), use.tried
        constants[field] = Constant(field, theirs, *values)
        for path, way in use.ways.items():
            code[_general(path)] = way.format(f"cfg.{field}")
    taken = {*named.values(), *(one.theirs for one in constants.values()), "architectures", "model_type"}
    dropouts = _dropouts(subject)
    taken |= {*dropouts.values()} | ({"layer_types"} if types else set())
    taken |= {one for one in subject.config if one in OF_ROTARY} if rotary_object else set()
    return Abstract(
        subject.name,
        subject.model_type if subject.model_type and subject.model_type != name else "",
        program,
        tuple(dict.fromkeys(subject.classes)),
        subject.prefix,
        subject.defaults,
        sizes,
        named,
        tuple(constants.values()),
        code,
        dropouts,
        frozenset(harmless - taken),
        {name: values for name, values in fixed.items() if name not in taken},
        rotary_object,
        fraction,
        subject.config[fraction] if fraction else None,
        types,
    )


def _fraction(subject: Subject, program: Program, sizes: Mapping[str, int]) -> str | None:
    """What the config calls the share of a head that is turned. Raises: Unwritten."""
    turned, width = program.blocks[0].settings["attn"].settings["rotary"].settings["width"], sizes["head_width"]
    if turned == width:
        return None
    for name, value in subject.config.items():
        named = any(word in name for word in ("partial", "pct", "fraction"))
        if named and isinstance(value, float) and int(width * value) == turned:
            return name
    raise Unwritten(f"blocks.attn.rotary.width: is {turned} of {width}, and no field of the config says so")


def _dropouts(subject: Subject) -> dict[str, str]:
    """What the config calls our rates of dropout, by the names that the tables have for them."""
    found: dict[str, str] = {}
    for arch in map(architecture, architectures()):
        for ours in DROPOUTS:
            names = arch.table.field(ours).spellings if ours in arch.table.config else ()
            if ours not in found and (given := [name for name in names if name in subject.config]):
                found[ours] = given[0]
    return found


def _named(subject: Subject, sizes: Mapping[str, int]) -> dict[str, str]:
    """What the config calls our sizes: a field of that meaning, with that value; derived ones may have none."""
    named = {}
    for name, value in sizes.items():
        theirs = [one for one, found in subject.config.items() if one in spellings()[name] and found == value]
        others = [one for one, found in subject.config.items() if found == value and type(found) is int]
        if theirs or (name in REQUIRED and others):
            named[name] = (theirs or others)[0]
        elif name in REQUIRED and name != "context":
            raise Unwritten(f"{name}: is {value}, and no field of the config says so")
        elif name != "context" and value != _derived(name, sizes):
            raise Unwritten(f"{name}: is {value}, which follows from no field of the config")
    return named


def _derived(name: str, sizes: Mapping[str, int]) -> int:
    rules = {
        "head_width": sizes["width"] // sizes["heads"],
        "kv_heads": sizes["heads"],
        "mlp_width": 4 * sizes["width"],
    }
    return rules[name]


def _general(path: str) -> str:
    """Where a setting is in any layer."""
    words = path.split(".")
    return ".".join(words[:1] + words[2:]) if words[0] == "blocks" else path


def _require_alike(program: Program) -> None:
    """Raises: Unwritten where layers differ in more than a window."""
    first, *others = (
        {path: one for path, one in block.flat("blocks") if not path.startswith("blocks.attn.mask")}
        for block in program.blocks
    )
    for at, other in enumerate(others, 1):
        different = [path for path in first.keys() | other.keys() if first.get(path) != other.get(path)]
        if different:
            path = min(different)
            raise Unwritten(f"{path}: is {_shown(first.get(path))} in layer 0, {_shown(other.get(path))} in layer {at}")


def _shown(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)
