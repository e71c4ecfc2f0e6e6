"""How vectors of ids become the stream: scaled, normed, of a segment, placed."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..layers import CountedEmbed, Embed, PositionedEmbed, SummedEmbed
from .norms import norms
from .part import Part
from .seen import Seen
from .tracing import CLOSE, neat

OFFSETS = (0, 1, 2)
Way = tuple[Part, Tensor]  # and the stream (batch, seq, width)


def embeddings(seen: Seen) -> Iterator[Way]:
    """Ways in which vectors of ids become the stream; the longest first."""
    ids = seen.trace.ids
    for name, table in seen.parameters.items():
        if table.ndim == 2 and len(table) > ids.max() and seen.trace.has(table[ids]):
            settings = {"vocab_size": len(table), "width": table.shape[1]}
            settings |= {"padding": seen.untrained[name]} if name in seen.untrained else {}
            plain = Part(Embed, settings, {"tokens.weight": table}, frozenset((name,))), table[ids]
            ways = [*_scaled(seen, *plain), plain]
            ways = [*(way for one in ways for way in _normed(seen, *one)), *ways]
            yield from [*_placed(seen, ways), *ways]


def _scaled(seen: Seen, part: Part, x: Tensor) -> Iterator[Way]:
    """The same times a number."""
    flat = x.flatten()
    for value in seen.trace.of_size(x.numel()):
        other = value.flatten().double()
        scale = float((other @ flat) / (flat @ flat))
        if min(abs(scale - 1), abs(scale)) < CLOSE or (other - scale * flat).abs().max() > CLOSE * other.abs().max():
            continue
        known = (*seen.constants.values(), x.shape[-1] ** 0.5)
        near = next((one for one in known if abs(one - scale) < CLOSE * abs(scale)), neat(scale))
        yield Part(Embed, {**part.settings, "scale": near}, part.weights, part.takes), other.view(x.shape)


def _normed(seen: Seen, part: Part, x: Tensor) -> Iterator[Way]:
    """The same, normed."""
    for norm, value in norms(seen, x):
        weights = {**part.weights} | {f"norm.{leaf}": one for leaf, one in norm.weights.items()}
        yield Part(Embed, {**part.settings, "norm": norm}, weights, part.takes), value


def _placed(seen: Seen, ways: Sequence[Way]) -> Iterator[Way]:
    """The same with learned positions, and with the first vector of another table, where the module adds them."""
    tables = [(name, one) for name, one in seen.parameters.items() if one.ndim == 2]
    for part, x in ways:
        segments: list[tuple[str, Tensor, Tensor] | tuple[None, None, Tensor]] = [(None, None, x)]
        for name, table in tables:
            if table.shape[1] == x.shape[-1] and name not in part.takes and seen.trace.has(x + table[0]):
                segments.insert(0, (name, table, x + table[0]))
        for segment, rows, summed in segments:
            takes = part.takes | ({segment} if segment else frozenset())
            for name, table in tables:
                if table.shape[1] != x.shape[-1] or name in takes:
                    continue
                for kind, chosen, more in _positions(seen, part, len(table)):
                    placed = summed + table[chosen]
                    if not seen.trace.has(placed):
                        continue
                    settings = {**part.settings, **more}
                    weights = {**part.weights, "positions.weight": table}
                    if rows is not None:
                        settings["segments"], weights["segments.weight"] = len(rows), rows
                    for last, value in norms(seen, placed):
                        of_last = {f"last.{leaf}": one for leaf, one in last.weights.items()}
                        yield Part(kind, settings | {"last": last}, weights | of_last, takes | {name}), value
                    plain = PositionedEmbed if rows is None and kind is SummedEmbed else kind
                    yield Part(plain, settings, weights, takes | {name}), placed


def _positions(seen: Seen, part: Part, rows: int) -> Iterator[tuple[type, Tensor, dict[str, int]]]:
    """Ways to choose rows of a table of positions: the part that does, the rows (.., seq), its settings."""
    ids, padding = seen.trace.ids, part.settings.get("padding")
    for offset in OFFSETS:
        if rows >= ids.shape[1] + offset:
            settings = {"context": rows - offset} | ({"offset": offset} if offset else {})
            yield SummedEmbed, torch.arange(offset, offset + ids.shape[1]), settings
    if padding is not None and rows > ids.shape[1] + padding:
        text = ids.ne(padding)
        yield CountedEmbed, text.cumsum(-1) * text + padding, {"context": rows - padding - 1}
