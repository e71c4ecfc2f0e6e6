"""Runs in processes of their own that are forked, not started: what takes longest, to import, is done once.

`python -m tests.forked_runs SETTINGS kill TIMES` runs once undisturbed, into `whole`, and once killed so many times at
moments spread over its life, into `broken`. `.. full` runs one in which no file may grow for a while.
"""

import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from archport.train import trainer  # noqa: F401  # so that no fork imports it
from archport.train.running import Told, run
from archport.train.saves import last_save, saves
from archport.train.settings import Settings

WAIT = 120  # seconds for a save, on a machine that does much else
LIMIT = 20_000  # bytes of a file


def forked(work: Callable[[], Any]) -> int:
    """A process that does it, and ends."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def ended(child: int) -> int:
    """How it ended: 0, or minus a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(values: dict[str, Any], times: int) -> int:
    """How often a run was killed before it came to its end."""
    out = Path(values["out"])
    for at in range(times):
        before = last_save(out)
        child = forked(lambda: run(Settings(**values), resume=(out / "training.json").exists()))
        deadline = time.monotonic() + WAIT
        while last_save(out) == before and time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                return at
            time.sleep(0.001)
        time.sleep(0.007 * (at % 9))  # in the middle of a step, or of the next save
        os.kill(child, signal.SIGKILL)
        if ended(child) == 0:
            return at
        for save in saves(out):
            AutoModelForCausalLM.from_pretrained(save)
    return times


def full(values: dict[str, Any]) -> None:
    """From step 3 to 4 no file may be larger than LIMIT, as if the disk were full; then there is room again."""
    room = resource.RLIM_INFINITY

    def step(progress: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT if progress.step in (3, 4) else room, room))

    warnings.simplefilter("always")
    run(Settings(**values), told=Told(step=step))


def main(values: dict[str, Any], what: str, times: str = "0") -> None:
    """Both runs."""
    folder = Path(values["out"])
    whole = forked(lambda: run(Settings(**values | {"out": str(folder / "whole")})))
    if ended(whole):
        sys.exit("the undisturbed run failed")
    values = values | {"out": str(folder / "broken")}
    if what == "full":
        sys.exit(ended(forked(lambda: full(values))))
    print(killed(values, int(times)))  # noqa: T201
    if not (folder / "broken/README.md").exists():
        sys.exit(ended(forked(lambda: run(Settings(**values), resume=True))))


if __name__ == "__main__":
    main(eval(sys.argv[1]), *sys.argv[2:])
