"""Where a module does what a part of one's own does."""

from itertools import islice

from torch import Tensor

from .own_part import TRIES, assignments, made_at, run_part
from .part import Part
from .seen import Seen


def own_parts(seen: Seen, x: Tensor) -> list[tuple[Part, Tensor]]:
    """The parts of one's own that the module makes of x (batch, seq, width), and what they give."""
    for one in seen.parts:
        settings, module = made_at(one, seen.fields)
        own = {name: parameter.detach() for name, parameter in module.named_parameters()}
        for chosen in islice(assignments(seen.parameters, own), TRIES):
            weights = {name: value for name, (_, value) in chosen.items()}
            try:
                value = run_part(module, weights, x)
            except RuntimeError:  # it is not made for a stream of this width
                break
            if seen.trace.has(value):
                return [(Part(one.kind, settings, weights, frozenset(name for name, _ in chosen.values())), value)]
    return []


def why_not(seen: Seen) -> str:
    """What is known of parts of one's own that are nowhere in a module."""
    said = ""
    for one in seen.parts:
        own = made_at(one, seen.fields)[1].named_parameters()
        shapes = {
            tuple(w.shape)
            for tensor in seen.parameters.values()
            for w in (tensor, tensor.mT if tensor.ndim > 1 else tensor)
        }
        lacking = [f"{name} {tuple(w.shape)}" for name, w in own if tuple(w.shape) not in shapes]
        said += f"; {one.name}: " + (f"no tensor is shaped as its {lacking[0]}" if lacking else "makes something else")
    return said
