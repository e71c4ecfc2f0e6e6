"""Compare the bundled checkpoint, loaded by archport, with transformers' own model on the same tokens."""

import sys

import torch
from transformers import AutoModelForCausalLM

import archport
from archport.port import DEMO

BUDGET = 1e-5  # of the largest logit, in float32


@torch.no_grad()
def main() -> None:
    """Print the largest difference of the logits over a full context, eager and fused; exit 1 if it is too large."""
    model = archport.load(dtype="float32")
    ids = torch.randint(0, model.config.vocab_size, (4, model.config.context), generator=torch.manual_seed(0))
    ours = model(ids)
    worst = 0.0
    for attention in ("eager", "sdpa"):
        theirs = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32, attn_implementation=attention)(
            ids
        ).logits
        difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        print(f"largest difference from transformers ({attention}): {difference:.1e} of the largest logit")
        worst = max(worst, difference)
    print("the same model" if worst <= BUDGET else f"NOT the same model: {worst:.1e} is more than {BUDGET:.0e}")
    sys.exit(worst > BUDGET)


if __name__ == "__main__":
    main()
