"""What a fault is: a way to get a port wrong, the class of part it can be planted in, and how to plant it.

Planting changes weights, settings or the class of one part, so that copies keep the fault. A faulty class goes above
the class that the part has: what a user's subclass adds stays underneath. Where the subclass has a step of its own for
one that the fault replaces or relies on, it is another part, and the fault cannot exist there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import isfunction
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Decoder
from .locate import DECODER

BRANCH = 3  # names in "blocks.0.attn"
Parts = type[nn.Module] | tuple[type[nn.Module], ...]


@dataclass(frozen=True)
class Fault:
    """A way to get a port wrong.

    `faulty` says what the faulty port does, `right` what a right one does, `see` where to look. It can exist in the
    modules of class `part`, subclasses included, that answer to `where` and whose `steps` are the class's own methods;
    `plant` puts it into one of them. `shows_at` are the places where it first shows, given where it is; `line` is the
    line of a report that shows what no module does alone. `weights_only` faults are told from the same ones in code by
    the weights, which differ from the reference's. One that loud numbers drown shows `early`, where the stream is still
    quiet, and is tried in the first part that can have it. `read` says what to plant, given a port and a right one,
    where a fault has many forms and the port's weights show which. `equivalent` is the reason why it changes nothing,
    if it does not.
    """

    name: str
    faulty: str
    right: str
    see: str
    part: Parts
    plant: Callable[[Any], object]
    where: Callable[[Any], bool] = lambda _: True
    steps: tuple[str, ...] = ()
    shows_at: Callable[[str], tuple[str, ...]] = lambda site: holders(site)
    line: str = ""
    weights_only: bool = False
    early: bool = False
    read: "Callable[[Decoder, Decoder], Fault | None] | None" = None
    equivalent: str | None = None

    @property
    def classes(self) -> tuple[type[nn.Module], ...]:
        """The classes of parts it can be planted in."""
        return self.part if isinstance(self.part, tuple) else (self.part,)

    def sites(self, model: Decoder) -> list[str]:
        """The modules of a model where it can exist, "decoder" for the whole."""
        return [name or DECODER for name, module in model.named_modules() if self.can_exist_in(module)]

    def can_exist_in(self, module: nn.Module) -> bool:
        """Whether a module is a part that can have it."""
        kind = next((kind for kind in self.classes if isinstance(module, kind)), None)
        if kind is None or any(getattr(type(module), s, None) is not getattr(kind, s, None) for s in self.steps):
            return False
        planted = isinstance(self.plant, Becomes) and isinstance(module, self.plant.kind)
        return not planted and self.where(module)

    def plant_at(self, model: Decoder, site: str) -> None:
        """Put it into one module of a model."""
        with torch.no_grad():
            self.plant(model if site == DECODER else model.get_submodule(site))

    def shows(self, site: str, place: str) -> bool:
        """Whether a place is where this fault, at this site, first shows."""
        return any(place == at or place.startswith(at + ".") for at in self.shows_at(site))


@dataclass(frozen=True)
class Becomes:
    """Plants a faulty class above the class of a part."""

    kind: type[nn.Module]

    def __call__(self, part: nn.Module) -> None:
        """Change the class of a part, in place."""
        part.__class__ = _above(self.kind, type(part))  # type: ignore[arg-type]


@cache
def _above(kind: type[nn.Module], own: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind, own), {})


def class_fault(
    name: str,
    faulty: str,
    right: str,
    see: str,
    part: Parts,
    kind: type[nn.Module],
    *,
    steps: tuple[str, ...] = (),
    **more: Any,
) -> Fault:
    """A fault that a class makes; the steps it stands in for, and `forward`, which calls them, must be the part's."""
    bases = part if isinstance(part, tuple) else (part,)
    own = [cls for cls in kind.__mro__ if not any(issubclass(base, cls) for base in bases)]
    changed = {name: step for cls in reversed(own) for name, step in vars(cls).items() if isfunction(step)}
    # A method that calls `super()` has a cell of that name: the part's own step, whatever it is, still runs.
    replaced = [name for name, step in changed.items() if "__class__" not in step.__code__.co_freevars]
    calls = () if "forward" in changed else ("forward",)
    return Fault(name, faulty, right, see, part, Becomes(kind), steps=(*steps, *replaced, *calls), **more)


def sets(attribute: str, value: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Plant by setting one attribute of a part."""
    return lambda part: setattr(part, attribute, value(part))


def rows(change: Callable[[Tensor], Tensor]) -> Callable[[Any], None]:
    """Plant by changing the fused rows of attention, which are given as (kv_heads, queries + key + value, dim)."""

    def plant(attention: Any) -> None:
        slots = attention.heads // attention.kv_heads + 2
        for parameter in attention.qkv.parameters():
            by_group = parameter.data.unflatten(0, (attention.kv_heads, slots, attention.head_width))
            parameter.data = change(by_group).flatten(0, 2).contiguous()

    return plant


def holders(site: str) -> tuple[str, ...]:
    """The part and, inside a branch of a block, those that hold it, of which the reference may lack some."""
    path = site.split(".")
    shortest = min(len(path), BRANCH) if path[0] == "blocks" else len(path)
    return tuple(".".join(path[:length]) for length in range(len(path), shortest - 1, -1))


def parent(site: str) -> tuple[str, ...]:
    """Shows at the part or, where the reference has no counterpart, at one that holds it."""
    return (*holders(site), site.rpartition(".")[0] or DECODER)
