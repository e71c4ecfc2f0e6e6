"""A whole module, read by running it: embedding, blocks, norm, head, what follows it."""

from collections.abc import Iterator

from torch import Tensor, nn

from ..errors import ArchportError
from ..layers import Embed, LogitScale, PositionedEmbed, SoftCap
from .norms import norms
from .part import Part, Program
from .seen import Seen
from .tracing import CLOSE
from .wiring import Finder, blocks

OFFSETS = (0, 1, 2)


class Hole(ArchportError):
    """The first place of a module that no part of ours explains."""


def read(seen: Seen) -> Program:
    """The program of a module. Raises: Hole."""
    holes = []
    for embed, start in _embeddings(seen):
        x, stack, finder = start, list[Part](), Finder(seen)
        while options := blocks(finder, x):
            part, x = options[0]
            stack.append(part)
            finder = Finder(seen)
        if (end := _end(seen, x, embed)) is not None and stack:
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
    return f"{where}.{kind}: {tried}"


def _embeddings(seen: Seen) -> Iterator[tuple[Part, Tensor]]:
    """Ways in which vectors of ids become the stream; the longest first."""
    ids = seen.trace.ids
    seq = ids.shape[1]
    for name, table in seen.parameters.items():
        if table.ndim != 2 or len(table) <= ids.max() or not seen.trace.has(table[ids]):
            continue
        x = table[ids]
        size = {"vocab_size": len(table), "width": table.shape[1]}
        size |= {"padding": seen.untrained[name]} if name in seen.untrained else {}
        weights, takes = {"tokens.weight": table}, frozenset((name,))
        ways = [(Part(Embed, size, weights, takes), x)]
        for value in seen.trace.of_size(x.numel()):
            flat = value.flatten()
            scale = float((flat @ x.flatten()) / (x.flatten() @ x.flatten()))
            if (
                abs(scale - 1) > CLOSE
                and abs(scale) > CLOSE
                and (flat - scale * x.flatten()).abs().max() < CLOSE * flat.abs().max()
            ):
                neat = [
                    one
                    for one in (*seen.constants.values(), size["width"] ** 0.5)
                    if abs(one - scale) < CLOSE * abs(scale)
                ]
                ways.insert(0, (Part(Embed, size | {"scale": neat[0] if neat else scale}, weights, takes), x * scale))
        for part, value in list(ways):
            for norm, normed in norms(seen, value):
                more = {f"norm.{leaf}": one for leaf, one in norm.weights.items()}
                ways.insert(0, (Part(Embed, {**part.settings, "norm": norm}, {**weights, **more}, takes), normed))
        for part, value in list(ways):
            for other, positions in seen.parameters.items():
                if positions.ndim != 2 or positions.shape[1] != table.shape[1] or other == name:
                    continue
                for offset in OFFSETS:
                    if len(positions) < seq + offset:
                        continue
                    placed = value + positions[offset : offset + seq]
                    if seen.trace.has(placed):
                        settings = {**part.settings, "context": len(positions) - offset} | (
                            {"offset": offset} if offset else {}
                        )
                        more = {**part.weights, "positions.weight": positions}
                        ways.insert(0, (Part(PositionedEmbed, settings, more, takes | {other}), placed))
        yield from ways


def _end(seen: Seen, x: Tensor, embed: Part) -> tuple[Part, Part, Part | None] | None:
    """The norm after the last block, the head and what follows it, where these lead to the logits."""
    vocab = embed.settings["vocab_size"]
    for norm, value in norms(seen, x):
        for head in seen.linears(value):
            finish = _finish(seen, head.value) if len(head.weight) == vocab else None
            if finish is not None:
                weights = {"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias})
                settings = {"in_features": x.shape[-1], "out_features": vocab, "bias": head.bias is not None}
                return norm, Part(nn.Linear, settings, weights, head.takes), finish[0]
    return None


def _finish(seen: Seen, logits: Tensor) -> tuple[Part | None] | None:
    theirs = seen.trace.logits.double()

    def same(value: Tensor) -> bool:
        return value.shape == theirs.shape and bool((value - theirs).abs().max() < 10 * CLOSE * theirs.abs().max())

    if same(logits):
        return (None,)
    scale = float((logits.flatten() @ theirs.flatten()) / (logits.flatten() @ logits.flatten()))
    if same(logits * scale):
        near = [
            v for c in seen.constants.values() for v in ((c, 1 / c) if c else ()) if abs(v - scale) < CLOSE * abs(scale)
        ]
        return (Part(LogitScale, {"scale": near[0] if near else scale}),)
    for cap in seen.constant("cap"):
        if cap and same((logits / cap).tanh() * cap):
            return (Part(SoftCap, {"cap": cap}),)
    return None
