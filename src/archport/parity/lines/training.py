"""Lines about training: the loss and its gradients."""

import math

import torch
from torch import nn

from ...layers import Decoder
from ..budget import ULPS, Check, allowed, by_severity, hold
from ..compare import Comparison
from ..locate import relative_error
from ..outputs import gradients as gradients_of
from ..outputs import loss as loss_of

GRADIENT_ULPS = 4096  # for the fused attention's backward pass subtracts sums that nearly cancel, where eager does not


def loss(comparison: Comparison, port: Decoder) -> Check:
    """Next-token loss."""
    ours, exact = (loss_of(model, comparison.short).detach()[None] for model in (port, comparison.exact))
    return comparison.held(
        lambda model: hold("loss", ours, loss_of(model, comparison.short).detach()[None], exact, comparison.dtype)
    )


def gradients(comparison: Comparison, port: Decoder) -> Check:
    """The gradient of the loss by every parameter, the reference's mapped back through the key table.

    A small gradient is a difference of large ones, for both; so the budget is set by the reference's worst.
    """
    ours = gradients_of(port, comparison.short)
    exact = comparison.mapped(gradients_of(comparison.exact, comparison.short))

    def line(reference: nn.Module) -> Check:
        theirs = comparison.mapped(gradients_of(reference, comparison.short))
        own = max(relative_error(theirs[name], exact[name]) for name in exact)
        # Each is a sum over the tokens, so it rounds that much more than one of its terms.
        ulps = GRADIENT_ULPS if comparison.dtype == torch.float32 else ULPS
        budget = allowed(own, comparison.short.numel() ** 0.5, comparison.dtype, ulps)
        both = ours.keys() & exact.keys()
        errors = {name: relative_error(ours[name], exact[name]) if name in both else math.inf for name in ours | exact}
        rows = [Check("gradients", error, own, budget, name) for name, error in errors.items()]
        wrong = [row for row in rows if not row.ok]
        # A wrong backward pass spoils all that comes before it: the last in forward order is the nearest.
        return wrong[-1] if wrong else max(rows, key=by_severity)

    return comparison.held(line)
