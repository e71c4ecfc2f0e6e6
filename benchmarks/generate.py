"""Archport against transformers: seconds to the first token, seconds a token, and memory while decoding.

All run in one process and take turns; figures are medians of the rounds, ratios transformers' seconds over the other's.
Nothing is timed before all gave the same greedy tokens (float32) or logits that agree (bfloat16). transformers' figure
is the better of its dynamic and its static cache. archport runs with its linear maps packed, and in the lines that say
so direct, of which `archport generate` takes what pays. Weights are random, at published sizes.

`--peer litgpt=PYTHON` adds litgpt by an interpreter that has it, for shapes that it can take. `--device cuda` measures
the compiled step instead, in bfloat16, and says which share of the card's copy bandwidth it reaches.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from gpu import Way, decoding, pair
from machine import memory, where
from turns import DYNAMIC, SHAPES, STATIC, Case, Line, go, hf, ids, in_turns, reference_of, rendered, table, write

import archport
from archport.fast.linears import swap

GOALS = {  # by torch's word for the CPU
    "AVX512": {"prompt": 1.2, "float32": 1.9, "bfloat16": 1.85, "batch 8": 2.2, "int8": 3.0, "int4": 5.0},
    "AVX2": {"prompt": 1.15, "float32": 1.15, "bfloat16": 1.15, "batch 8": 1.7, "int8": 2.5, "int4": 3.5},
}
TOLERANCE = 5e-2  # of the largest logit, between two ways to round bfloat16
MEMORY_GOAL = 1.05
DECODED = 100  # tokens, when memory is looked at

START = {
    "archport": (
        "import archport; m = archport.load(sys.argv[1]); archport.generate(m, ids, max_new_tokens=1, greedy=True)"
    ),
    "transformers": (
        "import torch, transformers; m = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]); "
        "t = torch.tensor([ids]); m.generate(t, attention_mask=torch.ones_like(t), max_new_tokens=1, do_sample=False)"
    ),
}


def main() -> None:
    """Measure, print the table, and write it into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two layers, two rounds")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--tokens", type=int, default=32, help="to decode, a round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peer", action="append", default=[], metavar="litgpt=PYTHON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the table into a page, between its markers")
    options = parser.parse_args()
    if any(not peer.startswith("litgpt=") for peer in options.peer):
        parser.error("--peer: expected litgpt=PYTHON, the interpreter that has it")
    shape = options.shape or ("gpt2-2-layers" if options.quick else "gpt2")
    if options.peer and SHAPES[shape][0] != "gpt_neox":
        parser.error(f"litgpt has no model of shape {shape}: add --shape pythia-160m")
    rounds = options.rounds or (2 if options.quick else 5)
    about = f"{shape} shape, medians of {rounds} rounds"
    if options.device == "cuda":
        text = on_gpu(shape, rounds, options.tokens, about)
    else:
        reference = reference_of(shape)
        with tempfile.TemporaryDirectory() as folder, peers(options.peer, reference, shape, folder) as libraries:
            reference.save_pretrained(folder)
            ours = models(reference)
            about += f", {', '.join(f'{kind} by {type(model.head).__name__}' for kind, model in ours.items())}"
            lines = [start_line(folder, rounds), *in_turns(cases(reference, ours, options.tokens, libraries), rounds)]
            text = f"{rendered(lines, about)}\n\n{memory_table(folder)}"
    print(text)
    if options.docs:
        kind = torch.backends.cpu.get_cpu_capability() if options.device == "cpu" else options.device
        write(options.docs, f"benchmarks/generate.py {shape} {kind}", text)


