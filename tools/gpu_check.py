"""Run each part of benchmarks/gpu.py in a process of its own and write what comes out, row by row.

FOLDER/gpu.md has the tables, gpu.json the same in numbers, log.txt all that the parts print. A part that fails or runs
out of its time is a line with the reason and stops no other. The exit status is 1 where anything failed, parity or
part, and 2 for what cannot be begun. tools/gpu_check.sh sets what this needs.
"""

import argparse
import json
import re
import subprocess
import sys
import time
import traceback
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED = ("torch", "transformers", "einops", "filelock", "huggingface_hub", "safetensors", "tokenizers", "yaml")
OLDEST = {"torch": (2, 11), "transformers": (5, 17)}
MINUTES = 5.75
# The functions of benchmarks/gpu.py, and seconds that each may take. Parity comes first, and last what is left for
# transformers, which compiles for a minute or more.
PARTS = {"parity": 110, "decode": 130, "load": 80, "train": 50, "compiled": 240}


def main() -> int:
    """Read the arguments; run all parts, or, in a process of its own, one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a try")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, one round")
    parser.add_argument("--architectures", nargs="+", default=[], metavar="ARCH", help="default: all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all together (default: %(default)s)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return run_part(options)
    if fault := missing_libraries() or what_keeps(options):
        print(fault, file=sys.stderr)
        return 2
    return run_all(options)


def missing_libraries() -> str:
    """Which libraries are not here or too old, in a line, before any is imported."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return f"found no {', '.join(missing)} for {sys.executable}, expected {', '.join(NEEDED)} to be installed"
    for name, oldest in OLDEST.items():
        found = version(name)
        if tuple(map(int, re.findall(r"\d+", found)[:2])) < oldest:
            return f"found {name} {found}, expected {'.'.join(map(str, oldest))} or later"
    return ""


def what_keeps(options: argparse.Namespace) -> str:
    """What is wrong with the arguments or the machine, in a line."""
    import torch

    from archport.errors import ArchportError
    from archport.registry import architecture

    if options.device not in ("cuda", "cpu"):
        return f"--device: found {options.device!r}, expected cuda or cpu"
    if options.device == "cuda" and not torch.cuda.is_available():
        return f"--device: torch {torch.__version__} finds no GPU, expected one; --device cpu --tiny tries all on a CPU"
    if options.device == "cpu" and not options.tiny:
        return "--device cpu: expected with --tiny, for other shapes take hours there"
    if not options.minutes > 0:
        return f"--minutes: found {options.minutes:g}, expected more than 0"
    try:
        for name in options.architectures:
            architecture(name)
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "log.txt").write_text("")
    except ArchportError as error:
        return f"--architectures: {error}"
    except OSError as error:
        return f"--out: cannot write to {options.out}: {error.strerror}, expected a folder, new or writable"
    return ""


def run_all(options: argparse.Namespace) -> int:
    """Each part in turn, for as long as it may take; whatever it comes to is written."""
    from machine import machine

    began = time.monotonic()
    command = " ".join(["tools/gpu_check.sh", *sys.argv[1:]])
    results: dict[str, Any] = {"command": command, "machine": machine(), "parts": {}}
    write(options.out, results)
    for name in options.parts:
        left = 60 * options.minutes - (time.monotonic() - began)
        limit = min(PARTS[name], left)
        results["parts"][name] = {"outcome": "running", "rows": []}
        write(options.out, results)
        start = time.monotonic()
        died = in_process(options.out / "log.txt", name, limit)
        results = read(options.out)
        part = results["parts"][name]
        part["seconds"] = round(time.monotonic() - start, 1)
        if part["outcome"] == "running":
            part["outcome"] = died
        write(options.out, results)
        print(f"{name}: {part['outcome']}, {part['seconds']} s", flush=True)
    print(f"written: {options.out}/gpu.md, gpu.json, log.txt")
    return int(any(part["outcome"] != "done" for part in results["parts"].values()))


def in_process(log: Path, name: str, limit: float) -> str:
    """Run a part in a process of its own; why it ended, where it did not say so itself."""
    if limit <= 0:
        return "failed: no time was left for it"
    with log.open("a") as file:
        print(f"== {name}", file=file, flush=True)
        words = [sys.executable, __file__, *sys.argv[1:], "--part", name]
        try:
            done = subprocess.run(words, stdout=file, stderr=file, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return f"failed: ran out of its {limit:.3g} s"
    return f"failed: ended with status {done.returncode}, see log.txt"


def run_part(options: argparse.Namespace) -> int:
    """Measure the rows of a part and write each as soon as it is there."""
    import gpu
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_float32_matmul_precision("highest")
    less: dict[str, Any] = {"rounds": 1, "tokens": 4, "tiny": True} if options.tiny else {}
    way = gpu.Way(options.device, architectures=options.architectures, **less)
    results = read(options.out)
    part = results["parts"][options.part]
    try:
        for row, measure in getattr(gpu, options.part)(way):
            try:
                row |= measure()
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                row["failed"] = gpu.reason(error)
            part["rows"].append(row)
            write(options.out, results)
        failed = sum("failed" in row for row in part["rows"])
        part["outcome"] = f"failed: {failed} of {len(part['rows'])} rows" if failed else "done"
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        part["outcome"] = f"failed: {gpu.reason(error)}"
    write(options.out, results)
    return int(part["outcome"] != "done")


def read(folder: Path) -> dict[str, Any]:
    """What was written so far."""
    results: dict[str, Any] = json.loads((folder / "gpu.json").read_text())
    return results


def write(folder: Path, results: dict[str, Any]) -> None:
    """Both files, each whole at any moment."""
    for name, text in (("gpu.json", json.dumps(results, indent=2) + "\n"), ("gpu.md", page(results))):
        (folder / f"{name}.new").write_text(text, "utf-8")
        (folder / f"{name}.new").replace(folder / name)


def page(results: dict[str, Any]) -> str:
    """The tables, under what they were measured with."""
    import gpu
    from turns import table

    facts = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    blocks = [f"`{results['command']}`: {facts}."]
    for name, part in results["parts"].items():
        about = str(getattr(gpu, name).__doc__).strip()
        blocks += [f"**{name}.** {about}", table(part["rows"])] if part["rows"] else []
    outcomes = [
        {"part": name, "outcome": part["outcome"], "seconds": part.get("seconds", "")}
        for name, part in results["parts"].items()
    ]
    return "\n\n".join([*blocks, table(outcomes)]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
