"""A part that was found in a module: its class, what it is made with, its weights; and a program of parts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Decoder, Window


@dataclass(frozen=True, eq=False)
class Part:
    """A part of ours that makes the same numbers as some of a module's code.

    `settings` are what its class is called with, parts among them; `weights` its own tensors, by our names below it.
    `takes` are the module's names of the parameters that it has.
    """

    kind: Any
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    takes: frozenset[str] = frozenset()

    def all_takes(self) -> frozenset[str]:
        """The parameters that it and the parts within it have."""
        return self.takes.union(*(one.all_takes() for one in self.settings.values() if isinstance(one, Part)))

    def make(self) -> nn.Module:
        """The part itself, filled with its weights, in float64."""
        settings = {name: _made(one) for name, one in self.settings.items()}
        module: nn.Module = self.kind(**settings)
        state = dict(module.named_parameters()) | dict(module.named_buffers())
        module.double()
        with torch.no_grad():
            for name, weight in self.weights.items():
                module.get_parameter(name).copy_(weight) if name in state else None
        return module

    def flat(self, path: str) -> Iterator[tuple[str, Any]]:
        """Its class and its settings, and those of the parts within it, by where they are."""
        yield path, self.kind
        for name, one in self.settings.items():
            if isinstance(one, Each):
                yield f"{path}.{name}", len(one.parts)
                yield from one.parts[0].flat(f"{path}.{name}.each")
            elif isinstance(one, Part):
                yield from one.flat(f"{path}.{name}")
            else:
                yield f"{path}.{name}", one


def _made(setting: Any) -> Any:
    if isinstance(setting, Each):
        return [one.make() for one in setting.parts]
    return setting.make() if isinstance(setting, Part) else setting


@dataclass(frozen=True, eq=False)
class Each:
    """Parts that differ in their weights alone, as experts do."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """What a module does, step by step, in our parts."""

    embed: Part
    blocks: tuple[Part, ...]
    norm: Part
    head: Part
    tied: bool
    finish: Part | None

    @property
    def parts(self) -> dict[str, Part]:
        """Its parts by the names that they have in a Decoder."""
        parts = {"embed": self.embed} | {f"blocks.{at}": one for at, one in enumerate(self.blocks)}
        parts |= {"norm": self.norm, "head": self.head}
        return parts | ({} if self.finish is None else {"finish": self.finish})

    @property
    def takes(self) -> frozenset[str]:
        """The parameters of the module that it uses."""
        return frozenset().union(*(one.all_takes() for one in self.parts.values()))

    @property
    def windows(self) -> list[bool]:
        """Which of its layers have a window."""
        masks = (block.settings["attn"].settings.get("mask") for block in self.blocks)
        return [one is not None and one.kind is Window for one in masks]

    def settings(self) -> dict[str, Any]:
        """Every class and every setting, by where it is."""
        found = {"tied": self.tied}
        for name, part in self.parts.items():
            found |= dict(part.flat(name))
        return found

    def make(self) -> Decoder:
        """The decoder itself, filled with the module's weights, in float64."""
        blocks: list[Any] = [one.make() for one in self.blocks]
        finish = None if self.finish is None else self.finish.make()
        made: dict[str, Any] = {"embed": self.embed.make(), "norm": self.norm.make(), "head": self.head.make()}
        return Decoder(**made, blocks=blocks, finish=finish, tied=self.tied).double().eval()
