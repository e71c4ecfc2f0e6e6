"""The machine that a benchmark runs on, in words, and what this process takes of it. Imports nothing heavy."""

import os
import platform
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# What libraries may use of its instructions: a lesser CPU is imitated by all four.
LESS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "FBGEMM_ENABLE_INSTRUCTIONS")
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", *LESS)


def memory() -> dict[str, int]:
    """What /proc says of this process, in bytes: resident now (VmRSS), at most (VmHWM), and of no file (RssAnon)."""
    fields = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {name.rstrip(":"): 1024 * int(value[0]) for name, *value in fields if value[1:] == ["kB"]}


def wait() -> None:
    """Until a GPU has done what it was asked for."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """Where the figures come from, in words."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    torch = sys.modules.get("torch")  # not to be imported where imports are timed
    kind = {"kind": torch.backends.cpu.get_cpu_capability()} if torch else {}
    gpu = {"gpu": torch.cuda.get_device_name()} if torch and torch.cuda.is_available() else {}
    return {
        "cpu": cpus[0].split(": ")[1] if cpus else platform.machine(),
        **kind,
        **gpu,
        "cores": len(os.sched_getaffinity(0)),
        **{name: os.environ[name] for name in SETTINGS if name in os.environ},
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: _release(name) for name in ("archport", "torch", "transformers", "safetensors")},
        "date": date.today().isoformat(),
    }


def _release(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed, run from its source"


def where() -> str:
    """The machine in one line."""
    return ", ".join(f"{name} {value}" for name, value in machine().items())
