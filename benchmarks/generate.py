"""Archport against transformers: seconds a token, to the first token, and for a forward pass.

Both libraries run in one process and take turns; every figure is the median of the rounds, and every ratio is
transformers' seconds over archport's in this run. Nothing is timed before both gave the same greedy tokens (float32) or
logits that agree (bfloat16). transformers' figure is the better of its dynamic and its static cache. archport runs with
its linear maps packed, as `archport generate` does; packing is timed on a line of its own. Weights are random, at the
sizes of GPT-2 124M.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from load import machine  # beside this file

import archport
from archport.linears import swap

SIZES: dict[str, dict[str, Any]] = {"gpt2": {}, "gpt2-2-layers": {"n_layer": 2}}
MARKERS = ("<!-- begin: benchmarks/generate.py -->", "<!-- end: benchmarks/generate.py -->")
TOLERANCE = 5e-2  # of the largest logit, between two ways to round bfloat16

START = {
    "archport": (
        "import archport; m = archport.load(sys.argv[1]); archport.generate(m, ids, max_new_tokens=1, greedy=True)"
    ),
    "transformers": (
        "import torch, transformers; m = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]); "
        "t = torch.tensor([ids]); m.generate(t, attention_mask=torch.ones_like(t), max_new_tokens=1, do_sample=False)"
    ),
}


@dataclass
class Line:
    """One thing that both do, with the seconds of each round, and the ratio it should reach."""

    what: str
    ours: list[float]
    theirs: list[float]
    goal: float | None = None

    @property
    def ratio(self) -> float:
        """How many times as fast archport is."""
        return statistics.median(self.theirs) / statistics.median(self.ours)

    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        goal = "" if self.goal is None else f"{self.goal:.3g} x: {'met' if self.ratio >= self.goal else 'missed'}"
        times = (f"{1e3 * statistics.median(samples):.1f} ms" for samples in (self.ours, self.theirs))
        return (self.what, *times, f"{self.ratio:.2f} x", goal)


def main() -> None:
    """Measure, print the table, and write it into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two layers, two rounds")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--tokens", type=int, default=32, help="to decode, a round")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the table into a page, between its markers")
    options = parser.parse_args()
    size = "gpt2-2-layers" if options.quick else "gpt2"
    rounds = options.rounds or (2 if options.quick else 5)
    torch.manual_seed(0)
    reference = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES[size])).eval()
    lines = [start_line(reference, rounds), *in_turns(reference, rounds, options.tokens)]
    table = rendered(lines, size, rounds)
    print(table)
    if options.docs:
        page = options.docs.read_text("utf-8")
        begin, end = (page.index(marker) for marker in MARKERS)
        options.docs.write_text(page[: begin + len(MARKERS[0])] + "\n" + table + "\n" + page[end:], "utf-8")


