"""What torch says of the CPU at hand."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

SYSFS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Cpu:
    """Its name, torch's word for its instructions, in which half precision it computes, its cores, torch's threads."""

    name: str
    capability: str
    bfloat16: bool
    float16: bool
    cores: int
    threads: int

    def __str__(self) -> str:
        half = [name for name in ("bfloat16", "float16") if getattr(self, name)]
        computes = f"computes in {' and '.join(half)}" if half else "only converts half precision"
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''} on {self.cores} of its cores"
        return f"{self.name}: {self.capability}, {computes}; {threads}{self.too_many}"

    @property
    def too_many(self) -> str:
        """What to do where there are more threads than cores."""
        return "" if self.threads <= self.cores else f", which is too many: set OMP_NUM_THREADS={self.cores}"


def cpu() -> Cpu:
    """The one that this runs on, as the environment lets torch and oneDNN see it."""
    mkldnn = torch.ops.mkldnn if torch._C._has_mkldnn else None
    return Cpu(
        name=_name(),
        capability=torch.backends.cpu.get_cpu_capability(),
        bfloat16=mkldnn is not None and bool(mkldnn._is_mkldnn_bf16_supported()),
        float16=mkldnn is not None and bool(mkldnn._is_mkldnn_fp16_supported()),
        cores=cores(),
        threads=torch.get_num_threads(),
    )


def _name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def cores() -> int:
    """Physical cores that this process may use; logical ones where the system does not tell them apart."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    try:
        return len({(SYSFS / f"cpu{one}/topology/thread_siblings_list").read_text() for one in usable})
    except OSError:
        return len(usable)
