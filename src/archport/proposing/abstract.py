"""From the program of one tiny module to an architecture: sizes become fields, constants fields, layers one block."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import SourceError
from ..layers import Attention, Embed
from ..mappings import FRACTIONS, ROTARY_OBJECTS, ROTARY_SETTINGS
from ..translate.fields import NO_ORIGIN
from .layer_types import types_of
from .ordering import block_of
from .part import Part, Program
from .rotary_fields import fraction_named, fraction_spelt, scalings
from .schedule import Choice, Unwritten
from .sizing import named_by, sizes_of
from .subject import Subject, theirs_of
from .varying import Fields, Order, Reading

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
WIDTHS = ("width", "mlp_width", "head_width")  # of which no other size is likely to be one


@dataclass(frozen=True)
class Constant:
    """A field of the config that a file will have: our name, theirs, its default, its value here, and another."""

    name: str
    theirs: str
    default: Any
    here: Any
    tried: Any
    tried_there: Any  # as they call it
    least: int | None = None  # where it may be 0


@dataclass(frozen=True)
class Abstract:
    """An architecture: its block, and what of it are fields.

    `code` says how each setting of a part is written, by where it is; layers are `blocks`. `sizes` are our sizes here,
    `named` and `dropouts` their names in a config, `constants` the other fields. Fields of theirs are `harmless`, or
    `fixed` to the values that were understood, or have to be `alike` a size of ours.
    """

    name: str
    model_type: str  # where it is not the name of the files
    program: Program
    block: Part
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
    alike: Mapping[str, str]
    asked: Mapping[str, tuple[Any, Any]]  # fields whose default, the first, is not what was understood
    twice: Mapping[str, str]  # tensors under a second name, and the first
    unread: frozenset[str]  # parameters that nothing reads
    rotary_object: bool
    fraction: str | None  # what the config calls the share of a head that rotary positions turn, if not all
    fractions: tuple[str, ...]  # what it may call it, the one that is written first
    fraction_here: float | None
    types_here: tuple[str, ...] | None
    scalings: tuple[str, ...] | None  # of rotary positions, which the config takes, if not all
    written: Mapping[str, Any]  # fields that a config has to say

    @property
    def used(self) -> int:
        """How many fields of a config decide something."""
        return len(self.named) + len(self.constants) + len({*self.dropouts.values()})

    @property
    def required(self) -> list[str]:
        """The fields of which one value was understood, or only that of a size."""
        return [*self.fixed, *self.asked, *self.alike]

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


def abstract(
    name: str, subject: Subject, base: Reading, fields: Fields, rounded: Callable[[Program], Program]
) -> Abstract:
    """The architecture of which a program is a tiny model, its parts `rounded` as the module's are.

    Raises: Unwritten.
    """
    program = rounded(base.program)
    others = [block for order in fields.orders.values() for block in order.again.program.blocks]
    sizes = sizes_of(program, others, subject.config)
    named = named_by(subject, sizes, fields.harmless)
    if "context" in program.embed.settings and not named.keys() & {"context", "position_rows"}:
        raise Unwritten(f"context: is {sizes['context']}, and no field of the config says so")
    types = types_of(subject, base)
    alone = frozenset({"blocks.attn.mask"} if types else ())
    block, choices, ordered = block_of(subject, base, fields, rounded, alone)
    rotary = rotary_of(block)
    rotary_object = rotary is not None and "rope_parameters.rope_theta" in subject.config
    fraction = fraction_named(subject, rotary, sizes) if rotary is not None and rotary_object else None
    aside = {*named.values(), *(OF_ROTARY if rotary_object else ()), *(["layer_types"] if types else [])}
    constants, code = _constants(subject, fields, aside)
    choosing = {one.field for one in choices} - aside
    constants |= {our_name(one): _listed(subject, one, fields.orders.get(one)) for one in sorted(choosing)}
    dropouts = fields.rates.named
    taken = {*aside, *(one.theirs for one in constants.values()), *dropouts.values(), "architectures", "model_type"}
    left = {name: (_fixed(subject.config[name]),) for name in fields.orders if name not in ordered}
    fixed = {name: values for name, values in (fields.fixed | left).items() if name not in taken}
    alike = {name: ours for name, (value, *_) in fixed.items() for ours in WIDTHS if value == sizes.get(ours)}
    asked = {
        name: (subject.defaults[name], value)
        for name, (value, *_) in fixed.items()
        if name in subject.defaults.keys() - alike.keys() and _other(subject.defaults[name], value)
    }
    return Abstract(
        name=subject.name,
        model_type=subject.model_type if subject.model_type and subject.model_type != name else "",
        program=program,
        block=block,
        classes=tuple(dict.fromkeys(subject.classes)),
        prefix=subject.prefix,
        defaults=subject.defaults,
        sizes=sizes,
        named=named,
        constants=tuple(constants.values()),
        code=code,
        dropouts=dropouts,
        harmless=frozenset((fields.harmless | ordered) - taken),
        fixed={name: values for name, values in fixed.items() if name not in alike.keys() | asked.keys()},
        alike=alike,
        asked=asked,
        twice=_twice(base),
        unread=base.unread.union(*(one.unread for one in fields.readings)),
        rotary_object=rotary_object,
        fraction=fraction,
        fractions=fraction_spelt(base, fraction) if fraction else (),
        fraction_here=subject.config[fraction] if fraction else None,
        types_here=types,
        scalings=scalings(subject, (rotary.settings["width"] + 1) // 2)
        if rotary is not None and rotary_object
        else None,
        written=_needed(subject),
    )


def _needed(subject: Subject) -> dict[str, int]:
    """Special tokens that a config has to have, where one may not be null."""
    needed = {}
    for name in NO_ORIGIN.keys() & subject.config.keys():
        try:
            subject.make({name: None})
        except SourceError:
            needed[name] = 0
    return needed


def rotary_of(block: Part) -> Part | None:
    """What turns queries and keys, in all layers or some."""
    found = block.settings["attn"].settings.get("rotary")
    if isinstance(found, Choice):
        found = found.then or found.otherwise
    return found if isinstance(found, Part) else None


def our_name(theirs: str) -> str:
    """What our config calls a field of theirs that has no name of ours."""
    return theirs.replace(".", "_")


def _constants(subject: Subject, fields: Fields, aside: set[str]) -> tuple[dict[str, Constant], dict[str, str]]:
    """The fields that settings of parts are, and these settings as code, by where they are."""
    constants: dict[str, Constant] = {}
    code: dict[str, str] = {}
    for theirs, use in fields.used.items():
        if theirs in aside:
            continue
        field = next((one for one, end in STANDARD.items() if all(path.endswith(end) for path in use.ways)), None)
        field = field if field and field not in constants else our_name(theirs)
        here, default = subject.config[theirs], subject.defaults.get(theirs, subject.config[theirs])
        constants[field] = Constant(field, theirs, default, use.ours(here), use.ours(use.tried), use.tried)
        for path, way in use.ways.items():
            code[_general(path)] = way.format(f"cfg.{field}")
    return constants, code


def _listed(subject: Subject, theirs: str, order: Order | None) -> Constant:
    """A field that says which layer is what."""
    here = subject.config[theirs]
    tried = here if order is None else order.tried
    if isinstance(here, list):
        return Constant(our_name(theirs), theirs, (), tuple(here), tuple(tried), tried)
    return Constant(our_name(theirs), theirs, subject.defaults.get(theirs, here), here, tried, tried, least=0)


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _other(default: Any, value: Any) -> bool:
    """Whether a file without the field says something else than what was understood."""
    plain = isinstance(value, bool | int | float | str)
    return plain and (default is None or type(default) is type(value)) and default != value


def _twice(base: Reading) -> dict[str, str]:
    """Names of tensors that have another, but for a head that is the table of token vectors."""
    aliases = theirs_of(base.module).aliases
    return {name: first for name, first in aliases.items() if first not in base.program.embed.takes}


def _general(path: str) -> str:
    """Where a setting is in any layer."""
    words = path.split(".")
    return ".".join(words[:1] + words[2:]) if words[0] == "blocks" else path
