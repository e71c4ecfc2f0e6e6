"""Archport against transformers: seconds to a ready model, and memory.

Every figure is the median of fresh processes, the two libraries taking turns; the files hold random weights at
published sizes and lie in the page cache. Nothing is timed before both libraries gave the same logits.

With its first model transformers imports code that `from transformers import AutoModelForCausalLM` leaves out. That
counts, as whoever loads one model waits for it, but for the lines that say "code imported before" and for memory.

Where other work shares the machine, torch's threads wait for each other in busy loops and seconds grow manyfold, in
both libraries but not evenly; OMP_WAIT_POLICY=PASSIVE or OMP_NUM_THREADS=1 in the environment gives steadier ratios.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import machine, memory, wait, where

# Name: model_type, what differs from transformers' default config (the published one), dtype of the file.
SIZES: dict[str, tuple[str, dict[str, Any], str]] = {
    "gpt2": ("gpt2", {}, "float32"),
    "gpt2-2-layers": ("gpt2", {"n_layer": 2}, "float32"),
    "gptj-400m": ("gptj", {"n_embd": 1024, "n_layer": 24, "n_head": 16, "rotary_dim": 32}, "float16"),
    "gptj-tiny": ("gptj", {"n_embd": 256, "n_layer": 4, "n_head": 4, "rotary_dim": 32}, "float16"),
}
for _name, _width, _layers, _heads in (("pythia-70m", 512, 6, 8), ("pythia-410m", 1024, 24, 16)):
    _sizes = {"hidden_size": _width, "num_hidden_layers": _layers, "num_attention_heads": _heads}
    SIZES[_name] = "gpt_neox", _sizes | {"intermediate_size": 4 * _width, "vocab_size": 50304}, "float16"
_sizes = {"vocab_size": 32000, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_sizes |= {"num_key_value_heads": 4, "intermediate_size": 3072, "max_position_embeddings": 2048}
SIZES["llama-160m"] = "llama", _sizes, "float16"
_sizes = _sizes | {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2}
SIZES["mixtral-8x20m"] = "mixtral", _sizes | {"intermediate_size": 1024, "num_local_experts": 8}, "float16"
DEFAULT = ("gpt2", "pythia-410m", "gptj-400m")
QUICK = ("gpt2-2-layers", "pythia-70m", "gptj-tiny")
CASTS = {"float32": ("bfloat16",), "float16": ("bfloat16", "float32")}
LIBRARIES = ("archport", "transformers")

# Goals: archport's seconds as a share of the other's, archport's memory as a share of the weights.
IMPORT_GOAL = 1.1
LOGITS_GOAL = {"gpt_neox": 0.25, "gpt2": 0.4}
ANONYMOUS_GOAL = {"gpt_neox": 0.05, "gpt2": 0.35, "gptj": 0.35}
CAST_GOAL, CAST_RESIDENT_GOAL = 1 / 1.2, 1.05
PACKED_GOAL, PACKED_RESIDENT_GOAL = 1.1, 1.05  # beside a copy of the weights

# Largest difference of logits, as a share of the largest logit.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
TOKENS = 16

FIGURES = ("archport", "transformers", "ratio")
COLUMNS = ("model", "what", *FIGURES, "goal")
MARKERS = ("<!-- begin: benchmarks/load.py -->", "<!-- end: benchmarks/load.py -->")


@dataclass
class Line:
    """One line of the table: what was measured, and every figure of both sides."""

    model: str
    what: str
    unit: str
    goal: float | None = None
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    other: str = "transformers"

    @property
    def ratio(self) -> float:
        """Our median as a share of theirs."""
        return statistics.median(self.ours) / max(statistics.median(self.theirs), 1e-9)

    @property
    def verdict(self) -> str:
        """The goal and whether it is met: of seconds the ratio counts, of memory our share of the weights."""
        if self.goal is None:
            return ""
        reached = self.ratio if self.unit == "s" else statistics.median(self.ours)
        goal = f"ratio {self.goal:.3g}" if self.unit == "s" else f"{self.goal:.0%}"
        return f"{goal}: {'met' if reached <= self.goal else 'missed'}"


def main() -> None:
    """Measure what is asked for and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, metavar="SIZE", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--quick", action="store_true", help="small models, one cast, one round")
    parser.add_argument("--repeats", type=int, help="rounds of fresh processes (default: 5, or 1 if quick)")
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--folder", type=Path, help="where the checkpoints lie meanwhile (default: the system's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures and the machine")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the table into a page, between its markers")
    options = parser.parse_args()
    repeats = options.repeats or (1 if options.quick else 5)

    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    lines: list[Line] = []
    for size in options.sizes or (QUICK if options.quick else DEFAULT):
        file_dtype = SIZES[size][2]
        dtypes = [file_dtype, *(CASTS[file_dtype][:1] if options.quick else CASTS[file_dtype])]
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            prepare(size, folder, dtypes)
            for dtype in dtypes:
                lines += load_lines(size, folder, dtype, repeats)
            lines += packed_lines(size, folder, repeats)
    lines = import_lines(repeats) + lines

    print_table(lines)
    if options.docs:
        write_page(options.docs, lines, repeats)
    if options.json:
        figures = {"machine": machine(), "repeats": repeats, "lines": [asdict(line) for line in lines]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def prepare(size: str, folder: str, dtypes: list[str]) -> None:
    """Write a checkpoint and read it once; stop where the two libraries do not agree on it."""
    result = in_process("make_and_check", size=size, folder=folder, dtypes=dtypes)
    if result["keys"]:
        sys.exit(f"{size}: transformers does not load this checkpoint cleanly: {result['keys']}")
    for dtype, (difference, scale) in result["logits"].items():
        print(f"{size} in {dtype}: logits at most {difference:.2g} apart, the largest is {scale:.2g}")
        if not difference <= TOLERANCE[dtype] * scale:
            sys.exit(f"{size} in {dtype}: these are not the same logits, so there is nothing to time")
    os.sync()
    for path in Path(folder).iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def import_lines(repeats: int) -> list[Line]:
    """Seconds to import archport, beside torch, which it needs, and beside transformers."""
    lines = [
        Line("", "import", "s", IMPORT_GOAL, other="torch"),
        Line("", "import", "s", other="AutoModelForCausalLM"),
    ]
    for _ in range(repeats):
        ours, *theirs = (
            in_process("time_import", library=name)["seconds"] for name in ("archport", "torch", "transformers")
        )
        for line, seconds in zip(lines, theirs, strict=True):
            line.ours.append(ours)
            line.theirs.append(seconds)
    return lines


def load_lines(size: str, folder: str, dtype: str, repeats: int) -> list[Line]:
    """Seconds and memory of loading one checkpoint in one dtype."""
    model_type, _, file_dtype = SIZES[size]
    cast = dtype != file_dtype
    goal, resident = (CAST_GOAL, CAST_RESIDENT_GOAL) if cast else (LOGITS_GOAL.get(model_type), None)
    anonymous = None if cast else ANONYMOUS_GOAL.get(model_type)
    # What, unit, goal, whether the model's code was imported before, name of the figure.
    measured = [
        ("ready model", "s", None, False, "ready"),
        ("ready model and first logits", "s", None if cast else goal, False, "logits"),
        ("first logits since the process began", "s", None, False, "since_start"),
        ("code imported before: ready model", "s", goal if cast else None, True, "ready"),
        ("code imported before: and first logits", "s", None, True, "logits"),
        ("peak resident / weights", "%", resident, True, "resident"),
        ("anonymous / weights", "%", anonymous, True, "anonymous"),
    ]
    model = f"{size}, {file_dtype} -> {dtype}" if cast else f"{size}, {file_dtype}"
    lines = [Line(model, what, unit, goal) for what, unit, goal, _, _ in measured]
    for _ in range(repeats):
        for code_first in (False, True):
            for library in LIBRARIES:
                arguments = {"library": library, "folder": folder, "dtype": dtype if cast else "auto"}
                figures = in_process("load", **arguments, code_first=code_first, began=time.monotonic())
                for line, (*_, of_code_first, name) in zip(lines, measured, strict=True):
                    if of_code_first is code_first:
                        (line.ours if library == "archport" else line.theirs).append(figures[name])
    return lines


def packed_lines(size: str, folder: str, repeats: int) -> list[Line]:
    """Seconds and memory of packing the linear maps while loading, beside a copy of all weights, both in float32."""
    model = f"{size}, packed in float32"
    lines = [
        Line(model, "code imported before: ready model", "s", PACKED_GOAL, other="copied"),
        Line(model, "peak resident / weights", "%", PACKED_RESIDENT_GOAL, other="copied"),
    ]
    for _ in range(repeats):
        for way in ({"linears": "packed"}, {"copy": True}):
            arguments = {"library": "archport", "folder": folder, "dtype": "float32", "way": way}
            figures = in_process("load", **arguments, code_first=True, began=time.monotonic())
            for line, name in zip(lines, ("ready", "resident"), strict=True):
                (line.ours if "linears" in way else line.theirs).append(figures[name])
    return lines


def cells(line: Line) -> tuple[str, ...]:
    """One line of the table as text."""

    def figure(samples: list[float]) -> str:
        middle = statistics.median(samples)
        return f"{middle:.3f} s" if line.unit == "s" else f"{middle:.1%}"

    other = "" if line.other == "transformers" else f"{line.other}: "
    return line.model, line.what, figure(line.ours), other + figure(line.theirs), f"{line.ratio:.2f}", line.verdict


def write_page(page: Path, lines: list[Line], repeats: int) -> None:
    """Replace what stands between the page's markers with this run's table."""
    command = " ".join(["python", "benchmarks/load.py", *sys.argv[1:]])
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(cells, lines)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    before, rest = page.read_text("utf-8").split(MARKERS[0])
    after = rest.split(MARKERS[1], 1)[1]
    block = f"{MARKERS[0]}\n`{command}`: medians of {repeats} rounds; {where()}.\n\n{table}\n{MARKERS[1]}"
    page.write_text(before + block + after, "utf-8")


def print_table(lines: list[Line]) -> None:
    """All lines as one table, and the machine below it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(caption=where())
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in FIGURES else "left")
    previous = None
    for line in lines:
        if line.model != previous:
            table.add_section()
        model, *rest = cells(line)
        table.add_row(model if line.model != previous else "", *rest)
        previous = line.model
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def in_process(worker: str, **arguments: Any) -> dict[str, Any]:
    """What one of the WORKERS, the functions below, returns in a fresh process."""
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, __file__, "--worker", worker, json.dumps(arguments)]
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{worker} {arguments} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def make_and_check(size: str, folder: str, dtypes: list[str]) -> dict[str, Any]:
    """Write a checkpoint; returned are the keys that transformers faults, and how far the logits are apart."""
    import torch
    from transformers import AutoModelForCausalLM

    make(size, folder)
    _, keys = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    logits = {}
    for dtype in dtypes:
        ours, theirs = (first_logits(loader(library)(folder, getattr(torch, dtype))).float() for library in LIBRARIES)
        logits[dtype] = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    return {"keys": {fault: sorted(map(str, names)) for fault, names in keys.items() if names}, "logits": logits}


def make(size: str, folder: str) -> None:
    """Write a checkpoint of random weights as transformers writes it, without its slow initialisation."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, sizes, name = SIZES[size]
    dtype = getattr(torch, name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes), dtype=dtype)
    weights = {}
    for name, parameter in model.named_parameters():
        mean = float(parameter.ndim == 1 and name.endswith(".weight"))  # a norm's
        weights[name] = torch.empty(parameter.shape, dtype=dtype).normal_(mean, 0.02)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.save_pretrained(folder)


def time_import(library: str) -> dict[str, float]:
    """Seconds of an import."""
    start = time.perf_counter()
    if library == "torch":
        import torch  # noqa: F401
    else:
        loader(library)
    return {"seconds": time.perf_counter() - start}


def load(
    library: str,
    folder: str,
    dtype: str,
    code_first: bool,
    began: float,
    device: str = "cpu",
    way: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Seconds to a ready model and to its first logits, and the memory loading took as a share of the weights.

    `way` has more options of archport's. Memory is the host's, wherever the model is to be. That a GPU is made ready
    counts for neither.
    """
    import torch

    make_ready = loader(library, device, **way or {})
    torch.ones(1, device=device)
    wait()
    if code_first:
        import_code(library, folder)
    target = dtype if dtype == "auto" else getattr(torch, dtype)
    # VmHWM starts anew; where that is not allowed, it also knows what imports needed for a while.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = memory()

    start = time.perf_counter()
    model = make_ready(folder, target)
    wait()
    ready = time.perf_counter() - start
    after = memory()
    start = time.perf_counter()
    first_logits(model)
    wait()
    logits = ready + time.perf_counter() - start
    since_start = time.monotonic() - began

    weights = weight_bytes(library, folder, target, model)
    resident = (after["VmHWM"] - before["VmRSS"]) / weights
    anonymous = (after["RssAnon"] - before["RssAnon"]) / weights
    return {
        "ready": ready,
        "logits": logits,
        "since_start": since_start,
        "resident": resident,
        "anonymous": anonymous,
    }


def weight_bytes(library: str, folder: str, dtype: Any, model: Any) -> int:
    """The bytes of all weights of a ready model; a plan knows them of one whose linear maps are packed."""
    if library == "archport":
        import archport

        return sum(step.bytes for step in archport.plan(folder, dtype=dtype).mapped)
    return sum(parameter.nbytes for parameter in model.parameters())


def loader(library: str, device: str = "cpu", **way: Any) -> Callable[[str, Any], Any]:
    """Import a library; returned is what makes a ready model of a folder and a dtype.

    transformers reads straight to a GPU where accelerate is installed, else by way of the host's memory.
    """
    if library == "archport":
        import archport

        return lambda folder, dtype: archport.load(folder, dtype=dtype, device=device, **way)
    from transformers import AutoModelForCausalLM

    straight = {"device_map": device} if device != "cpu" and find_spec("accelerate") else {}
    return lambda folder, dtype: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **straight).to(device)


def import_code(library: str, folder: str) -> None:
    """Import what a library would import only with its first model."""
    import safetensors.torch  # noqa: F401

    config = json.loads(Path(folder, "config.json").read_text())
    if library == "archport":
        from archport.registry import architecture

        architecture(config["model_type"])
    else:
        import transformers

        getattr(transformers, config["architectures"][0])


def first_logits(model: Any) -> Any:
    """Logits of a few tokens."""
    import torch

    with torch.no_grad():
        result = model(torch.arange(TOKENS, device=model.device)[None])
    return getattr(result, "logits", result)


WORKERS = {worker.__name__: worker for worker in (make_and_check, time_import, load)}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(WORKERS[sys.argv[2]](**json.loads(sys.argv[3]))))
    else:
        main()
