"""Commands about records of verifications: record check."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
from typer import Argument, BadParameter, Option, Typer

from ..parity import records
from .app import Json, Offline, app, print_json, say

record = Typer(no_args_is_help=True, help="Records that verify --record has written.")
app.add_typer(record, name="record")


@record.callback()
def _group() -> None:
    """Records that verify --record has written."""


@record.command()
def check(
    files: Annotated[list[Path], Argument(help="records", metavar="FILE...")],
    source: Annotated[str | None, Option(help="where the checkpoint is, if not where the record says")] = None,
    again: Annotated[bool, Option("--again", help="verify anew, too")] = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Does what was verified still hold for the code, the libraries and the files at hand? Exit code 1 when not."""
    if source is not None and len(files) > 1:
        raise BadParameter("--source is for one FILE")
    found = [(file, records.read(file)) for file in files]
    if again and any(one.of == "architecture" for _, one in found):
        torch.set_num_threads(1)  # more only get in each other's way on models as small as these
    standings = []
    for file, one in found:
        standing = records.standing(one, source, again=again, offline=offline)
        standings.append({"file": str(file), "holds": standing.holds, **asdict(standing)})
        if not as_json:
            say(f"{file}: {standing}")
            say("\n".join(f"{file}: note: {note}" for note in standing.notes)) if standing.notes else None
    if as_json:
        print_json(standings)
    sys.exit(not all(standing["holds"] for standing in standings))
