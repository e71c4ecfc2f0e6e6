"""Archport against transformers: seconds for a forward pass over many tokens.

Both libraries run in one process and take turns; figures are medians of the rounds, ratios transformers' seconds over
archport's. Nothing is timed before the logits agree. archport runs with its linear maps packed; the last lines say how
long packing takes, and what a pass takes without, so that one can see when packing is worth it.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
import transformers
from turns import SHAPES, Case, Line, forward, ids, in_turns, reference_of, rendered, timed, write

import archport
from archport.fast.linears import swap

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of the largest logit


def main() -> None:
    """Measure, print the table, and write it into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two layers, two rounds")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the table into a page, between its markers")
    options = parser.parse_args()
    shape = options.shape or ("gpt2-2-layers" if options.quick else "gpt2")
    rounds = options.rounds or (2 if options.quick else 5)
    lines: list[Line] = []
    for dtype, goal in ((torch.float32, 1.35), (torch.bfloat16, None)):
        reference = reference_of(shape, dtype)
        plain = archport.from_state_dict(reference.config, reference.state_dict())
        packed = swap(copy.deepcopy(plain))
        prompt, name = ids(8, 128), str(dtype).removeprefix("torch.")
        require_agreement(forward(packed, prompt)(), forward(reference, prompt)(), dtype)
        theirs = [forward(reference, prompt)]
        cases = [
            Case(f"8 x 128, {name}", forward(packed, prompt), theirs, goal),
            Case(f"8 x 128, {name}, not packed", forward(plain, prompt), theirs),
        ]
        lines += in_turns(cases, rounds)
        copies = [timed(lambda model=plain: copy.deepcopy(model)) for _ in range(rounds)]
        packing = [timed(lambda model=plain: swap(copy.deepcopy(model))) for _ in range(rounds)]
        saved = sorted(lines[-1].ours)[rounds // 2] - sorted(lines[-2].ours)[rounds // 2]
        cost = sorted(packing)[rounds // 2] - sorted(copies)[rounds // 2]
        print(f"packing, {name}: {1e3 * cost:.0f} ms, worth it after {cost / saved:.1f} such passes")
    table = rendered(lines, f"{shape} shape, medians of {rounds} rounds")
    print(table)
    if options.docs:
        write(options.docs, "benchmarks/forward.py", table)


def require_agreement(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> None:
    """Stop unless both libraries make the same of a prompt."""
    error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    if not error <= TOLERANCE[dtype]:
        sys.exit(f"{dtype}: logits are {error:.1%} of the largest apart")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
