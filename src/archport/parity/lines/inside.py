"""Lines about what is inside: every module alone, and the residual stream."""

import math

from torch import nn

from ...layers import Decoder
from ..budget import Check, by_severity, hold
from ..compare import Comparison
from ..outputs import outputs


def modules(comparison: Comparison, port: Decoder) -> Check:
    """Each module alone, given the reference's own input."""
    reference = comparison.trace(port)
    compared = comparison.findings(port, reference)
    worst = max(compared, key=lambda finding: (finding.differs, finding.error / finding.limit))
    elsewhere = len(reference.another_boundary)
    note = f"{len(comparison.pairs)} fed the reference's input, float64"
    note += f"; {elsewhere} with another boundary" if elsewhere else ""
    return Check("modules, one by one", worst.error, 0.0, worst.limit, worst.module, note)


def stream(comparison: Comparison, port: Decoder) -> Check:
    """The residual stream after every block."""
    elsewhere = comparison.short_trace.another_boundary
    blocks = [
        name
        for name in comparison.pairs
        if name.startswith("blocks.") and name.count(".") == 1 and name not in elsewhere
    ]
    paths = [comparison.pairs[name] for name in blocks]
    ours, exact = outputs(port, blocks, comparison.short), outputs(comparison.exact, paths, comparison.short)

    def line(reference: nn.Module) -> Check:
        rows = zip(blocks, ours, outputs(reference, paths, comparison.short), exact, strict=False)
        missing = [Check("residual stream", math.inf, 0.0, 0.0, name) for name in blocks[len(ours) :]]
        held = [hold("residual stream", a, b, c, comparison.dtype, name) for name, a, b, c in rows]
        return max([*missing, *held], key=by_severity)

    return comparison.held(line)
