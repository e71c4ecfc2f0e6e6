"""Which setting of a config does what: one is changed at a time, the module is read again, and the two are compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..layers import CountedEmbed
from ..mappings import ACTIVATIONS, COMMON_HARMLESS, COMMON_REQUIRES
from .dropping import Rates, rates
from .elsewhere import Elsewhere, elsewhere, require_same, same_elsewhere
from .other_values import other_values
from .part import Program
from .reading import Hole, read
from .seen import Seen
from .subject import Subject, ids_of, run, vocab_of
from .tiny_config import flat
from .tracing import CLOSE, Trace
from .unread import unread

# What a setting of a part may be of a field, and how it is written down.
WAYS: dict[str, Callable[[Any], Any]] = {
    "{}": lambda value: value,
    "{}**-0.5": lambda value: value**-0.5,
    "1 / {}": lambda value: 1 / value,
    "not {}": lambda value: not value,
    "int({})": lambda value: int(value),
}
PADDED = 5  # where texts have an id of padding, if there is one


@dataclass(frozen=True)
class Reading:
    """A module that was read: its program, the shapes of its parameters, its logits, and those of other ids."""

    program: Program
    shapes: dict[str, tuple[int, ...]]
    logits: torch.Tensor
    seen: Seen
    module: torch.nn.Module
    elsewhere: Elsewhere
    unread: frozenset[str] = frozenset()  # parameters that no pass reads

    @property
    def left(self) -> list[str]:
        """The parameters that are read, and that no part has."""
        return sorted(self.shapes.keys() - self.program.takes - self.unread)


@dataclass(frozen=True)
class Use:
    """What a field of a config decides: the settings of parts, each in a way, and the value that was tried beside."""

    ways: Mapping[str, str]  # by where the setting is
    tried: Any
    again: Reading  # of the module with that
    ours: Callable[[Any], Any] = lambda value: value  # what a value of theirs is called here


@torch.no_grad()
def reading(subject: Subject, changes: Mapping[str, Any] | None = None, seed: int = 0) -> Reading:
    """A module of the subject, read. Raises: Hole, SourceError."""
    module, seen = looked_at(subject, changes, seed)
    return _read(module, seen, _elsewhere(subject, changes, seed))


def _elsewhere(subject: Subject, changes: Mapping[str, Any] | None = None, seed: int = 0) -> Elsewhere:
    return elsewhere(partial(subject.module, changes, seed), {**subject.config, **(changes or {})})


@torch.no_grad()
def _read(module: nn.Module, seen: Seen, theirs: Elsewhere) -> Reading:
    program = read(seen)
    require_same(program, theirs)
    found = Reading(program, _shapes(seen), seen.trace.logits, seen, module, theirs)
    if not found.left:
        return found
    passes = [partial(run, module, ids) for ids in (seen.trace.ids, *(ids for ids, _ in theirs))]
    return replace(found, unread=unread(module, passes).intersection(found.left))


@torch.no_grad()
def looked_at(subject: Subject, changes: Mapping[str, Any] | None = None, seed: int = 0) -> tuple[nn.Module, Seen]:
    """A module of the subject, and what is known of it. Raises: SourceError."""
    module = subject.module(changes, seed)
    ids, padding = ids_of(vocab_of(module)), (changes or {}).get("pad_token_id", subject.config.get("pad_token_id"))
    if type(padding) is int and 0 <= padding < vocab_of(module):  # which some count no position for
        ids[:, PADDED] = padding
    trace = Trace(module, run, ids)
    state = module.state_dict()
    parameters = {name: one.detach() for name, one in module.named_parameters()}
    parameters |= {n: b.detach() for n, b in module.named_buffers() if n in state and b.is_floating_point()}
    first = {id(one): name for name, one in module.named_parameters()}  # of two names
    tables = [one for one in module.modules() if isinstance(one, nn.Embedding)]
    untrained = {first[id(one.weight)]: one.padding_idx for one in tables if one.padding_idx is not None}
    return module, Seen(trace, parameters, subject.constants(changes), untrained, subject.parts, changes or {})


def _shapes(seen: Seen) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in seen.parameters.items()}


@dataclass(frozen=True)
class Order:
    """What a field does that says which layer is what: the value that was tried beside, and the module with that."""

    tried: Any
    again: Reading


@dataclass
class Fields:
    """What the fields of a config do, by their names.

    Those that are `harmless` were given another value, and the module read and computed the same; those that are
    `fixed` keep the values that they have.
    """

    rates: Rates
    used: dict[str, Use] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    harmless: set[str] = field(default_factory=set)
    fixed: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def readings(self) -> list[Reading]:
        """Modules at each of the values that were tried, and that do something else."""
        return [one.again for one in self.used.values()] + [one.again for one in self.orders.values()]


def uses(subject: Subject, base: Reading) -> Fields:
    """What each field of the config does."""
    found = Fields(rates=rates(subject, base.program))
    dropped = {*found.rates.named.values()} | found.rates.harmless | found.rates.fixed.keys()
    found.harmless |= found.rates.harmless
    found.fixed |= found.rates.fixed
    for name, value in subject.config.items():
        outer = name.partition(".")[0]
        untrained = name == "pad_token_id" and "padding" in base.program.embed.settings
        if name == "is_decoder" and value:  # it was made so, or it would see what comes after
            found.fixed[name] = (value,)
        if name in dropped or (outer in COMMON_HARMLESS | COMMON_REQUIRES.keys() and not untrained):
            continue
        results = [result(subject, base, name, other) for other in other_values(value)]
        used = next((one for one in results if isinstance(one, Use)), None)
        order = next((one for one in results if isinstance(one, Order)), None)
        if used is not None:
            found.used[name] = used
        elif order is not None:
            found.orders[name] = order
        elif "harmless" in results and None not in results and not ("window" in name and value is False):
            found.harmless.add(name)
        else:
            found.fixed[name] = (tuple(value) if isinstance(value, list) else value,)
    return found


def result(subject: Subject, base: Reading, name: str, other: Any) -> Use | Order | str | None:
    """What one other value does: a use, an order, "harmless", "refused", or None for what is not understood."""
    try:
        module, seen = looked_at(subject, {name: other})
        theirs = _elsewhere(subject, {name: other})
    except Exception:  # it is somebody else's code
        return "refused"
    if not _took(module, name, other):
        return "refused"
    same = _shapes(seen) == base.shapes and seen.untrained == base.seen.untrained
    same &= same_elsewhere(theirs, base.elsewhere)
    if same and seen.trace.logits.equal(base.logits):
        return "harmless"
    try:
        again = _read(module, seen, theirs)
    except Hole:
        return None
    if again.left or again.unread & base.program.takes:
        return None
    before, after = base.program.settings(), again.program.settings()
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    if changed == {"embed.padding", "embed.context"} and after["embed"] is CountedEmbed:
        changed -= {"embed.context"}  # which follows from it
    if not changed:
        return (
            "harmless" if same and (base.logits - again.logits).abs().max() < CLOSE * base.logits.abs().max() else None
        )
    ways: dict[str, str] = {}
    for path in changed:
        way = None
        if path in before and path in after:
            way = _way((subject.config[name], before[path]), (other, after[path]))
        if way is None:
            return Order(other, again) if _reordered(base.program, again.program, changed) else None
        ways[path] = way
    named = all(way == "{}" and path.endswith(".activation") for path, way in ways.items())
    return Use(ways, other, again, ACTIVATIONS.__getitem__) if named else Use(ways, other, again)


def _took(module: nn.Module, name: str, value: Any) -> bool:
    """Whether a module has a field within another as it was given: what did not arrive is not harmless for that.

    One that is in no other arrives, though a config may do without it, as without a window that another one turns off.
    """
    config: Any = getattr(module, "config", None)
    said = flat(config.to_dict()) if hasattr(config, "to_dict") else {}
    return "." not in name or name not in said or bool(said[name] == value)


def _reordered(one: Program, other: Program, changed: set[str]) -> bool:
    """Whether two programs differ in nothing but which of the things that their layers have comes where."""

    def by_place(program: Program) -> dict[str, set[Any]]:
        found: dict[str, set[Any]] = {}
        for path, value in (pair for block in program.blocks for pair in block.flat("")):
            found.setdefault(path, set()).add(value)
        return found

    before, after = by_place(one), by_place(other)
    both = before.keys() & after.keys()
    return all(path.startswith("blocks.") for path in changed) and (
        all(before[path] <= after[path] for path in both) or all(after[path] <= before[path] for path in both)
    )


def _way(*pairs: tuple[Any, Any]) -> str | None:
    if all(isinstance(theirs, str) and ACTIVATIONS.get(theirs) == ours for theirs, ours in pairs):
        return "{}"
    for written, way in WAYS.items():
        try:
            if all(_equal(way(theirs), ours) for theirs, ours in pairs):
                return written
        except (TypeError, ValueError, ZeroDivisionError):
            continue
    return None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= CLOSE * max(abs(one), abs(other), 1e-300)
    return type(one) is type(other) and one == other
