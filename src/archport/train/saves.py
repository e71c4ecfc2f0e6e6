"""The saves of a run: which there are, which is the last, and which are old."""

import re
import shutil
from pathlib import Path

PARTIAL = ".partial"  # where a save lies while it is written or removed
NAME = re.compile(r"checkpoint-(\d+)")


def saves(out: Path) -> list[Path]:
    """Those in the folder of a run, by their steps. What is there was renamed when whole, so each is whole."""
    named = ((NAME.fullmatch(path.name), path) for path in out.glob("checkpoint-*") if path.is_dir())
    return [path for _, path in sorted((int(found[1]), path) for found, path in named if found)]


def last_save(out: Path) -> Path | None:
    """The one to go on from."""
    there = saves(out)
    return there[-1] if there else None


def steps_of(save: Path) -> int:
    """How many steps were done when it was written."""
    return int(save.name.rpartition("-")[2])


def remove_old(out: Path, keep: int) -> None:
    """Leave so many."""
    for path in saves(out)[:-keep]:
        away = out / PARTIAL / f"old {path.name}"  # or a process that is killed now would leave half of a save
        away.parent.mkdir(exist_ok=True)
        shutil.rmtree(path.rename(away), ignore_errors=True)
