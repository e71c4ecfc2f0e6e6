"""Where does the reference draw the boundary of a module elsewhere: add the stream inside it, or scale outside it?

A right port makes other numbers there, and that is no difference. What it makes then stands in for the reference's, so
that whatever comes after, and every other port, is held against the right numbers.
"""

import math
import re
from collections.abc import Sequence

from torch import Tensor

from ..layers import Decoder
from .locate import DECODER, LOOSE, Finding, Trace, findings, relative_error
from .running import run

STRUCTURAL = 1e-2  # relative: no boundary moves numbers by less, and no rounding by as much
EXACT = 1e-4  # relative, what rounding may make of sums and multiples


def with_boundaries_of(model: Decoder, reference: Trace, ids: Tensor) -> Trace:
    """The trace with what a model in float64 makes, wherever it only has another boundary than the reference.

    Where its logits agree, that is each place that differs at all. Where they do not, it is a place after which all
    agrees for longer with what the model makes there going on than with what the reference makes; or for as long,
    where theirs is ours plus the stream or a multiple of ours, or has another shape.
    """
    right = relative_error(run(model, ids), reference.outputs[DECODER]) <= LOOSE
    tried: set[tuple[str, str, int]] = set()
    compared = findings(model, reference, ids)
    while places := _first_in_each_layer(compared, tried):
        tried |= {one.at for one in places}
        let_through = findings(model, reference.replaced(places), ids)
        gained = [_agreeing_after(one, let_through) - _agreeing_after(one, compared) for one in places]
        kept = [
            one
            for one, more in zip(places, gained, strict=True)
            if right or more > 0 or (more == 0 and (math.isinf(one.error) or is_sum_or_multiple(one, reference)))
        ]
        if kept:
            reference = reference.replaced(kept)
            compared = let_through if len(kept) == len(places) else findings(model, reference, ids)
    return reference


def _differs(finding: Finding) -> bool:
    return finding.module != DECODER and not finding.error <= STRUCTURAL


def _first_in_each_layer(compared: Sequence[Finding], tried: set[tuple[str, str, int]]) -> list[Finding]:
    """The first place that differs and was not tried, and where it is so in other layers, the same place there."""
    left = [one for one in compared if _differs(one) and not one.call and one.at not in tried]
    return [one for one in left if _in_any_layer(one) == _in_any_layer(left[0])]


def _in_any_layer(finding: Finding) -> tuple[str, str]:
    return re.sub(r"\.\d+(?=\.|$)", ".{n}", finding.module), finding.side


def _agreeing_after(place: Finding, compared: Sequence[Finding]) -> int:
    """How many of the places that come after one agree, up to the first that differs."""
    later = compared[[one.at for one in compared].index(place.at) + 1 :]
    return next((count for count, one in enumerate(later) if not one.error <= STRUCTURAL), len(later))


def is_sum_or_multiple(place: Finding, reference: Trace) -> bool:
    """Whether theirs is ours plus a stream that the same layer reads, or a number times ours."""
    ours, theirs = place.ours.double(), place.theirs.double()
    if ours.shape != theirs.shape:
        return False
    layer = place.module.split(".")[:2]
    streams = [taken for name, taken in reference.inputs.items() if name.split(".")[:2] == layer]
    sums = [ours + taken for taken in streams if isinstance(taken, Tensor) and taken.shape == ours.shape]
    multiple = ours * ((ours * theirs).sum() / ours.square().sum())
    return any(relative_error(one, theirs) <= EXACT for one in [*sums, multiple])
