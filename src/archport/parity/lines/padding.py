"""Lines about padding: a row beside a longer one."""

from torch import Tensor, nn

from ...layers import Decoder
from ..budget import Check, hold
from ..compare import Comparison
from ..outputs import logits, padded_logits, padded_row

PADDED = "logits, left-padded"


def padded(comparison: Comparison, port: Decoder) -> Check:
    """Logits of a row that is padded on the left beside a longer one, against the reference of that row alone."""
    ours = padded_logits(port, comparison.first_ids)

    def of(reference: nn.Module) -> Tensor:
        if comparison.follows_length:
            return padded_logits(reference, comparison.first_ids)
        return logits(reference, padded_row(comparison.first_ids))

    exact = of(comparison.exact)
    return comparison.held(lambda model: hold(PADDED, ours, of(model), exact, comparison.dtype))
