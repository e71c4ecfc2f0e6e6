"""Do the gradients of a person's module agree with those of our port of its weights, tensor by tensor?"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..budget import Check, by_severity
from ..running import backward, run
from .code import Code, Line
from .weights import exported

NOTE = "float64, by each of your tensors"
CANCELS = 1e3  # how much more gradients may be off by than logits: they are differences of large numbers


def gradients(code: Code, line: Line) -> Check | None:
    """The gradient of the loss by each of their tensors, in float64; None for logits that carry none.

    Raises: RaisedError where the backward pass raises.
    """
    ids = line.ids[:1]
    for one in (*code.port.modules(), *code.theirs.module.modules()):
        if isinstance(one, nn.Embedding):
            one.padding_idx = None  # which is not trained, and theirs need not know, or may
    model, port = code.theirs.module.requires_grad_(True), code.port.requires_grad_(True)
    try:
        with torch.enable_grad(), line.mode():
            theirs = code.theirs.run(ids)
            if not theirs.requires_grad:
                return None
            backward(_loss(theirs, ids))
            backward(_loss(run(port, ids)[:, -theirs.shape[1] :], ids))
        return max(_compared(code, CANCELS * line.limit), key=by_severity)
    finally:
        for one in (model, port):
            one.zero_grad(set_to_none=True)
            one.requires_grad_(False)


def _loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy with the next tokens, in the order in which they come around."""
    return F.cross_entropy(logits[0], ids[0].roll(-1)[-logits.shape[1] :])


def _compared(code: Code, limit: float) -> list[Check]:
    """A line for each of their tensors, relative to the largest of what ours has in one: that of a key bias is 0."""
    ours = {name: _gradient(one) for name, one in code.port.named_parameters()}
    theirs = dict(code.theirs.module.named_parameters(remove_duplicate=False))
    largest: dict[str, float] = {}
    for name, gradient in ours.items():
        for key in code.weights.keys[name]:
            largest[key] = max(largest.get(key, 1e-30), gradient.abs().max().item())
    return [
        Check("gradients", (_gradient(theirs[key]) - right).abs().max().item() / largest[key], 0.0, limit, key, NOTE)
        for key, right in exported(code.weights, ours).items()
        if key in theirs
    ]


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