def start_line(reference: Any, rounds: int) -> Line:
    """From the start of the process to the first token, the files in the page cache."""
    seconds: dict[str, list[float]] = {name: [] for name in START}
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        for _ in range(rounds):
            for name, code in START.items():
                words = [sys.executable, "-c", f"import sys; ids = list(range(8)); {code}", folder]
                began = time.perf_counter()
                subprocess.run(words, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
                seconds[name].append(time.perf_counter() - began)
    return Line("process start to first token", seconds["archport"], seconds["transformers"], 1 / 0.45)


def in_turns(reference: Any, rounds: int, tokens: int) -> list[Line]:
    """Everything that runs in one process."""
    port = archport.from_state_dict(reference.config, copy.deepcopy(reference.state_dict()))
    half = copy.deepcopy(reference).to(torch.bfloat16)
    ours = {"float32": copy.deepcopy(port), "bfloat16": copy.deepcopy(port).to(torch.bfloat16)}
    packing = [timed(lambda: swap(copy.deepcopy(port))) - timed(lambda: copy.deepcopy(port)) for _ in range(rounds)]
    for model in ours.values():
        swap(model)
    ours |= {kind: swap(copy.deepcopy(port), kind) for kind in ("int8", "int4")}
    check(reference, half, ours)

    one, many, long = ids(1, 8), ids(8, 8), ids(1, 512)
    cases: list[tuple[str, Callable[[], Any], list[Callable[[], Any]], int, float | None]] = [
        ("prompt of 512 to first token", go(ours["float32"], long, 1), hf(reference, long, 1), 1, 1.2),
        ("forward 8 x 128", forward(ours["float32"], ids(8, 128)), [forward(reference, ids(8, 128))], 1, 1.35),
        ("decode, batch 1, float32", go(ours["float32"], one, tokens), hf(reference, one, tokens), tokens, 1.9),
        ("decode, batch 1, bfloat16", go(ours["bfloat16"], one, tokens), hf(half, one, tokens), tokens, 1.85),
        ("decode, batch 8, float32", go(ours["float32"], many, tokens), hf(reference, many, tokens), tokens, 2.2),
        (
            "decode, batch 1, int8 beside float32",
            go(ours["int8"], one, tokens),
            hf(reference, one, tokens),
            tokens,
            3.0,
        ),
        (
            "decode, batch 1, int4 beside float32",
            go(ours["int4"], one, tokens),
            hf(reference, one, tokens),
            tokens,
            5.0,
        ),
    ]
    lines = [Line("packing all linear maps, once", packing, packing)]
    for what, mine, theirs, steps, goal in cases:
        for run in (mine, *theirs):
            run()
        samples: list[list[float]] = [[] for _ in range(1 + len(theirs))]
        for _ in range(rounds):
            for seconds, run in zip(samples, (mine, *theirs), strict=True):
                seconds.append(timed(run) / steps)
        lines.append(Line(what, samples[0], min(samples[1:], key=statistics.median), goal))
    return lines


def check(reference: Any, half: Any, ours: dict[str, Any]) -> None:
    """Stop unless both libraries make the same of a prompt."""
    prompt = ids(1, 8)
    if go(ours["float32"], prompt, 16)() != hf(reference, prompt, 16)[0]().tolist():
        sys.exit("the two libraries do not give the same tokens in float32")
    with torch.inference_mode():
        exact = reference(prompt).logits
        for name, logits in (("transformers, bfloat16", half(prompt).logits), ("bfloat16", ours["bfloat16"](prompt))):
            error = ((logits.float() - exact).abs().max() / exact.abs().max()).item()
            if error > TOLERANCE:
                sys.exit(f"{name}: logits are off by {error:.1%} of the largest")


def ids(rows: int, length: int) -> torch.Tensor:
    """The same random tokens every time."""
    return torch.randint(0, 50257, (rows, length), generator=torch.Generator().manual_seed(1))


def go(model: Any, prompt: torch.Tensor, tokens: int) -> Callable[[], Any]:
    """Generation with archport."""
    return lambda: archport.generate(model, prompt, max_new_tokens=tokens, greedy=True, end=[])


def hf(model: Any, prompt: torch.Tensor, tokens: int) -> list[Callable[[], Any]]:
    """transformers with either cache."""

    def run(**more: Any) -> Any:
        mask = torch.ones_like(prompt)
        options = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        return model.generate(prompt, attention_mask=mask, **options, **more)

    return [run, lambda: run(cache_implementation="static")]


def forward(model: Any, prompt: torch.Tensor) -> Callable[[], Any]:
    """A forward pass of either library's model."""

    def run() -> None:
        with torch.inference_mode():
            model(prompt)

    return run


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def limits() -> str:
    """What this machine can do at all: bytes read and float32 operations a second."""
    block, square = torch.ones(1 << 26), torch.ones(1024, 1024)
    read = min(timed(block.sum) for _ in range(5))
    multiply = min(timed(lambda: square @ square) for _ in range(5))
    return f"read {block.nbytes / read / 1e9:.1f} GB/s, multiply {2 * 1024**3 / multiply / 1e9:.0f} GFLOP/s in float32"


def rendered(lines: list[Line], size: str, rounds: int) -> str:
    """The table in Markdown, under what it was measured with."""
    about = ", ".join(f"{name} {value}" for name, value in machine().items())
    head = f"`python {' '.join(sys.argv)}`: {size} shape, medians of {rounds} rounds; {limits()}; {about}.\n"
    rows = [
        ("what", "archport", "transformers", "times as fast", "goal"),
        ("---",) * 5,
        *(line.cells() for line in lines[:1]),
    ]
    packing = next(line for line in lines if line.what.startswith("packing"))
    rows += [line.cells() for line in lines[1:] if line is not packing]
    rows.append((packing.what, f"{1e3 * statistics.median(packing.ours):.0f} ms", "", "", ""))
    return head + "\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
