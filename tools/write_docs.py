"""Write what commands print into the docs: each block between `<!-- begin: COMMAND -->` and `<!-- end -->`.

Run from the repository root: ``python tools/write_docs.py`` (``--check`` only reports what is out of date).
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

TOOLS = "count_cases|list_architectures|list_formats|list_peers"
COMMAND = rf"(?:archport|python benchmarks/verify.py|python tools/(?:{TOOLS}).py)[^\n]*?"
BLOCK = re.compile(rf"<!-- begin: ({COMMAND}) -->\n(.*?)<!-- end -->", re.S)
# What differs from run to run and from machine to machine.
MOVING = re.compile(r"^seconds .*$|^(logits|embeddings|modules|residual|loss|gradients),? .*$", re.M)
SLOW = ("archport faults bundled", "python benchmarks/verify.py")  # written, but not checked


def printed(command: str) -> str:
    """The block for one command: what it prints, below the command itself."""
    program, *rest = shlex.split(command)
    words = [sys.executable, *([] if program == "python" else ["-m", program]), *rest]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    lines = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    shown = lines if lines.startswith("|") else f"```\n$ {command}\n{lines}\n```"
    return f"<!-- begin: {command} -->\n{shown}\n<!-- end -->"


def rewritten(text: str) -> str:
    """A page with every block made anew."""
    keep = SLOW if "--check" in sys.argv else ()
    return BLOCK.sub(lambda match: match[0] if match[1] in keep else printed(match[1]), text)


def main() -> None:
    """Rewrite every page, or with --check exit 1 and name those that are out of date."""
    stale = []
    for page in [Path("README.md"), *sorted(Path("docs").glob("*.md"))]:
        old = page.read_text("utf-8")
        new = rewritten(old)
        if MOVING.sub("", old) != MOVING.sub("", new):
            stale.append(str(page))
            if "--check" not in sys.argv:
                page.write_text(new, "utf-8")
    if stale:
        print(("out of date: " if "--check" in sys.argv else "written: ") + ", ".join(stale))
    sys.exit(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    main()
