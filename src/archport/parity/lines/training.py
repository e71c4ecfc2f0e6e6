"""Lines about training: the loss, its gradients, every token's own, and what is trained at all."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...layers import Decoder
from ..budget import ULPS, Check, allowed, by_severity, hold
from ..compare import Comparison
from ..locate import relative_error
from ..outputs import embedding_gradients
from ..outputs import gradients as gradients_of
from ..outputs import loss as loss_of

GRADIENT_ULPS = 4096  # for the fused attention's backward pass subtracts sums that nearly cancel, where eager does not
EVERY_TOKEN, TRAINED = "gradients, every token", "parameters that train"
EMBEDDINGS = ("embed.tokens", "embed.positions")


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
    with all_trained(port):
        ours = gradients_of(port, comparison.short)
    exact = comparison.mapped(gradients_of(comparison.exact, comparison.short))

    def line(reference: nn.Module) -> Check:
        theirs = comparison.mapped(gradients_of(reference, comparison.short))
        own = max(relative_error(theirs[name], exact[name]) for name in exact)
        # Each is a sum over the tokens, so it rounds that much more than one of its terms.
        ulps = GRADIENT_ULPS if comparison.dtype == torch.float32 else ULPS
        budget = allowed(own, comparison.short.numel() ** 0.5, comparison.dtype, ulps)
        both = ours.keys() & exact.keys()
        names = exact | dict(port.named_parameters())  # a buffer that the reference lacks has no gradient
        errors = {name: relative_error(ours[name], exact[name]) if name in both else math.inf for name in names}
        rows = [Check("gradients", error, own, budget, name) for name, error in errors.items()]
        wrong = [row for row in rows if not row.ok]
        # A wrong backward pass spoils all that comes before it: the last in forward order is the nearest.
        return wrong[-1] if wrong else max(rows, key=by_severity)

    return comparison.held(line)


def every_token(comparison: Comparison, port: Decoder) -> Check:
    """What embeddings learn from every token and position, by a fixed gradient of what the first block reads."""
    pairs = {name: comparison.pairs[name] for name in EMBEDDINGS if name in comparison.pairs}
    ids = every_id(comparison)

    def theirs(model: nn.Module) -> list[Tensor]:
        return embedding_gradients(model, comparison.pairs["blocks.0"], list(pairs.values()), ids)

    with all_trained(port):
        ours = embedding_gradients(port, "blocks.0", list(pairs), ids)
    exact = theirs(comparison.exact)

    def line(reference: nn.Module) -> Check:
        rows = zip(pairs, ours, theirs(reference), exact, strict=True)
        return max(
            (hold(EVERY_TOKEN, a, b, c, comparison.dtype, f"{name}.weight") for name, a, b, c in rows), key=by_severity
        )

    return comparison.held(line)


def every_id(comparison: Comparison) -> Tensor:
    """Every token that there is, in texts that go as far as any."""
    vocab, length = comparison.clean.config.vocab_size, comparison.ids[comparison.longest].shape[-1]
    return torch.arange(length * math.ceil(vocab / length), device=comparison.short.device).view(-1, length) % vocab


def trained(comparison: Comparison, port: Decoder) -> Check:
    """Parameters whose requires_grad is off, where the reference's is on; who freezes them all does so on purpose."""
    learned = {name for name, one in comparison.clean.named_parameters() if one.requires_grad}
    there = [(name, one.requires_grad) for name, one in port.named_parameters() if name in learned]
    frozen = [name for name, trains in there if not trains]
    if len(frozen) == len(there):
        return Check(TRAINED, 0.0, 0.0, 0.0, note="all are frozen")
    note = f"requires_grad is off in {len(frozen)} of {len(there)}" if frozen else ""
    return Check(TRAINED, float(len(frozen)), 0.0, 0.0, frozen[0] if frozen else "", note)


@contextmanager
def all_trained(port: Decoder) -> Iterator[None]:
    """Let gradients reach every parameter for a while."""
    frozen = [parameter for parameter in port.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
