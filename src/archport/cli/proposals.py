"""The command about decoders that nobody has ported yet: propose."""

import sys
from pathlib import Path
from typing import Annotated, Any

import torch
from typer import Argument, BadParameter, Option

from ..proposing import Proposal
from ..proposing import propose as proposed
from .app import Json, Offline, Revision, app, err, print_json, say


@app.command()
def propose(
    source: Annotated[
        str,
        Argument(
            help="a model_type of transformers, a folder or Hub id, or a class, as my_model.py:GPT",
            metavar="MODEL_TYPE|SOURCE|MODULE:CLASS",
        ),
    ],
    name: Annotated[str | None, Option(help="what the architecture is to be called")] = None,
    out: Annotated[Path | None, Option(help="a folder to write models/NAME.py and mappings/NAME.py into")] = None,
    prove_only: Annotated[bool, Option("--prove-only", help="write nothing")] = False,
    draft: Annotated[bool, Option("--draft", help="write what is not proved, too, which its first line says")] = False,
    no_kills: Annotated[bool, Option("--no-kills", help="plant no bugs, which takes minutes")] = False,
    revision: Revision = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Read a decoder that nobody has ported by running it at tiny sizes, write it in our parts, and prove it.

    Exit code 1 where it is not proved; then the first place is named that no part of ours explains.
    """
    if prove_only and (out is not None or draft):
        raise BadParameter("--prove-only writes nothing: leave out --out and --draft")
    if draft and out is None:
        raise BadParameter("--draft: expected --out FOLDER beside it")
    torch.set_num_threads(1)  # more only get in each other's way on models as small as these
    how: dict[str, Any] = {"revision": revision, "offline": offline, "told": lambda line: say(line, err)}
    found = proposed(source, name=name, kills=not no_kills, **how)
    written = found.write(out, draft=draft) if out is not None and found.files and (found.ok or draft) else []
    if as_json:
        print_json(_values(found, written))
    else:
        say(str(found))
        for path in written:
            say(f"wrote   {path} ({len(path.read_text().splitlines())} lines)")
    sys.exit(not found.ok)


def _values(found: Proposal, written: list[Path]) -> dict[str, Any]:
    """A proposal as JSON."""
    proof = found.proof
    return {
        "name": found.name,
        "source": found.source,
        "proved": found.ok,
        "holes": [*found.holes],
        "program": {}
        if found.program is None
        else {path: _plain(one) for path, one in found.program.settings().items()},
        "faults": [] if proof is None else proof.faults,
        "missed": [] if proof is None else [*proof.missed],
        "never_varied": [] if proof is None else [*proof.never_varied],
        "kills": None if proof is None or proof.kills is None else [*proof.kills],
        "seconds": round(found.seconds, 1),
        "written": [str(path) for path in written],
        "files": dict(found.files),
    }


def _plain(value: Any) -> Any:
    return value.__name__ if isinstance(value, type) else value
