"""How fast a look is: trees, facts and explanations beyond `import torch`, and two checkpoints tensor by tensor.

Commands run in processes of their own and take turns with `python -c "import torch"`; figures are medians. Two
checkpoints that transformers wrote are compared in a process that takes turns with reading both files into one buffer;
memory is what that process held at most of no file (RssAnon) beyond what it held before, beside the largest tensor.
The tensors that differ are checked against torch's own reading of both files before anything is timed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from machine import memory, where
from turns import write

LOOKS = (("tree", "gpt2"), ("tree", "gpt-neox"), ("diff", "gpt2", "gpt-j", "gpt-neox"), ("explain", "gpt-j"))
BEYOND = 0.3  # seconds, the goal
GIGABYTE = {"n_layer": 27}  # of GPT-2 in float32


def main() -> None:
    """Measure, print the table, and write it into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds, checkpoints of two layers")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the table into a page, between its markers")
    parser.add_argument("--compare", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compare:
        print(json.dumps(compared(*options.compare)))
        return
    rounds = options.rounds or (2 if options.quick else 9)
    lines = ["| looked at | seconds | seconds beyond `import torch` | goal |", "|---|---|---|---|", *looks(rounds)]
    lines += ["", "| two checkpoints | seconds to compare | to read both | ratio | memory | largest tensor |"]
    lines += ["|---|---|---|---|---|---|", checkpoints(rounds, {"n_layer": 2} if options.quick else GIGABYTE)]
    table = "\n".join([*lines, "", f"Medians of {rounds} rounds. {where()}."])
    print(table)
    if options.docs:
        write(options.docs, "benchmarks/view.py", table)


def looks(rounds: int) -> list[str]:
    """A row for each command."""
    torch = [sys.executable, "-c", "import torch"]
    commands = {" ".join(words): [sys.executable, "-m", "archport", *words] for words in LOOKS}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    beyond: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, command in commands.items():
            alone, took = wall(torch), wall(command)
            seconds[name].append(took)
            beyond[name].append(took - alone)
    rows = []
    for name in commands:
        median, extra = (statistics.median(values[1:]) for values in (seconds[name], beyond[name]))
        met = "met" if extra <= BEYOND else "missed"
        rows.append(f"| `archport {name}` | {median:.2f} | {extra:.2f} | {BEYOND} {met} |")
    return rows


def wall(command: list[str]) -> float:
    """Seconds of a command from start to end."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def checkpoints(rounds: int, sizes: dict[str, int]) -> str:
    """A row for two checkpoints of one architecture, of which every tensor differs."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with tempfile.TemporaryDirectory() as home:
        folders = [Path(home) / name for name in ("one", "other")]
        for seed, folder in enumerate(folders):
            torch.manual_seed(seed)
            GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder)
        require_agreement(*folders)
        again = [sys.executable, __file__, "--compare", *map(str, folders)]
        done = [json.loads(subprocess.check_output(again)) for _ in range(rounds)]
        size = sum((folder / "model.safetensors").stat().st_size for folder in folders)
    medians = {key: statistics.median(one[key] for one in done) for key in done[0]}
    ratio = medians["seconds"] / medians["reading"]
    megabytes = [medians[key] / 1e6 for key in ("memory", "largest")]
    return (
        f"| {size / 1e9:.2f} GB in all | {medians['seconds']:.2f} | {medians['reading']:.2f} | {ratio:.2f} "
        f"| {megabytes[0]:.0f} MB | {megabytes[1]:.0f} MB |"
    )


def require_agreement(one: Path, other: Path) -> None:
    """Stop unless the differences are those between the two files as safetensors reads them."""
    from safetensors.torch import load_file

    from archport.view.subjects import subject
    from archport.view.tensor_differences import tensors

    theirs = [load_file(folder / "model.safetensors")["transformer.h.1.mlp.c_fc.weight"] for folder in (one, other)]
    rows = {row["tensor"]: row for row in tensors(*(subject(folder, headers_only=False) for folder in (one, other)))}
    if rows["blocks.1.mlp.up.weight"]["largest"] != (theirs[0] - theirs[1]).abs().max().item():
        sys.exit("the differences are not those of the files")


def compared(one: Path, other: Path) -> dict[str, Any]:
    """In a process of its own: compare two checkpoints, watched, and read the same bytes."""
    from archport.view.subjects import subject
    from archport.view.tensor_differences import tensors

    subjects = [subject(folder, headers_only=False) for folder in (one, other)]
    before, most = memory()["RssAnon"], 0
    over = threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.002):
            most = max(most, memory()["RssAnon"])

    buffer = bytearray(16 << 20)
    began = time.perf_counter()
    for folder in (one, other):
        with (folder / "model.safetensors").open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    reading = time.perf_counter() - began
    del buffer
    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    rows = list(tensors(*subjects))
    seconds = time.perf_counter() - began
    over.set()
    watcher.join()
    largest = max(step.bytes for step in subjects[0].plan.mapped) if subjects[0].plan else 0
    if any(row["same"] for row in rows if "weight" in row["tensor"] and "norm" not in row["tensor"]):
        sys.exit("weights that should differ are the same")
    return {"seconds": seconds, "reading": reading, "memory": most - before, "largest": largest}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
