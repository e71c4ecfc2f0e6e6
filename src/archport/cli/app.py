"""The application that commands add themselves to, the options they share, and how they print a table."""

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from typer import Argument, BadParameter, Option, Typer

from ..errors import plain, printable

app = Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)

Source = Annotated[str, Argument(help="a folder or a Hub id", metavar="SOURCE")]
MaybeSource = Annotated[
    str | None, Argument(help="a folder or a Hub id; without it, the bundled checkpoint", metavar="[SOURCE]")
]
MaybeArch = Annotated[str | None, Argument(help="a folder, a Hub id or an ARCH", metavar="[SOURCE|ARCH]")]
Revision = Annotated[str | None, Option(help="branch, tag or commit on the Hub")]
Dtype = Annotated[str, Option(help="auto, float32, float16 (fp16, half), bfloat16 (bf16) or float64")]
Adapter = Annotated[str | None, Option(help="a folder or Hub id of an adapter to merge, with peft")]
Device = Annotated[str, Option(help="cpu, cuda, ...")]
Offline = Annotated[bool, Option("--offline", help="use the local cache only")]
Variant = Annotated[str | None, Option(help="of the weights, as fp16 for model.fp16.safetensors")]
Links = Annotated[bool, Option("--follow-links", help="read files of a folder that are links out of it")]
Json = Annotated[bool, Option("--json", help="print JSON")]
Force = Annotated[bool, Option("--force", help="write over a file that is there")]


@app.callback()
def options(
    plugin: Annotated[list[str] | None, Option(help="a module that registers architectures of your own")] = None,
) -> None:
    """Load a GPT checkpoint into readable PyTorch, and see that it is the same model."""
    for name in plugin or ():
        # A module that Python finds from here, or a file.
        folder, module = (Path(name).resolve().parent, Path(name).stem) if name.endswith(".py") else (Path.cwd(), name)
        sys.path.insert(0, str(folder))
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # it is somebody else's code
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise BadParameter(f"--plugin {name}: {reason}") from None


def reading(revision: str | None, offline: bool, variant: str | None, follow_links: bool) -> dict[str, Any]:
    """How a source is opened, as keywords of `load` and its like."""
    return {"revision": revision, "offline": offline, "variant": variant, "follow_links": follow_links}


def say(text: str, console: Console = out) -> None:
    """Print text, of which nothing is markup and no terminal takes anything for a command."""
    console.print("\n".join(printable(line) for line in text.split("\n")), markup=False, soft_wrap=True)


def print_json(values: Any) -> None:
    """Print values as JSON."""
    print(json.dumps(values, indent=2))


def print_table(rows: Sequence[dict[str, Any]], spare: Sequence[str] = ()) -> None:
    """Print rows that have the same columns, as wide as they are where nobody looks on.

    Where the terminal is too narrow, `spare` columns go first, the last of them first.
    """
    console = Console(highlight=False, markup=False, width=None if out.is_terminal else 10_000)
    for kept in range(len(spare), -1, -1):
        gone = spare[kept:]
        table = Table(box=None, pad_edge=False)
        for column in (name for name in rows[0] if name not in gone):
            table.add_column(plain(column), justify="right" if column == "parameters" else "left", overflow="fold")
        for row in rows:
            table.add_row(*(plain(str(value)) for name, value in row.items() if name not in gone))
        if console.measure(table, options=console.options.update(max_width=10_000)).maximum <= console.width:
            break
    console.print(table)
