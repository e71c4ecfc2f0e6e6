"""What verifying costs: seconds beside the reference's own passes over the same ids, and memory as a share of weights.

The yardstick is one float32 forward and backward pass and one float64 forward pass of the reference over all the ids
that verify compares on, and one forward pass in each over the first of them in every other way that verify asks the
reference for: with positions, rows beside each other, continued texts, under autocast, in train mode. Runs in one
process, taking turns; the report is checked to be green first.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

import archport
from archport.parity import references
from archport.parity.compare import Comparison
from archport.parity.ids import ids_for
from archport.parity.judging import compare
from archport.parity.lines.dropout import dropped_logits
from archport.parity.outputs import logits, loss, with_parameters
from archport.parity.passes import autocast_logits, padded_logits, positioned_logits
from archport.port import DEMO


def peak() -> int:
    """The most memory this process has had, in bytes. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def other_ways(reference: torch.nn.Module, exact: torch.nn.Module, ids: torch.Tensor) -> None:
    """The passes that verify asks the reference for beside plain ones: those on continued texts are about as long."""
    for model in (reference, exact):
        positioned_logits(model, ids)
        padded_logits(model, ids)
        logits(model, ids)
    autocast_logits(reference, ids)
    dropped_logits(exact, ids)


def main() -> None:
    """Print seconds, their ratio, and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", nargs="?", type=Path, default=DEMO, help="a folder; without it, the bundled checkpoint"
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    port = archport.load(options.source, dtype="float32")
    reference = references.of_folder(options.source, torch.float32, "eager")
    ids = ids_for(port, options.source)
    before = peak()
    ours, theirs = [], []
    for _ in range(options.repeats):
        start = time.perf_counter()
        report = compare(port, Comparison(reference, ids), str(options.source))
        ours.append(time.perf_counter() - start)
        if not report.ok:
            sys.exit(str(report))
        start = time.perf_counter()
        exact = with_parameters(reference, torch.float64)
        for tokens in ids.values():
            loss(reference, tokens if tokens.shape[1] > 1 else tokens.repeat(1, 2)).backward()
            with torch.no_grad():
                exact(tokens)
        other_ways(reference, exact, next(iter(ids.values())))
        theirs.append(time.perf_counter() - start)
    seconds, yardstick = statistics.median(ours), statistics.median(theirs)
    weights = sum(parameter.nbytes for parameter in port.parameters())
    print(f"verify {seconds:.2f} s, the reference's own passes {yardstick:.2f} s, ratio {seconds / yardstick:.2f}")
    print(f"memory beyond port and reference: {(peak() - before) / weights:.1f} times the float32 weights")


if __name__ == "__main__":
    main()
