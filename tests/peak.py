"""The most memory that a process of its own held."""

import subprocess
import sys
from pathlib import Path

import pytest

HELD = """
def held():
    with open("/proc/self/status") as lines:  # where, unlike in getrusage, nothing of the process before counts
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
"""


def peak_of(before: str, code: str, *words: object) -> int:
    """Bytes by which the most memory grows while code runs, after what is to be there before."""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells the most memory of a process from that of the one before")
    script = f"import sys\n{HELD}\n{before}\nfirst = held()\n{code}\nprint(held() - first)"
    words = [sys.executable, "-c", script, *map(str, words)]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
