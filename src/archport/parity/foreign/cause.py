"""Where the code of a person's module differs and, if a known fault explains all of it, which that is."""

from collections.abc import Collection, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from ...layers import Decoder, Experts
from ..diagnose import Diagnosis
from ..locate import relative_error
from ..outputs import logits
from ..running import RaisedError
from ..widened import widened
from . import wording
from .code import MODES, Code, Line, Mode
from .locating import BLOCK, TIMES, Finding, compared, drawn_as_theirs, is_like_a_norm, limits, loosened, traced
from .naming import Named, explained, planted
from .passes import nudged
from .tapping import Trace

SHORT = 24  # tokens that are looked at part by part
DEPTH = 3  # names of what is inside a part of a block


def cause(code: Code, line: Line, places: wording.Places, against: str) -> Diagnosis:
    """Where the code differs and, if a known fault explains all of it, which that is. Raises: RaisedError."""
    ids = _row(code, line)
    if ids is None:
        whole = places.whole
        return Diagnosis(whole, None, f"{whole}: each row alone agrees, but not {line.on}: rows of a batch meet")
    looked_at = {name: path for name, path in places.pairs.items() if _is_seen(name, code.port)}
    mode, trace = _trace(code, looked_at, ids)
    runs = []
    for either in MODES:
        with either():
            runs.append(compared(code.port, trace, ids))
    allowed = limits(*runs)
    with torch.no_grad(), nudged(code.theirs.module) as has_constants:
        if has_constants:
            allowed = loosened(allowed, trace, _trace(code, looked_at, ids)[1])

    def seen(trace: Trace) -> list[Finding]:
        with mode():
            return compared(code.port, trace, ids, allowed)

    trace = drawn_as_theirs(trace, seen(trace), seen)

    def compare(model: Decoder, may_differ: Collection[tuple[str, str]] | None = None) -> list[Finding]:
        with mode():
            return compared(model, trace, ids, allowed, may_differ)

    findings = compare(code.port)
    found, ruled_out = explained(code.port, compare, findings)
    if found and _agrees(code, found, line):
        return wording.named(found, places, against)
    if (order := trace.order) != sorted(order):
        return wording.reordered(order, places, against)
    first = next((one for one in findings if one.differs), None)
    if first is None:
        words = f"{places.whole}: each part that was seen agrees, but not the logits: {line.on}"
        return Diagnosis(places.whole, None, words)
    return wording.unnamed(first, places, ruled_out)


def _agrees(code: Code, found: list[Named], line: Line) -> bool:
    """Whether ours with these faults makes their logits as a whole, too."""
    model = code.port
    for one in found:
        model = planted(model, one)
    ours = [code.ours(mode, line.ids, model)[:, -line.theirs.shape[1] :] for mode in MODES]
    limit = max(line.limit, TIMES * relative_error(*ours))
    return relative_error(line.theirs, ours[MODES.index(line.mode)]) <= limit


def _trace(code: Code, pairs: Mapping[str, str], ids: Tensor) -> tuple[Mode, Trace]:
    """What their parts take and make, with nothing rounded to float32 if they run that way."""
    try:
        with widened():
            return widened, traced(code.theirs, code.weights, pairs, ids)
    except RaisedError:
        return nullcontext, traced(code.theirs, code.weights, pairs, ids)


def _row(code: Code, line: Line) -> Tensor | None:
    """One row of ids on which they differ, short if that is enough; None where each row alone agrees."""
    rows = line.ids.split(1)
    for row in (*(row[:, :SHORT] for row in rows), *(row for row in rows if row.shape[-1] > SHORT)):
        with line.mode():
            error = relative_error(theirs := code.theirs.run(row), logits(code.port, row)[:, -theirs.shape[1] :])
        if not error <= line.limit:
            return row
    return None


def _is_seen(name: str, port: Decoder) -> bool:
    """Whether one of ours is looked at as a whole: a block, experts, which see not all tokens, a norm of the stream."""
    part = port.get_submodule(name)
    of_stream = name.count(".") < DEPTH
    return BLOCK.fullmatch(name) is not None or isinstance(part, Experts) or (of_stream and is_like_a_norm(part))
