"""From lines that fail to the place and the cause: which modules differ, and what explains or mends all of it."""

import copy
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from ..layers import Decoder
from .budget import Check
from .catalogue import HEAD_TIED, HEAD_UNTIED
from .compare import Comparison
from .diagnose import Diagnosis, diagnose, named
from .line_cause import cause_of_line, off_without_rounding
from .lines.calling import AGAIN
from .lines.forward import EMBEDDINGS
from .lines.inside import OWN
from .locate import ALLOWANCE, DECODER, EPS, Finding, Trace, findings, holds
from .repair import mended_by, repaired, with_own_classes, with_their_padding
from .settings import Problem


def find_cause(comparison: Comparison, port: Decoder, checks: Iterable[Check] = ()) -> Diagnosis | None:
    """The place and the cause of the first difference; a line that fails while modules agree gives its own place."""
    checks = list(checks)
    failed = [check for check in checks if not check.ok]
    compared, reference, ids = _compared(comparison, port, failed)
    first = next((finding for finding in compared if finding.differs), None)
    if (first is None or first.module == "head") and (tied := _is_tied(port)) != comparison.is_tied:
        return named("head", HEAD_TIED if tied else HEAD_UNTIED)
    if first is None:
        return _of_basic_lines(comparison, port, checks) or _of_lines(comparison, port, failed)
    if first.module == "head" and port.tied and any(check.name == EMBEDDINGS for check in failed):
        return Diagnosis("embed.tokens", None, f"embed.tokens: the head shares it; not the line: {EMBEDDINGS}")
    mended = repaired(comparison, ids)
    if mended is None:
        return diagnose(compared, port, comparison.clean, reference, ids)
    right, repairs = mended
    reference = right.trace(port, ids)
    compared = right.findings(port, reference, ids)
    if not any(finding.differs for finding in compared):
        return None
    diagnosis = diagnose(compared, port, right.clean, reference, ids)
    return diagnosis if diagnosis.fault else mended_by(diagnosis.place, repairs)


def _compared(comparison: Comparison, port: Decoder, failed: Iterable[Check]) -> tuple[list[Finding], Trace, Tensor]:
    """Module by module on a few tokens or, where these show nothing, on the ids of a line of logits that failed."""
    ids, reference = comparison.short, comparison.trace(port)
    compared = comparison.findings(port, reference)
    if not any(finding.differs for finding in compared) and (longer := _of_ids(comparison, failed)) is not None:
        ids = longer
        reference = comparison.trace(port, ids)
        compared = comparison.findings(port, reference, ids)
    return compared, reference, ids


def _of_ids(comparison: Comparison, failed: Iterable[Check]) -> Tensor | None:
    """The ids of the first plain line of logits that failed."""
    names = [check.name.removeprefix("logits, ") for check in failed]
    return next((comparison.ids[name] for name in names if name in comparison.ids), None)


def known(found: Diagnosis | None, problems: Iterable[Problem]) -> Diagnosis | None:
    """A diagnosis or, where no fault explains what was found, the first problem that was seen at that place."""
    if found is not None and found.fault is not None:
        return found
    at = DECODER if found is None else found.place
    placed = [one for one in problems if one.place and (at == DECODER or holds(at, one.place) or holds(one.place, at))]
    if not placed:
        return found
    first = min(placed, key=lambda one: one.place.startswith("config."))  # which may only say what a module has, too
    return Diagnosis(first.place, None, first.words, found.ruled_out if found else ())


def _is_tied(port: Decoder) -> bool:
    """Whether the head is the token embedding, whatever the port says of itself."""
    tokens = {id(one) for one in port.embed.tokens.parameters()}
    return any(id(one) in tokens for one in port.head.parameters())


def _of_basic_lines(comparison: Comparison, port: Decoder, checks: Sequence[Check]) -> Diagnosis | None:
    """Where a line fails that says more than any made of it: numbers that change, constants, plain logits."""
    failed = [check for check in checks if not check.ok]
    if basic := [check for name in (AGAIN, OWN) for check in failed if check.name == name]:
        return _of_lines(comparison, port, basic[:1])
    plain = next((check for check in failed if check.name.removeprefix("logits, ") in comparison.ids), None)
    if plain is None:
        return None
    words = f"every module agrees, but not the line: {plain.name}"
    own = next((check for check in checks if check.name == OWN), None)
    if own is not None:
        words = f"all else agrees, but not the line: {plain.name}; {off_without_rounding(own)}"
    place = own.part if own is not None else DECODER
    return _of_rounding(comparison, port, failed) or Diagnosis(place, None, f"{place}: {words}")


def _of_rounding(comparison: Comparison, port: Decoder, failed: Sequence[Check]) -> Diagnosis | None:
    """Where a port that agrees in float64 is further off in its own dtype than a module's rounding explains."""
    ids = _of_ids(comparison, failed)
    if ids is None:
        return None
    reference = comparison.trace(port, ids)
    ulps = torch.finfo(comparison.dtype).eps / EPS
    for finding in findings(copy.deepcopy(port), reference, ids):
        rounding = ALLOWANCE * ulps * max(EPS, reference.rounding.get(finding.module, 0.0))
        if not finding.error <= rounding:
            dtype = str(comparison.dtype).removeprefix("torch.")
            off = f"off by {finding.error:.1e} of the largest element, where rounding explains {rounding:.1e}"
            return Diagnosis(finding.place, None, f"{finding.place}: agrees in float64, not in {dtype}: {off}")
    return None


def _of_lines(comparison: Comparison, port: Decoder, failed: Iterable[Check]) -> Diagnosis | None:
    """The first cause that has a name, for one fault may show in several lines; else the first place."""
    unnamed: Diagnosis | None = None
    clean = comparison.clean
    for check in failed:
        rights = chain([clean], with_own_classes(clean), with_their_padding(clean, comparison.theirs("embed.tokens")))
        cause = cause_of_line(check, port, comparison, rights)
        if cause is not None and cause.fault is not None:
            return cause
        unnamed = unnamed or cause
    return unnamed
