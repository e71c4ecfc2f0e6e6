"""Commands to see a model: tree, diff, explain, plot, page."""

import json
import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CheckpointError
from .app import Json, Offline, OptionalSource, Revision, SourceArgument, app, out, print_table, say

if TYPE_CHECKING:
    from ..parity import Report
    from ..view.subject import Subject

Weights = Annotated[bool, typer.Option("--weights", help="fetch the weights of Hub ids, to compare or draw them")]

WIDTH = 100  # of explanations, at most
MOST = 20  # tensors that differ which are listed, unless all are asked for


@app.command()
def tree(
    source: OptionalSource = None,
    depth: Annotated[int | None, typer.Option(help="levels to show", min=1)] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="transformers' tree beside ours, each join compared number by number")
    ] = False,
    weights: Weights = False,
    revision: Revision = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """The modules of a model, an architecture or a checkpoint, from headers alone; repeated blocks are folded."""
    from ..view.subject import subject
    from ..view.tree import shown
    from ..view.tree import tree as tree_of

    seen = subject(source, revision=revision, offline=offline, headers_only=not weights)
    if reference:
        from ..view.beside import beside

        rows = beside(seen, depth=depth)
    else:
        rows = tree_of(seen.model, depth=depth)
    if as_json:
        compared = {"compared": "its weights" if seen.at_hand else "a tiny model"} if reference else {}
        print(json.dumps({"model": seen.name, **compared, "modules": rows}, indent=2))
        return
    cells = [shown(row) for row in rows]
    if reference:
        names = {"join": "", "theirs": "transformers", "their_kind": "its kind"}
        cells = [cell | {name: row[key] for key, name in names.items()} for cell, row in zip(cells, rows, strict=True)]
    say(f"{seen.name}: {sum(p.numel() for p in seen.model.parameters()):,} parameters")
    _print_likes([seen])
    print_table(cells, ("shape", "its kind", "parameters", "share", "dtype"))
    if reference:
        from ..view.beside import LEGEND, TINY

        say(LEGEND if seen.at_hand else f"{LEGEND}\n{TINY}")


