"""Somebody else's code in a process of its own: what it prints is not shown, and it has so much time and memory."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from ..errors import ArchportError, SourceError, in_a_line


def apart(
    call: Callable[..., Any], given: Mapping[str, Any], *, seconds: float, gigabytes: float, told: Callable[[str], None]
) -> Any:
    """What `call(**given, told=told)` gives, plain values or a list of them, computed in a process of its own.

    Raises: SourceError where it takes longer than `seconds`, more memory than `gigabytes`, or its process ends.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, gigabytes, call, dict(given)), daemon=True)
    process.start()
    theirs.close()
    end = time.monotonic() + seconds
    try:
        while ours.poll(max(0.0, end - time.monotonic())):
            what, value = pickle.loads(ours.recv_bytes())  # from our own process
            if what == "given":
                return value
            if what == "error":
                raise value
            told(value)
        raise SourceError(f"stopped after {seconds:g} seconds, expected it to end by then: --seconds gives it more")
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        raise SourceError(f"the process that ran it {how}, as code that is not Python's can") from None
    finally:
        process.kill()
        process.join()


def _work(pipe: Connection, gigabytes: float, call: Callable[..., Any], given: dict[str, Any]) -> None:
    """What the process does."""

    def send(what: str, value: Any) -> None:
        pipe.send_bytes(pickle.dumps((what, value)))

    _limit(gigabytes)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    torch.set_num_threads(1)  # more only get in each other's way on models as small as these
    try:
        send("given", call(**given, told=lambda line: send("told", line)))
    except ArchportError as error:
        send("error", SourceError(str(error)))
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error)):
            send("error", SourceError(f"ran out of {gigabytes:g} GB of memory: --gigabytes gives it more"))
        else:
            send("error", SourceError(f"{type(error).__name__}: {in_a_line(error)}"))


def _limit(gigabytes: float) -> None:
    """Let the process have so much memory, on systems that can say so."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        most = int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
