"""Commands in several processes, of which one speaks for all."""

import atexit
import io
import os
import shlex
import sys
import warnings

import torch.distributed as dist
from typer import BadParameter, Exit

from ..parallel.ranks import command, world_size
from .app import err


def require_ranks(count: int) -> None:
    """See to it that torchrun has started so many processes, and that only the first of them prints.

    Errors of ours come from the first of each machine; anything else, from whom it happens to. Raises: BadParameter.
    """
    first, here = (os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK"))
    started = world_size()
    if count != started:
        if not here:
            raise Exit(2)
        found = f"{started} process{'es' if started > 1 else ''}"
        again = command(count, f"-m archport {shlex.join(sys.argv[1:])}")
        raise BadParameter(f"--tensor-parallel {count}: found {found}, expected {count}: {again}")
    if not first:
        sys.stdout = io.StringIO()
        warnings.simplefilter("ignore")
        err.quiet = not here
    atexit.register(_part)


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
