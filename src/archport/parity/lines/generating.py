"""Lines about generated tokens: whatever follows must be as likely by the reference."""

from functools import partial

import torch

from ...layers import Decoder
from ..budget import Check, allowed, largest
from ..compare import Comparison
from ..outputs import cached_logits, greedy_tokens, logits

GREEDY = 8  # tokens


def greedy(comparison: Comparison, port: Decoder) -> Check:
    """Greedy tokens through the cache: how much likelier, by the reference, another token would have been."""
    context = comparison.clean.config.context
    prompt = comparison.first_ids[:1, : max(1, min(comparison.first_ids.shape[-1], context) // 2)]
    more = min(GREEDY, context - prompt.shape[-1])
    text = torch.tensor([greedy_tokens(port, prompt, more)], device=prompt.device)
    start = prompt.shape[-1] - 1
    chosen = text[0, start + 1 :, None]
    again = (
        partial(cached_logits, bounds=[0, *range(start + 1, text.shape[-1] + 1)])
        if comparison.follows_length
        else logits
    )
    theirs, exact = (again(model, text)[0, start:-1] for model in (comparison.reference, comparison.exact))
    lost = (exact.amax(-1, keepdim=True) - exact.gather(-1, chosen)).max().item()
    own = largest(theirs - exact)
    budget = 2 * allowed(own, largest(exact), comparison.dtype)  # two logits may each be off by as much
    return Check("greedy tokens", lost, own, budget, note=f"{more} tokens through the cache")
