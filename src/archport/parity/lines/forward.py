"""Lines about plain logits: of every set of ids, of every token's embedding, of a pass in train mode."""

import copy
from collections.abc import Iterable

import torch

from ...layers import Decoder
from ..budget import Check, by_severity, hold
from ..compare import Comparison
from ..outputs import fed, logits
from ..settings import without_dropout

EMBEDDINGS = "embeddings, every token"
CHUNK = 4096  # tokens looked up at once


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


def train_mode(comparison: Comparison, port: Decoder) -> Check:
    """Logits in train mode, with all dropout rates at 0."""
    with without_dropout():
        in_train_mode = logits(copy.deepcopy(port).train(), comparison.first_ids)
    return comparison.of_logits("logits, train mode", in_train_mode, comparison.first)
