"""Commands in several processes, of which one speaks for all."""

import atexit
import io
import os
import shlex
import sys
import warnings

import torch.distributed as dist
from typer import BadParameter, Exit

from ..parallel.ranks import command, rank, world_size
from .app import err


def require_ranks(count: int) -> None:
    """See to it that torchrun has started so many processes, of which the first prints. Raises: BadParameter."""
    started = world_size()
    if count != started:
        if not _is_first_here():
            raise Exit(2)
        found = f"{started} process{'es' if started > 1 else ''}"
        again = command(count, f"-m archport {shlex.join(sys.argv[1:])}")
        raise BadParameter(f"--tensor-parallel {count}: found {found}, expected {count}: {again}")
    only_the_first_speaks()


def only_the_first_speaks() -> None:
    """What the other processes print is left out; an error of ours comes from the first of each machine."""
    if rank():
        sys.stdout = io.StringIO()
        warnings.simplefilter("ignore")
        err.quiet = not _is_first_here()
    atexit.register(_part)


def _is_first_here() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
