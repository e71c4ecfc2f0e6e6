"""The application that commands add themselves to, the options they share, and how they print a table."""

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from typer import Argument, BadParameter, Exit, Option, Typer

from .. import __version__
from ..errors import ArchportError, plain, printable
from ..registry import Architecture, architecture, architectures, is_architecture, register_folder
from ..translate.planning import nearest

app = Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)

Source = Annotated[str, Argument(help="a folder, a file of weights or a Hub id", metavar="SOURCE")]
MaybeSource = Annotated[
    str | None,
    Argument(help="a folder, a file of weights or a Hub id; without it, the bundled checkpoint", metavar="[SOURCE]"),
]
MaybeArch = Annotated[str | None, Argument(help="a folder, a Hub id or an ARCH", metavar="[SOURCE|ARCH]")]
Revision = Annotated[str | None, Option(help="branch, tag or commit on the Hub")]
Dtype = Annotated[str, Option(help="auto, float32, float16 (fp16, half), bfloat16 (bf16) or float64")]
Adapter = Annotated[str | None, Option(help="a folder or Hub id of an adapter to merge, with peft")]
Tokenizer = Annotated[str | None, Option(help="a folder or a Hub id to take the tokenizer of")]
Device = Annotated[str, Option(help="cpu, cuda, ...")]
Offline = Annotated[bool, Option("--offline", help="use the local cache only")]
Variant = Annotated[str | None, Option(help="of the weights, as fp16 for model.fp16.safetensors")]
Links = Annotated[bool, Option("--follow-links", help="read files of a folder that are links out of it")]
Json = Annotated[bool, Option("--json", help="print JSON")]
Like = Annotated[str | None, Option(help="the architecture that a module of your own is to be like")]
Forward = Annotated[str | None, Option(help="a function of module and ids that gives logits, as my_model.py:forward")]
Force = Annotated[bool, Option("--force", help="write over a file that is there")]


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"archport {__version__}")
        raise Exit


@app.callback()
def options(
    plugin: Annotated[
        list[str] | None,
        Option(help="a module that registers architectures of your own, or a folder of models/ and mappings/"),
    ] = None,
    version: Annotated[  # noqa: ARG001  # acts where it is read
        bool, Option("--version", callback=_print_version, is_eager=True, help="print the version, and end")
    ] = False,
) -> None:
    """Load a GPT checkpoint into readable PyTorch, and see that it is the same model."""
    for name in plugin or ():
        if Path(name).is_dir():
            try:
                register_folder(name)
            except ArchportError as error:
                raise BadParameter(f"--plugin {name}: {error}") from None
            continue
        # A module that Python finds from here, or a file.
        folder, module = (Path(name).resolve().parent, Path(name).stem) if name.endswith(".py") else (Path.cwd(), name)
        sys.path.insert(0, str(folder))
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # it is somebody else's code
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise BadParameter(f"--plugin {name}: {reason}") from None


def setting(text: str) -> tuple[str, Any]:
    """The field and the value of a --set: JSON where it is, else the text. Raises: BadParameter."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise BadParameter(f"--set {text}: expected NAME=VALUE, as layers=6")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def like_architecture(name: str) -> Architecture:
    """The architecture that --like names. Raises: BadParameter."""
    if not is_architecture(name):
        hint = nearest(name, architectures()) or f"; expected one of {', '.join(architectures())}"
        raise BadParameter(f"--like {name}: archport builds no model of that name{hint}")
    return architecture(name)


def reading(revision: str | None, offline: bool, variant: str | None, follow_links: bool) -> dict[str, Any]:
    """How a source is opened, as keywords of `load` and its like."""
    return {"revision": revision, "offline": offline, "variant": variant, "follow_links": follow_links}


def say(text: str, console: Console = out) -> None:
    """Print text, of which nothing is markup and no terminal takes anything for a command."""
    console.print("\n".join(printable(line) for line in text.split("\n")), markup=False, soft_wrap=True)


def print_json(values: Any) -> None:
    """Print values as JSON."""
    print(json.dumps(values, indent=2))


def print_table(
    rows: Sequence[dict[str, Any]], spare: Sequence[str] = (), headings: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Print rows that have the same columns; as wide as they are, and without blanks at the end, where nobody looks on.

    Where the terminal is too narrow, `spare` columns go first, the last of them first, and their names are printed.
    `headings` are for columns that are not headed by their name.
    """
    seen = sys.stdout.isatty()  # a pipe has no width, whatever the environment says of a terminal around it
    console = Console(highlight=False, markup=False, emoji=False, force_terminal=seen)
    for kept in range(len(spare), -1, -1):
        gone = [name for name in rows[0] if name in spare[kept:]]
        table = Table(box=None, pad_edge=False)
        for column in (name for name in rows[0] if name not in gone):
            justify: Any = "right" if column.startswith("parameters") else "left"
            table.add_column(plain(headings.get(column, column)), justify=justify, overflow="fold")
        for row in rows:
            table.add_row(*(plain(str(value)) for name, value in row.items() if name not in gone))
        width = console.measure(table, options=console.options.update(max_width=sys.maxsize)).maximum
        if not seen or width <= console.width:
            break
    if not seen:
        console.width = width
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
    if gone:
        names = dict.fromkeys(headings.get(name, name) for name in gone)
        say(f"not shown, as the terminal is too narrow: {', '.join(names)}")
