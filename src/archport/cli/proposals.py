"""The command about decoders that nobody has ported yet: propose."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, BadParameter, Option

from ..proposing import propose as proposed
from ..proposing.apart import apart
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
    config: Annotated[Path | None, Option(help="a config.json of tiny sizes, where archport finds none")] = None,
    part: Annotated[
        list[str] | None, Option(help="a part of your own, tried where none of ours fits, as my_parts.py:Gate")
    ] = None,
    prove_only: Annotated[bool, Option("--prove-only", help="write nothing")] = False,
    draft: Annotated[bool, Option("--draft", help="write what is not proved, too, which its first line says")] = False,
    no_kills: Annotated[bool, Option("--no-kills", help="plant no bugs, which takes minutes")] = False,
    seconds: Annotated[float, Option(help="how long it may take", min=1)] = 3600,
    gigabytes: Annotated[float, Option(help="how much memory it may take", min=0.5)] = 8,
    revision: Revision = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Read a decoder that nobody has ported by running it at tiny sizes, write it in our parts, and prove it.

    Exit code 1 where it is not proved; then the first place is named that no part of ours explains. What is read runs
    in a process of its own, and what it prints is not shown.
    """
    if prove_only and (out is not None or draft):
        raise BadParameter("--prove-only writes nothing: leave out --out and --draft")
    if draft and out is None:
        raise BadParameter("--draft: expected --out FOLDER beside it")
    how: dict[str, Any] = {
        "name": name,
        "config": config,
        "parts": part or (),
        "revision": revision,
        "offline": offline,
    }
    values, text, written = apart(
        _proposed,
        {"source": source, "how": how | {"kills": not no_kills}, "out": out, "draft": draft},
        seconds=seconds,
        gigabytes=gigabytes,
        told=lambda line: say(line, err),
    )
    if as_json:
        print_json(values)
    else:
        say(text)
        for path in written:
            say(f"wrote   {path} ({len(path.read_text().splitlines())} lines)")
    sys.exit(not values["proved"])


def _proposed(
    source: str, how: dict[str, Any], out: Path | None, draft: bool, told: Callable[[str], None]
) -> tuple[dict[str, Any], str, list[Path]]:
    """A proposal as JSON and as text, and what was written of it."""
    found = proposed(source, **how, told=told)
    written = found.write(out, draft=draft) if out is not None and found.files and (found.ok or draft) else []
    return found.values() | {"written": [str(path) for path in written]}, str(found), written
