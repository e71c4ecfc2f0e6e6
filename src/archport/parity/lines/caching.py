"""Lines about the cache: logits that go through it in pieces."""

from ...layers import Decoder
from ..budget import Check, hold
from ..compare import Comparison
from ..outputs import cached_logits

CACHED = "logits, cached"


def cached(comparison: Comparison, port: Decoder) -> Check:
    """Logits made through a cache: one token, several, and the last ones each alone."""
    ours = cached_logits(port, comparison.first_ids)
    if not comparison.follows_length:
        return comparison.of_logits(CACHED, ours, comparison.first)
    exact = cached_logits(comparison.exact, comparison.first_ids)
    return comparison.held(
        lambda model: hold(CACHED, ours, cached_logits(model, comparison.first_ids), exact, comparison.dtype)
    )
