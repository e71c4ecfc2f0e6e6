"""Lines about padding: a row beside a longer one."""

from collections.abc import Callable

from torch import Tensor, nn

from ...layers import Decoder
from ..budget import Check, hold
from ..compare import Comparison
from ..passes import padded_logits

PADDED, RIGHT_PADDED = "logits, left-padded", "logits, right-padded"


def padded(comparison: Comparison, port: Decoder) -> Check:
    """Logits of two rows, one of them padded on the left, against the reference of each alone."""
    return _padded(comparison, port, PADDED, "left")


def right_padded(comparison: Comparison, port: Decoder) -> Check:
    """The same with padding on the right."""
    return _padded(comparison, port, RIGHT_PADDED, "right")


def _padded(comparison: Comparison, port: Decoder, name: str, side: str) -> Check:
    def made(model: nn.Module) -> Tensor:
        return padded_logits(model, comparison.first_ids, side)

    return of_two_rows(comparison, name, made(port), made)


def of_two_rows(comparison: Comparison, name: str, ours: Tensor, same: Callable[[nn.Module], Tensor]) -> Check:
    """Hold logits of two rows to the reference's of each alone, or of the `same` pass where its length matters."""
    of = same if comparison.follows_length else comparison.rows_alone
    exact = of(comparison.exact)
    return comparison.held(lambda model: hold(name, ours, of(model), exact, comparison.dtype))
