"""What of a model is cut among ranks, as its parts say, and which piece of each parameter a rank has."""

import math
from collections.abc import Iterator
from inspect import isfunction
from typing import Any, NamedTuple

from torch import nn

from ..errors import ConfigError
from ..layers import Cut, Decoder, Sharding
from ..layers.norm import RMSNorm
from ..translate.pieces import Piece
from .ranks import Ranks

# Torch's own modules that act on each row, element or head alone.
ALONE = (nn.Dropout, nn.Identity, nn.LayerNorm, nn.RMSNorm, nn.GELU, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh)
# Methods in which a subclass may differ and still be cut like the class above.
NO_STEPS = {"__init__", "draw", "extra_repr"}


class Child(NamedTuple):
    """Something of a part that is cut: the part and its name, what the part calls it, how it is cut.

    `apart` says that what it gives is summed with that of others, elsewhere.
    """

    path: str
    part: nn.Module
    name: str
    how: Cut
    apart: bool

    @property
    def itself(self) -> Any:
        """The module, or what else it is."""
        return getattr(self.part, self.name)

    def pieces(self, ranks: Ranks) -> Iterator[tuple[str, Piece]]:
        """What a rank has of its parameters, by their names."""
        it, path = self.itself, f"{self.path}.{self.name}".lstrip(".")
        if isinstance(it, nn.Parameter):
            yield path, Piece(0, *ranks.span(len(it)))
        elif self.how == Cut.INPUTS:
            yield f"{path}.weight", Piece(1, *ranks.span(it.in_features))
        elif isinstance(it, nn.Module) and self.how != Cut.SUMMED:
            yield from (
                (f"{path}.{name}", Piece(0, *ranks.span(len(one)))) for name, one in it.named_parameters(recurse=False)
            )


def pieces(model: Decoder, ranks: Ranks) -> dict[str, Piece]:
    """The piece of each parameter that a rank has, of those that are cut. Raises: ConfigError, as `children` does."""
    return {name: piece for child in children(model, ranks.count) for name, piece in child.pieces(ranks)}


def children(model: Decoder, count: int) -> list[Child]:
    """Everything that is cut in a model. Raises: ConfigError where so many ranks cannot share it, with every cause."""
    found = list(_children(model, "", False, set()))
    faults = _undivided(model, count)
    for part, path in {child.part: child.path for child in found}.items():
        where = path or type(part).__name__
        if steps := _own_steps(part):
            named = f"{type(part).__name__} has its own {', '.join(steps)}"
            faults[where] = f"{named}, expected a sharding of its own beside, that says how it is cut"
        else:
            own = [child for child in found if child.part is part]
            faults |= {f"{where}.{child.name}": fault for child in own if (fault := _fault(child))}
            faults |= _not_known(where, part)
    if faults:
        raise ConfigError(faults, f"{model.architecture} on {count} ranks")
    return found


def sharding_of(part: nn.Module) -> Sharding:
    """What a part says of how it is cut: nothing is, where it says nothing."""
    said = getattr(type(part), "sharding", None)
    return said if isinstance(said, Sharding) else Sharding()


def says(part: nn.Module) -> bool:
    """Whether a part says how it is cut."""
    return isinstance(getattr(type(part), "sharding", None), Sharding)


def _children(part: nn.Module, path: str, apart: bool, seen: set[nn.Module]) -> Iterator[Child]:
    if part in seen:  # a mask that layers share
        return
    seen.add(part)
    cut = sharding_of(part).cut
    yield from (Child(path, part, name, how, apart) for name, how in cut.items())
    for name, child in part.named_children():
        yield from _children(child, f"{path}.{name}".lstrip("."), apart or cut.get(name) == Cut.SUMMED, seen)


def _own_steps(part: nn.Module) -> list[str]:
    """Methods that a class has beside the one that says how its parts are cut."""
    steps: list[str] = []
    for kind in type(part).__mro__:
        if "sharding" in vars(kind):
            break
        steps += [name for name, value in vars(kind).items() if isfunction(value) and name not in NO_STEPS]
    return steps


def _fault(child: Child) -> str | None:
    """Why something cannot be cut as its part says."""
    it, how = getattr(child.part, child.name, None), child.how
    if how == Cut.SUMMED:
        others = [type(one).__name__ for one in it or () if Cut.INPUTS not in sharding_of(one).cut.values()]
        return f"found {others[0]}, expected parts that say how they are cut" if others else None
    if how in (Cut.OUTPUTS, Cut.INPUTS, Cut.GATHERED):
        right, expected = type(it) is nn.Linear, "a Linear"
    elif how == Cut.ROWS:
        right, expected = isinstance(it, nn.Embedding) and (type(it) is nn.Embedding or says(it)), "an Embedding"
    elif how == Cut.ACROSS:
        right, expected = isinstance(it, RMSNorm) and type(it).forward is RMSNorm.forward, "an RMSNorm"
    else:
        right, expected = isinstance(it, nn.Parameter) or callable(it), "a parameter"
    return None if right else f"found {'none' if it is None else f'a {type(it).__name__}'}, expected {expected}"


def _not_known(where: str, part: nn.Module) -> dict[str, str]:
    """What stands between two maps that are cut, and may need to see what other ranks have."""
    cut = sharding_of(part).cut
    if Cut.OUTPUTS not in cut.values():
        return {}
    others = {name: one for name, one in part.named_children() if name not in cut}
    words = "expected a part that says by its sharding how it is cut, if only that it need not be"
    return {
        f"{where}.{name}": f"found a {type(one).__name__}, {words}"
        for name, one in others.items()
        if type(one) not in ALONE and (not says(one) or _own_steps(one))
    }


def _undivided(model: Decoder, count: int) -> dict[str, str]:
    """What does not divide by the number of ranks."""
    works, counts = workable(model), _counts(model)
    if count in works or not counts:
        return {}
    words = " and ".join(sorted(f"{units} {number}" for units, number in counts))
    *some, last = map(str, works)
    expected = f"{', '.join(some)} or {last}" if some else last
    return {"ranks": f"found {count}, expected {expected}: each has a whole share of {words}"}


def workable(model: Decoder) -> list[int]:
    """The numbers of ranks that can share a model, where something of it must divide by them."""
    most = math.gcd(*(number for _, number in _counts(model))) or 1
    return [number for number in range(1, most + 1) if most % number == 0]


def _counts(model: Decoder) -> set[tuple[str, int]]:
    parts = [(sharding_of(part).units, part) for part in model.modules()]
    return {(units, getattr(part, units)) for units, part in parts if units is not None}
