"""A whole module, read by running it: embedding, blocks, norm, head, what follows it."""

from torch import Tensor

from ..errors import ArchportError
from .embedding import embeddings
from .ending import ending
from .own_search import why_not
from .part import Part, Program
from .seen import Seen
from .wiring import Finder, blocks


class Hole(ArchportError):
    """The first place of a module that no part of ours explains."""


def read(seen: Seen) -> Program:
    """The program of a module. Raises: Hole."""
    holes = []
    for embed, start in embeddings(seen):
        x, stack, finder = start, list[Part](), Finder(seen)
        while options := blocks(finder, x):
            part, x = options[0]
            stack.append(part)
            finder = Finder(seen)
        if (end := ending(seen, x, embed)) is not None and stack:
            norm, head, finish = end
            return Program(embed, tuple(stack), norm, head, bool(head.takes & embed.takes), finish)
        holes.append((len(stack), len(finder.known), _hole(finder, len(stack), x)))
    if not holes:
        raise Hole("embed: the module looks the ids up in none of its parameters")
    raise Hole(max(holes)[-1])


def _hole(finder: Finder, number: int, x: Tensor) -> str:
    """The first place of a block that nothing explains: what is done to what, and what was tried."""
    seen, where = finder.seen, f"blocks.{number}"
    attended = [value for kind, value, found in finder.known if kind == "attn" and found]
    kind = "mlp" if attended else "attn"
    inputs = [
        value
        for one, value, found in finder.known
        if one == kind and not found and not any(value.equal(other) for other in attended) and seen.linears(value)
    ]
    if not inputs:
        return f"{where}: no norm, attention or MLP of ours makes anything of the stream {tuple(x.shape)}"
    value = max(inputs, key=lambda one: len(seen.linears(one)))
    widths = ", ".join(str(len(one.weight)) for one in seen.linears(value))
    what = "attention" if kind == "attn" else "MLP"
    tried = f"the module maps {tuple(value.shape)} to {widths}; no {what} of ours makes what it goes on with"
    return f"{where}.{kind}: {tried}{why_not(seen)}"
