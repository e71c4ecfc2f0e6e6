"""Lines about plain logits: of every set of ids, and of every token's embedding."""

from collections.abc import Iterable

import torch

from ...layers import Decoder
from ..budget import Check, by_severity, hold
from ..compare import Comparison
from ..outputs import CHUNK, fed, logits

EMBEDDINGS = "embeddings, every token"


def of_ids(comparison: Comparison, port: Decoder) -> Iterable[Check]:
    """Logits on every set of ids."""
    for name, ids in comparison.ids.items():
        yield comparison.of_logits(f"logits, {name}", logits(port, ids), name)


def embeddings(comparison: Comparison, port: Decoder) -> Check:
    """What every token of the vocabulary becomes before the first block."""
    first = "blocks.0"
    worst = Check(EMBEDDINGS, 0.0, 0.0, 0.0)
    for ids in torch.arange(port.config.vocab_size, device=comparison.short.device)[:, None].split(CHUNK):
        ours = fed(port, first, ids)
        theirs, exact = (fed(model, comparison.pairs[first], ids) for model in (comparison.reference, comparison.exact))
        worst = max(worst, hold(worst.name, ours, theirs, exact, comparison.dtype), key=by_severity)
    return worst
