"""Archport against transformers: seconds for a step of training, forward and backward, and the memory it takes.

Both libraries run in one process and take turns; figures are medians of the rounds, ratios transformers' seconds over
archport's. transformers' figure is the better of its own loss and of cross-entropy on its logits. Nothing is timed
before loss and gradients agree. Neither drops anything. Memory is looked at in a fresh process for each way.
"""

import argparse
import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import memory
from torch.nn import functional as F
from turns import SHAPES, Case, ids, in_turns, reference_of, rendered, write

import archport
from archport.fast.products import onednn_products

TOLERANCE = 1e-4  # of the largest gradient of the embedding
GOAL = 1.10
STEPS = 2  # when memory is looked at, for the second has the first one's gradients

Loss = Callable[[Any, torch.Tensor], torch.Tensor]


def of_logits(model: Any, batch: torch.Tensor) -> torch.Tensor:
    """Cross-entropy on all logits of either library's model."""
    output = model(batch)
    logits = getattr(output, "logits", output).float()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())


def of_labels(model: Any, batch: torch.Tensor) -> torch.Tensor:
    """The loss that transformers makes."""
    loss: torch.Tensor = model(batch, labels=batch).loss
    return loss


OURS: dict[str, tuple[Loss, bool]] = {  # and whether oneDNN multiplies
    "archport.loss, products by oneDNN": (archport.loss, True),
    "archport.loss": (archport.loss, False),
    "all logits": (of_logits, False),
}
THEIRS: dict[str, Loss] = {"transformers, its loss": of_labels, "transformers, all logits": of_logits}


def main() -> None:
    """Measure, print the tables, and write them into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two layers, 2 x 64, two rounds")
    parser.add_argument("--memory", choices=(*OURS, *THEIRS), help="print what a step of this takes, in bytes")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the tables into a page, between its markers")
    options = parser.parse_args()
    if options.quick:
        options.shape, options.batch, options.length, options.rounds = "gpt2-2-layers", 2, 64, 2
    batch = ids(options.batch, options.length)
    if options.memory:
        print(memory_of(options.shape, batch, options.memory))
        return
    reference = reference_of(options.shape)
    ours = archport.from_state_dict(reference.config, copy.deepcopy(reference.state_dict()))
    theirs = [step(reference, batch, loss) for loss in THEIRS.values()]
    cases = []
    for name, (loss, by_onednn) in OURS.items():
        run = step(ours, batch, loss, by_onednn)
        require_agreement(ours, reference, run, theirs[0])
        cases.append(Case(f"{name}, float32", run, theirs, None if loss is of_logits else GOAL))
    about = f"{options.shape} shape, {options.batch} x {options.length}, forward and backward, medians"
    threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    table = rendered(in_turns(cases, options.rounds), f"{about} of {options.rounds} rounds, {threads}")
    text = f"{table}\n\n{memory_table(options)}"
    print(text)
    if options.docs:
        write(options.docs, f"benchmarks/train.py {options.shape} {torch.backends.cpu.get_cpu_capability()}", text)


def step(model: Any, batch: torch.Tensor, loss: Loss, by_onednn: bool = False) -> Callable[[], float]:
    """The loss of a batch, with new gradients on every parameter."""

    def run() -> float:
        model.zero_grad()
        made = loss(model, batch)
        made.backward()
        return made.item()

    return onednn_products()(run) if by_onednn else run


def require_agreement(ours: Any, reference: Any, *steps: Callable[[], float], tolerance: float = TOLERANCE) -> None:
    """Stop unless both libraries make the same of a batch."""
    losses = [run() for run in steps]
    gradients = ours.embed.tokens.weight.grad, reference.get_input_embeddings().weight.grad
    error = ((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()).item()
    if not (abs(losses[0] - losses[1]) < tolerance and error < tolerance):
        sys.exit(f"losses are {losses}, gradients {error:.1%} of the largest apart")


def memory_table(options: argparse.Namespace) -> str:
    """The most that a step takes beside the weights, a row for each way, each in a fresh process."""
    sizes = ["--shape", options.shape, "--batch", str(options.batch), "--length", str(options.length)]
    peaks = {}
    for name in (*OURS, *THEIRS):
        words = [sys.executable, __file__, *sizes, "--memory", name]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        peaks[name] = int(done.stdout.splitlines()[-1])
    least = min(peaks[name] for name in THEIRS)
    rows = [("memory of a step, at most, beside the weights", "MB", "of transformers' better", "goal"), ("---",) * 4]
    for name, peak in peaks.items():
        goal = f"1: {'met' if peak <= least else 'missed'}" if name in OURS and OURS[name][0] is not of_logits else ""
        rows.append((name, f"{peak / 1e6:,.0f}", f"{peak / least:.2f}", goal))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def memory_of(shape: str, batch: torch.Tensor, name: str) -> int:
    """The bytes that a step takes at most, its gradients too, beyond what the process has with its model."""
    model = reference_of(shape)
    if name in OURS:
        model = archport.from_state_dict(model.config, model.state_dict())
    loss, by_onednn = OURS[name] if name in OURS else (THEIRS[name], False)
    run = step(model, batch, loss, by_onednn)
    step(model, batch[:1, :8], loss, by_onednn)()  # so that all code is there
    model.zero_grad()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory()["VmRSS"]
    for _ in range(STEPS):
        run()
    return memory()["VmHWM"] - before


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