def start_line(folder: str, rounds: int) -> Line:
    """From the start of the process to the first token, the files in the page cache."""
    seconds: dict[str, list[float]] = {name: [] for name in START}
    for _ in range(rounds):
        for name, code in START.items():
            words = [sys.executable, "-c", f"import sys; ids = list(range(8)); {code}", folder]
            began = time.perf_counter()
            subprocess.run(words, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
            seconds[name].append(time.perf_counter() - began)
    return Line("process start to first token", seconds["archport"], seconds["transformers"], 1 / 0.45)


def models(reference: Any) -> dict[str, Any]:
    """archport's, with linear maps as `archport generate` has them."""
    port = archport.from_state_dict(reference.config, copy.deepcopy(reference.state_dict()))
    half = copy.deepcopy(port).to(torch.bfloat16)
    ours = {"float32": swap(copy.deepcopy(port)), "bfloat16": swap(copy.deepcopy(half))}
    ours |= {"float32, direct": swap(copy.deepcopy(port), "direct"), "bfloat16, direct": swap(half, "direct")}
    return ours | {kind: swap(copy.deepcopy(port), kind) for kind in ("int8", "int4")}


def cases(reference: Any, ours: dict[str, Any], tokens: int, peers: "dict[str, Peer]") -> list[Case]:
    """Everything that runs in one process on a CPU."""
    half = copy.deepcopy(reference).to(torch.bfloat16)
    require_agreement(reference, half, ours, peers)
    one, many, long = ids(1, 8), ids(8, 8), ids(1, 512)
    goals = GOALS.get(torch.backends.cpu.get_cpu_capability(), {})

    def decode(what: str, kind: str, prompt: torch.Tensor, goal: str, other: Any = reference) -> Case:
        """`tokens` steps from a short prompt."""
        alone = peers if kind == "float32" and len(prompt) == 1 else {}
        against = {name: peer.timed(prompt, tokens) for name, peer in alone.items()}
        runs = go(ours[kind], prompt, tokens), either_cache(other, prompt, tokens)
        return Case(what, *runs, goals.get(goal), tokens, against)

    first = {name: peer.timed(long, 1) for name, peer in peers.items()}
    return [
        Case(
            "prompt of 512 to first token",
            go(ours["float32"], long, 1),
            either_cache(reference, long, 1),
            goals.get("prompt"),
            peers=first,
        ),
        Case(
            "prompt of 512 to first token, direct",
            go(ours["float32, direct"], long, 1),
            either_cache(reference, long, 1),
            goals.get("prompt"),
        ),
        decode("decode, batch 1, float32", "float32", one, "float32"),
        decode("decode, batch 1, float32, direct", "float32, direct", one, "float32"),
        decode("decode, batch 1, bfloat16", "bfloat16", one, "bfloat16", half),
        decode("decode, batch 1, bfloat16, direct", "bfloat16, direct", one, "bfloat16", half),
        decode("decode, batch 8, float32", "float32", many, "batch 8"),
        decode("decode, batch 1, int8 beside float32", "int8", one, "int8"),
        decode("decode, batch 1, int4 beside float32", "int4", one, "int4"),
    ]


def require_agreement(reference: Any, half: Any, ours: dict[str, Any], peers: "dict[str, Peer]") -> None:
    """Stop unless all make the same of a prompt."""
    prompt = ids(1, 8)
    expected = hf(reference, prompt, 16)().tolist()
    rows_of = {f"archport, {kind}": go(ours[kind], prompt, 16)() for kind in ("float32", "float32, direct")}
    rows_of |= {name: [peer.run(prompt, 16)["ids"]] for name, peer in peers.items()}
    for name, rows in rows_of.items():
        if rows != expected:
            sys.exit(f"{name} and transformers do not give the same tokens in float32")
    with torch.inference_mode():
        exact = reference(prompt).logits
        for name, logits in (("transformers, bfloat16", half(prompt).logits), ("bfloat16", ours["bfloat16"](prompt))):
            error = ((logits.float() - exact).abs().max() / exact.abs().max()).item()
            if error > TOLERANCE:
                sys.exit(f"{name}: logits are off by {error:.1%} of the largest")


def either_cache(model: Any, prompt: torch.Tensor, tokens: int) -> list[Callable[[], Any]]:
    """transformers with its dynamic and with its static cache."""
    return [hf(model, prompt, tokens, **way) for way in (DYNAMIC, STATIC)]


class Peer:
    """Another library in an interpreter of its own, which answers one task at a time."""

    def __init__(self, python: str, **model: str) -> None:
        words = [python, str(Path(__file__).parent / "litgpt_peer.py")]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._send(model)

    def _send(self, task: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()

    def run(self, prompt: torch.Tensor, tokens: int) -> Any:
        """The ids it makes, and its seconds."""
        self._send({"ids": prompt.tolist(), "tokens": tokens})
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def timed(self, prompt: torch.Tensor, tokens: int) -> Callable[[], float]:
        """Its seconds, whenever called."""
        return lambda: float(self.run(prompt, tokens)["seconds"])


@contextmanager
def peers(names: list[str], reference: Any, shape: str, folder: str) -> Iterator[dict[str, Peer]]:
    """The other libraries by name, with the same weights in float32."""
    running = {}
    if names:
        reference.save_pretrained(folder)
    for one in names:
        name, _, python = one.partition("=")
        running[name] = Peer(python, shape=shape, weights=f"{folder}/model.safetensors", dtype="float32")
    try:
        yield running
    finally:
        for peer in running.values():
            peer.process.kill()


def memory_table(folder: str) -> str:
    """Resident memory while decoding, beyond what a process has that did so with a tiny model, a row for each way."""
    rows = [("memory while decoding", "weights and cache", "resident", "times", "goal"), ("---",) * 5]
    for library, kind in (
        ("archport", "direct"),
        ("archport", "packed"),
        ("archport", "int8"),
        ("archport", "int4"),
        ("transformers", ""),
    ):
        words = [sys.executable, __file__, "--memory", library, kind, folder]
        done = subprocess.run(
            words, check=True, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
        held, resident = json.loads(done.stdout.splitlines()[-1])
        goal = (
            f"{MEMORY_GOAL}: {'met' if resident / held <= MEMORY_GOAL else 'missed'}"
            if kind in ("direct", "packed")
            else ""
        )
        name = f"{library}, {kind}" if kind else library
        rows.append((name, f"{held / 1e6:.0f} MB", f"{resident / 1e6:.0f} MB", f"{resident / held:.3f}", goal))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def memory_of(library: str, kind: str, folder: str) -> None:
    """Print the bytes of float32 weights and cache, and of what is resident, at the end of a text.

    What the process has before counts from when a tiny model has done the same, so that all code is there.
    """

    def decode(source: str) -> Any:
        if library == "archport":
            model = archport.load(source, linears=kind)
            go(model, prompt, DECODED)()
        else:
            model = transformers.AutoModelForCausalLM.from_pretrained(source)
            hf(model, prompt, DECODED)()
        return model

    prompt = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
    with tempfile.TemporaryDirectory() as tiny:
        config = transformers.GPT2Config(n_layer=1, n_embd=48, n_head=2, vocab_size=64)
        transformers.GPT2LMHeadModel(config).save_pretrained(tiny)
        decode(tiny)
    before = memory()["VmRSS"]
    model = decode(folder)
    resident = memory()["VmRSS"] - before
    del model
    plan = archport.plan(folder, headers_only=False)
    shape = archport.build(plan.architecture.name, plan.config, device="meta").requires_grad_(False)
    cache = archport.KVCache(shape, capacity=8 + DECODED)
    shape(torch.zeros(1, 1, dtype=torch.long, device="meta"), cache=cache)  # makes the room, in float32
    print(json.dumps([sum(step.bytes for step in plan.mapped) + cache.bytes, resident]))


def on_gpu(shape: str, rounds: int, tokens: int, about: str) -> str:
    """Decoding in bfloat16 with the compiled step, and the share of the card's copy bandwidth it reaches."""
    row = decoding(*pair(shape, torch.bfloat16, "cuda"), Way("cuda", rounds, tokens), batch=1)
    return f"`python {' '.join(sys.argv)}`: {about}, bfloat16; {where()}.\n\n{table([row])}"


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    if sys.argv[1:2] == ["--memory"]:
        memory_of(*sys.argv[2:])
    else:
        main()
