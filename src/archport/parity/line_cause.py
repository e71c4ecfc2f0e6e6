"""What is wrong where every module agrees, and a line does not? Faults that show in that line are tried as hypotheses.

Each line has something that it shows, as logits in a cache or what has a gradient: a right port with a fault planted
must show what the port shows.
"""

import copy
import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..layers import Decoder
from .budget import Check
from .catalogue import faults_for
from .compare import Comparison
from .diagnose import Diagnosis, Hypothesis, named
from .lines import caching, calling, dropout, inside, padding, training
from .locate import DECODER, TIGHT, relative_error
from .mistakes import cause_beside
from .outputs import embedding_gradients, logits
from .passes import (
    autocast_logits,
    cached_logits,
    long_pieces,
    next_logits,
    padded_logits,
    padded_pieces,
    padded_rows,
    positioned_logits,
    stepped_logits,
)
from .running import RaisedError
from .widened import widened

Shows = Callable[[Decoder, Comparison], Tensor]


def _parts_of_blocks(model: Decoder, comparison: Comparison) -> Tensor:
    """What the parts of blocks make, for a norm after one may hide from the logits what it does.

    A part that this model lacks, or that makes no stream, counts as zeros.
    """
    with widened():
        made = inside.traced(model, comparison.short).outputs
    nothing = torch.zeros(*comparison.short.shape, model.config.width, dtype=torch.float64)
    names = [name for name, _ in comparison.clean.named_modules() if re.fullmatch(r"blocks\.\d+\.\w+", name)]
    parts = (made.get(name) for name in names)
    return torch.stack([nothing if part is None or part.shape != nothing.shape else part for part in parts])


def _changes(model: Decoder, comparison: Comparison) -> Tensor:
    first, second = (logits(model, comparison.short) for _ in range(2))
    return (first != second).any().double()[None]


def _every_token(model: Decoder, comparison: Comparison) -> Tensor:
    [gradient] = embedding_gradients(model, "blocks.0", ["embed.tokens"], training.every_id(comparison))
    return gradient


def _is_frozen(model: Decoder, comparison: Comparison) -> Tensor:
    return torch.tensor([float(not training.trained(comparison, model).ok)])


# What each line shows of a port in float64.
SHOWS: dict[str, Shows] = {
    caching.CACHED: lambda model, on: cached_logits(model, on.short),
    caching.CACHED_FAR: lambda model, on: cached_logits(
        model, on.ids[on.longest], long_pieces(on.ids[on.longest].shape[-1])
    ),
    caching.CACHED_PADDED: lambda model, on: padded_logits(model, on.short, bounds=padded_pieces(on.short.shape[-1])),
    caching.STATIC: lambda model, on: stepped_logits(model, *padded_rows(on.short, "left")),
    caching.COMPILED: lambda model, on: stepped_logits(model, *padded_rows(on.short, "left"), compiled=True),
    padding.PADDED: lambda model, on: padded_logits(model, on.short),
    padding.RIGHT_PADDED: lambda model, on: padded_logits(model, on.short, "right"),
    calling.INT32: lambda model, on: logits(model, on.short.int()),
    calling.POSITIONS: lambda model, on: positioned_logits(model, on.short, on.first_position),
    calling.NEXT: lambda model, on: next_logits(model, on.short),
    calling.AUTOCAST: lambda model, on: autocast_logits(copy.deepcopy(model).float(), on.short),
    calling.AGAIN: _changes,
    dropout.DROPPED: lambda model, on: dropout.dropped_logits(model, on.short),
    inside.OWN: _parts_of_blocks,
    training.EVERY_TOKEN: _every_token,
    training.TRAINED: _is_frozen,
}


def off_without_rounding(check: Check) -> str:
    """What the line of own classes says of one."""
    off = f"off by {check.port_error:.1e} of the largest element without any rounding"
    return f"{off}, where constants in float32 explain {check.budget:.1e}"


def cause_of_line(check: Check, port: Decoder, comparison: Comparison, rights: Iterable[Decoder]) -> Diagnosis | None:
    """The fault that explains a line that fails while every module agrees, and else where the line is worst.

    It is planted in `rights`, float64 ports that may be right.
    """
    if (mistake := cause_beside(check, comparison)) is not None:
        return named(mistake.place, mistake.fault)
    not_the_line = f"every module agrees, but not the line: {check.name}"
    if check.name == inside.OWN:
        not_the_line = off_without_rounding(check)
    if check.name not in SHOWS:
        return Diagnosis(check.part, None, f"{check.part}: {not_the_line}") if check.part else None
    shows = SHOWS[check.name]
    ours = shows(copy.deepcopy(port).to(torch.float64), comparison)
    ruled_out: dict[str, None] = {}
    for right in rights:
        try:
            apart = relative_error(shows(right, comparison), ours)
        except RaisedError:  # so that it is not right
            continue
        nearest, best = apart / 10, None
        for fault in faults_for(right.architecture) if apart > TIGHT else ():  # else this one has the port's fault
            sites = fault.sites(right) if fault.line == check.name else []
            near = sites if not check.part else [one for one in sites if fault.shows(one, check.part)]
            for some in dict.fromkeys([*((site,) for site in near), tuple(near), tuple(sites)] if near else []):
                guess = Hypothesis.of(fault, some, right).model
                ruled_out[fault.name] = None
                if (off := relative_error(shows(guess, comparison), ours)) <= nearest:
                    nearest, best = off / 2, named(check.part or some[0], fault)  # of several as near, the first
                if best is not None and off <= TIGHT:
                    return best
        if best is not None:
            return best
    place = check.part or DECODER
    words = f"{place}: {not_the_line}; ruled out: {', '.join(ruled_out) or 'none'}"
    return Diagnosis(place, None, words, tuple(ruled_out))