@app.command()
def diff(
    sources: Annotated[list[str], typer.Argument(help="architectures, folders or Hub ids", metavar="A B [C]...")],
    everything: Annotated[bool, typer.Option("--all", help="also what is the same")] = False,
    weights: Weights = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """What differs between models; between two checkpoints of one architecture also tensor by tensor.

    A Hub id may carry a revision, as NAME@step3000.
    """
    from ..view.diff import diff as diff_of
    from ..view.diff import side_by_side, tensors
    from ..view.subject import subject

    if len(sources) < 2:
        raise typer.BadParameter(f"found {len(sources)} model, expected two or more to compare")
    seen = [subject(source, offline=offline, headers_only=not weights) for source in sources]
    rows = diff_of(seen)
    apart = list(tensors(*seen)) if len(seen) == 2 else []
    if as_json:
        print(json.dumps({"models": [one.name for one in seen], "facts": rows, "tensors": apart}, indent=2))
        return
    shown = [row for row in rows if everything or not row["same"]]
    if shown:
        print_table(side_by_side(seen, _once(shown)))
    _print_likes(seen)
    same = [f"{row['part']} {row['what']}" for row in rows if row["same"]]
    if not shown:
        say("no fact differs")
    elif same and not everything:
        say(f"the same: {', '.join(same)}")
    if apart:
        _print_tensors(apart, everything)
    elif len(seen) > 2 and all(one.at_hand for one in seen):
        say("tensors are compared between two checkpoints of one architecture, not between more")


@app.command()
def explain(
    source: Annotated[str | None, typer.Argument(help="a folder, a Hub id or an ARCH", metavar="[SOURCE|ARCH]")] = None,
    pattern: Annotated[str | None, typer.Argument(help="a part of a name, or a glob", metavar="[PATTERN]")] = None,
    revision: Revision = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """What each part of a model does, its shape, and where each tensor lies in the checkpoint; from headers alone."""
    from ..view.explain import explain as explain_of
    from ..view.subject import subject

    seen = subject(source, revision=revision, offline=offline)
    rows = explain_of(seen, pattern)
    if as_json:
        print(json.dumps({"model": seen.name, "parts": rows}, indent=2))
        return
    width = min(WIDTH, out.width) if out.is_terminal else WIDTH
    for row in rows:
        of = f", {row['count']} of them" if row["count"] > 1 else ""
        say(f"{row['path']}: {row['kind']}{of}")
        source_of = f" ({row['source']})" if row["source"] else ""
        if row["text"]:
            say(textwrap.fill(row["text"] + source_of, width, initial_indent="  ", subsequent_indent="  "))
        for tensor in row["tensors"]:
            say(f"    {tensor['name'].rpartition('.')[2]} {tuple(tensor['shape'])}: {' + '.join(tensor['keys'])}")
            say(f"      {tensor['stored']}")
        say("")


@app.command()
def plot(
    source: SourceArgument,
    kind: Annotated[str, typer.Argument(help="positions, weights, attention, spectrum or norms", metavar="WHAT")],
    name: Annotated[str | None, typer.Argument(help="a tensor, for weights", metavar="[NAME]")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="a .png or .svg file")] = Path("plot.png"),
    prompt: Annotated[str | None, typer.Option(help="the text, for attention and norms")] = None,
    layer: Annotated[int | None, typer.Option(help="for attention; the first")] = None,
    force: Annotated[bool, typer.Option("--force", help="write over a file that is there")] = False,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Draw what is inside a checkpoint; `bundled` is the one that ships with archport."""
    from ..view import plot as drawing
    from ..view.output import may_write
    from ..view.subject import subject

    may_write(output, tuple(drawing.UNDATED), force=force)
    try:
        seen = subject(source, revision=revision, offline=offline)
    except CheckpointError:  # a pickle on the Hub has to be fetched before its headers are known
        seen = subject(source, revision=revision, offline=offline, headers_only=False)
    drawing.check(seen, kind, name=name, layer=layer, prompt=prompt)
    if not seen.at_hand and kind in drawing.OF_ALL:
        seen = subject(source, revision=revision, offline=offline, headers_only=False)
    figure = drawing.plot(seen, kind, name=name, layer=layer, prompt=prompt)
    drawing.save(figure, output, force=force)
    say(f"{output}  {output.stat().st_size:,} bytes")


@app.command()
def page(
    source: Annotated[str, typer.Argument(help="a folder, a Hub id or an ARCH", metavar="SOURCE|ARCH")],
    other: Annotated[str | None, typer.Argument(help="one to compare it with", metavar="[OTHER]")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="an .html file")] = Path("page.html"),
    verify: Annotated[bool, typer.Option("--verify", help="compare with transformers, and show the verdict")] = False,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="draw nothing")] = False,
    weights: Weights = False,
    force: Annotated[bool, typer.Option("--force", help="write over a file that is there")] = False,
    offline: Offline = False,
) -> None:
    """All there is to see of a model, or of two side by side, as one HTML file that needs no network.

    With --verify the exit code is 1 when it is not the same model as transformers'.
    """
    from ..view.output import may_write, write
    from ..view.page import to_html
    from ..view.subject import subject

    may_write(output, (".html", ".htm"), force=force)
    sources = [source] if other is None else [source, other]
    seen = [subject(one, offline=offline, headers_only=not (weights or verify)) for one in sources]
    verdicts = [report for one in seen for report in _verified(one)] if verify else []
    write(output, to_html(seen, verdicts=verdicts, plots=not no_plots).encode("utf-8"))
    say(f"{output}  {output.stat().st_size:,} bytes")
    for report in verdicts:
        say(report.verdict)
    sys.exit(not all(report.ok for report in verdicts))


def _verified(seen: "Subject") -> "Sequence[Report]":
    """The verdict on a checkpoint, or those on every variant of an architecture."""
    from .. import parity
    from ..loading import execute

    if seen.plan is None:
        return parity.verify_architecture(seen.architecture.name)
    return [parity.verify(execute(seen.plan), dtype="float32")]


def _print_likes(seen: "Sequence[Subject]") -> None:
    """Whose sizes those are that only an architecture was named for."""
    likes = dict.fromkeys(f"{one.name} at the sizes of {one.like}" for one in seen if one.like)
    if likes:
        say(", ".join(likes))


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the name of a part only where it begins."""
    previous = [""] + [row["part"] for row in rows]
    return [
        row | {"part": "" if row["part"] == before else row["part"]}
        for row, before in zip(rows, previous, strict=False)
    ]


def _print_tensors(rows: list[dict[str, Any]], everything: bool) -> None:
    differ = sorted((row for row in rows if not row["same"]), key=lambda row: -(row["relative"] or math.inf))
    say(f"{len(differ)} of {len(rows)} tensors differ")
    listed = rows if everything else differ[:MOST]
    if listed:
        from ..view.diff import shown as tensor_shown

        print_table([tensor_shown(row) for row in listed])
    if len(listed) < len(differ):
        say(f"and {len(differ) - len(listed)} more: --all")
