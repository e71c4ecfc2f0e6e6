"""Archport against transformers: seconds for a step of training, forward and backward.

Both libraries run in one process and take turns; figures are medians of the rounds, ratios transformers' seconds over
archport's. Nothing is timed before loss and gradients agree. Neither drops anything.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn import functional as F
from turns import SHAPES, Case, ids, in_turns, reference_of, rendered, write

import archport

TOLERANCE = 1e-4  # of the largest gradient of the embedding


def main() -> None:
    """Measure, print the table, and write it into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the table into a page, between its markers")
    options = parser.parse_args()
    reference = reference_of(options.shape)
    ours = archport.from_state_dict(reference.config, copy.deepcopy(reference.state_dict()))
    batch = ids(4, 128)
    steps = step(ours, batch), step(reference, batch)
    require_agreement(ours, reference, steps)
    lines = in_turns([Case("4 x 128, float32", steps[0], steps[1:])], options.rounds)
    table = rendered(lines, f"{options.shape} shape, medians of {options.rounds} rounds, forward and backward")
    print(table)
    if options.docs:
        write(options.docs, f"benchmarks/train.py {options.shape}", table)


def step(model: Any, batch: torch.Tensor) -> Callable[[], float]:
    """The loss of a batch, with new gradients on every parameter."""

    def run() -> float:
        model.zero_grad()
        output = model(batch)
        logits = getattr(output, "logits", output).float()
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        return loss.item()

    return run


def require_agreement(
    ours: Any, reference: Any, steps: Sequence[Callable[[], float]], tolerance: float = TOLERANCE
) -> None:
    """Stop unless both libraries make the same of a batch."""
    losses = [run() for run in steps]
    gradients = ours.embed.tokens.weight.grad, reference.get_input_embeddings().weight.grad
    error = ((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()).item()
    if not (abs(losses[0] - losses[1]) < tolerance and error < tolerance):
        sys.exit(f"losses are {losses}, gradients {error:.1%} of the largest apart")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
