"""Commands about a person's own module: rows."""

import sys
from typing import Annotated, Any

from typer import Argument, BadParameter

from .. import port
from ..foreign.finding import rows_like
from ..foreign.importing import imported, made
from ..foreign.sizes import Sizes
from ..foreign.theirs import Theirs
from ..foreign.tiny import tiny
from ..translate.pattern import Row
from .app import (
    Forward,
    Json,
    Like,
    Links,
    Offline,
    Revision,
    Variant,
    app,
    like_architecture,
    print_json,
    reading,
    say,
)


@app.command()
def rows(
    module: Annotated[str, Argument(help="a class or function, as my_model.py:GPT", metavar="MODULE:CLASS")],
    source: Annotated[str | None, Argument(help="a folder or Hub id, for its sizes", metavar="[SOURCE]")] = None,
    like: Like = None,
    forward: Forward = None,
    revision: Revision = None,
    offline: Offline = False,
    variant: Variant = None,
    follow_links: Links = False,
    as_json: Json = False,
) -> None:
    """Print the rows of a module of your own, to paste: where its tensors are. Exit code 1 where some are not settled.

    It is made at the sizes of a SOURCE, or else at tiny ones; what shapes do not tell is settled by running it.
    """
    if source is None and like is None:
        raise BadParameter("--like ARCH: expected the architecture that the module is to be like, or a SOURCE")
    run = None if forward is None else imported(forward)
    if source is None:
        found = tiny(module, like_architecture(like or ""), run).rows
    else:
        plan = port.plan(source, **reading(revision, offline, variant, follow_links))
        arch = plan.architecture
        if like is not None and like_architecture(like) != arch:
            raise BadParameter(f"--like {like}: {source} is a {arch.name}")
        found = rows_like(Theirs(made(module, Sizes(arch, plan.config))), arch, plan.config, run)
    if as_json:
        print_json({"rows": {name: _cell(cell) for name, cell in found.items()}, "unsettled": [*found.unsettled]})
    else:
        say(str(found))
    sys.exit(bool(found.unsettled))


def _cell(cell: Any) -> Any:
    """A cell as JSON: a name, keys with a pattern, or a list of these."""
    if isinstance(cell, Row):
        return {"keys": [*cell.keys], "pattern": cell.pattern}
    return [_cell(one) for one in cell] if isinstance(cell, tuple) else cell
