"""Write what commands print into the docs: each block between `<!-- begin: COMMAND -->` and `<!-- end -->`.

Run from the repository root: ``python tools/write_docs.py`` (``--check`` only reports what is out of date).
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = "count_cases|list_architectures|list_formats|list_peers"
COMMAND = rf"(?:archport|python benchmarks/verify.py|python tools/(?:{TOOLS}).py)[^\n]*?"
BLOCK = re.compile(rf"<!-- begin: ({COMMAND}) -->\n(.*?)<!-- end -->", re.S)
# What differs from run to run and from machine to machine.
MOVING = re.compile(r"^seconds .*$|^(logits|embeddings|modules|residual|loss|gradients),? .*$", re.M)
SLOW = ("archport faults bundled", "python benchmarks/verify.py")  # written, but not checked


def ran(command: str) -> str:
    """What a command prints."""
    program, *rest = shlex.split(command)
    words = [sys.executable, *([] if program == "python" else ["-m", program]), *rest]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def block(command: str, output: str) -> str:
    """The block for one command: what it prints, below the command itself."""
    lines = "\n".join(line.rstrip() for line in output.splitlines())
    shown = lines if lines.startswith("|") else f"```\n$ {command}\n{lines}\n```"
    return f"<!-- begin: {command} -->\n{shown}\n<!-- end -->"


def same(old: str, new: str) -> bool:
    """Whether two texts are equal but for what differs from run to run."""
    return MOVING.sub("", old) == MOVING.sub("", new)


def pages() -> list[Path]:
    """The pages that may hold blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    """Rewrite every page, or with --check exit 1 and name those that are out of date."""
    check = "--check" in sys.argv
    keep = SLOW if check else ()
    stale = []
    for page in pages():
        old = page.read_text("utf-8")
        new = BLOCK.sub(lambda match: match[0] if match[1] in keep else block(match[1], ran(match[1])), old)
        if not same(old, new):
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new, "utf-8")
    if stale:
        print(("out of date: " if check else "written: ") + ", ".join(stale))
    sys.exit(bool(stale) and check)


if __name__ == "__main__":
    main()
