"""The processes that compute one model together, and what they tell each other."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..checking import shown
from ..errors import ConfigError
from ..loading import to_device

PATIENCE = timedelta(minutes=30)  # while another rank reads a file


@dataclass(frozen=True)
class Ranks:
    """The processes of a group, as one of them sees it: it is the one of number `rank`, from 0, of `count`."""

    rank: int
    count: int
    group: Any = None  # torch's; None where nobody is told anything

    def span(self, length: int) -> tuple[int, int]:
        """Where its part of so many rows starts and stops: no two differ by more than one row."""
        return length * self.rank // self.count, length * (self.rank + 1) // self.count

    def sum(self, x: Tensor) -> Tensor:
        """The sum of what each rank gives, the same on all of them; in place where it can be."""
        if self.count == 1:
            return x
        x = x.contiguous()
        dist.all_reduce(x, group=self.group)
        return x

    def gather(self, x: Tensor, length: int) -> Tensor:  # (.., own) -> (.., length)
        """What each rank has of the last axis, which is `length` long, one after another; the same on all of them."""
        if self.count == 1:
            return x
        spans = [Ranks(rank, self.count).span(length) for rank in range(self.count)]
        sizes = [stop - start for start, stop in spans]
        padded = torch.nn.functional.pad(x, (0, max(sizes) - x.shape[-1])).contiguous()  # all of one size
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], dim=-1)

    def __deepcopy__(self, memo: Any) -> "Ranks":
        return self  # a copy of a model talks to the same processes


def world_size() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is."""
    return int(os.environ.get("RANK", "0"))


def ranks_of(mesh: Any, device: str | torch.device) -> tuple[Ranks, torch.device]:
    """This process among those of a mesh, or of all that torchrun started, and the device that is its own.

    Raises: ConfigError.
    """
    if mesh is not None:
        require_mesh(mesh)
    device = to_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if str(device) == "cuda" else device)
    if mesh is None and world_size() == 1 and not dist.is_initialized():
        return Ranks(0, 1), device
    begin(device)
    if mesh is None:
        return Ranks(dist.get_rank(), dist.get_world_size(), dist.group.WORLD), device
    return Ranks(mesh.get_local_rank(), mesh.size(), mesh.get_group()), device


def begin(device: torch.device) -> None:
    """Let the processes that torchrun started know each other, if they do not yet. Raises: ConfigError."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if dist.is_initialized():
        return
    if "MASTER_ADDR" not in os.environ:
        raise ConfigError({"ranks": f"found one process, expected those of a group: {command(2, 'script.py')}"})
    on_gpu = device.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE, device_id=device if on_gpu else None)


def require_mesh(mesh: Any) -> None:
    """Raises: ConfigError for what is not a mesh of one axis."""
    from torch.distributed.device_mesh import DeviceMesh

    if not isinstance(mesh, DeviceMesh) or mesh.ndim != 1:
        found = f"one of {mesh.ndim} axes" if isinstance(mesh, DeviceMesh) else shown(mesh)
        raise ConfigError({"mesh": f"found {found}, expected a DeviceMesh of one axis, as init_device_mesh makes"})


def command(ranks: int, what: str) -> str:
    """How so many processes are started here."""
    return f"torchrun --nproc-per-node {ranks} {what}"
