"""Commands to see a model: tree, diff, explain, plot."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import plain
from .app import Json, Offline, OptionalSource, Revision, SourceArgument, app, out, print_table

if TYPE_CHECKING:
    from ..view.subject import Subject

WIDTH = 100  # of explanations
MOST = 20  # tensors that differ which are listed, unless all are asked for


@app.command()
def tree(
    source: OptionalSource = None,
    depth: Annotated[int | None, typer.Option(help="levels to show", min=1)] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="transformers' tree beside ours, each join compared number by number")
    ] = False,
    revision: Revision = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """The modules of a model, an architecture or a checkpoint, from headers alone; repeated blocks are folded."""
    from ..view.subject import subject
    from ..view.tree import tree as tree_of

    seen = subject(source, revision=revision, offline=offline, headers_only=not reference)
    if reference:
        from ..view.beside import beside

        rows = beside(seen, depth=depth)
    else:
        rows = tree_of(seen, depth=depth)
    if as_json:
        print(json.dumps({"model": seen.name, "modules": rows}, indent=2))
        return
    shown = []
    for row in rows:
        cells = {"module": "  " * (row["depth"] - 1) + row["module"], "kind": row["kind"], "shape": row["shape"]}
        if reference:
            cells |= {"": row["join"], "transformers": row["theirs"], "its kind": row["their_kind"]}
        cells |= {"parameters": f"{row['parameters']:,}" if row["parameters"] else ""}
        shown.append(cells | {"share": f"{row['share']:.1%}" if row["parameters"] else "", "dtype": row["dtype"]})
    out.print(f"{seen.name}: {sum(p.numel() for p in seen.model.parameters()):,} parameters", markup=False)
    _print_likes([seen])
    print_table(shown)
    if reference:
        print(
            "= the same numbers in both, after the rearrangement of the key table; ! not the same; else one side's own"
        )


@app.command()
def diff(
    sources: Annotated[list[str], typer.Argument(help="architectures, folders or Hub ids", metavar="A B [C]...")],
    everything: Annotated[bool, typer.Option("--all", help="also what is the same")] = False,
    weights: Annotated[bool, typer.Option("--weights", help="fetch the weights of Hub ids to compare them")] = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """What differs between models; between two checkpoints of one architecture also tensor by tensor.

    A Hub id may carry a revision, as NAME@step3000.
    """
    from ..view.diff import diff as diff_of
    from ..view.diff import tensors
    from ..view.subject import subject

    seen = [subject(source, offline=offline, headers_only=not weights) for source in sources]
    rows = diff_of(seen)
    apart: list[dict[str, Any]] = []
    at_hand = [one for one in seen if one.plan and one.plan.checkpoint.files]
    if len(seen) == len(at_hand) == 2 and seen[0].architecture == seen[1].architecture:
        apart = list(tensors(*seen))
    if as_json:
        print(json.dumps({"models": [one.name for one in seen], "facts": rows, "tensors": apart}, indent=2))
        return
    shown = [row for row in rows if everything or not row["same"]]
    if shown:
        names = [one.name for one in seen]
        print_table(
            [
                {"part": row["part"], "what": row["what"]} | dict(zip(names, row["values"], strict=True))
                for row in _once(shown)
            ]
        )
    _print_likes(seen)
    same = [f"{row['part']} {row['what']}" for row in rows if row["same"]]
    if same and not everything:
        out.print(f"the same: {', '.join(same)}", markup=False)
    if apart:
        _print_tensors(apart, everything)


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
    for row in rows:
        of = f", {row['count']} of them" if row["count"] > 1 else ""
        print(f"{row['path']}: {row['kind']}{of}")
        source_of = f" ({row['source']})" if row["source"] else ""
        if row["text"]:
            print(textwrap.fill(row["text"] + source_of, WIDTH, initial_indent="  ", subsequent_indent="  "))
        for tensor in row["tensors"]:
            print(
                f"    {tensor['name'].rpartition('.')[2]} {tuple(tensor['shape'])}: {plain(' + '.join(tensor['keys']))}"
            )
            print(f"      {tensor['stored']}")
        print()


@app.command()
def plot(
    source: SourceArgument,
    kind: Annotated[str, typer.Argument(help="positions, weights, attention, spectrum or norms", metavar="WHAT")],
    name: Annotated[str | None, typer.Argument(help="a tensor, for weights", metavar="[NAME]")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="a .png or .svg file")] = Path("plot.png"),
    prompt: Annotated[str | None, typer.Option(help="the text, for attention and norms")] = None,
    layer: Annotated[int, typer.Option(help="for attention")] = 0,
    force: Annotated[bool, typer.Option("--force", help="write over a file that is there")] = False,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Draw what is inside a checkpoint; `bundled` is the one that ships with archport."""
    from ..view import plot as drawing
    from ..view.subject import subject

    drawing.may_write(output, force=force)
    seen = subject(source, revision=revision, offline=offline, headers_only=False)
    figure = drawing.plot(seen, kind, name=name, layer=layer, prompt=drawing.PROMPT if prompt is None else prompt)
    drawing.save(figure, output, force=force)
    out.print(f"{output}  {output.stat().st_size:,} bytes", markup=False)


def _print_likes(seen: "Sequence[Subject]") -> None:
    """Whose sizes those are that only an architecture was named for."""
    likes = [f"{one.name} at the sizes of {one.like}" for one in seen if one.like]
    if likes:
        out.print(", ".join(likes), markup=False)


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the name of a part only where it begins."""
    previous = [""] + [row["part"] for row in rows]
    return [
        row | {"part": "" if row["part"] == before else row["part"]}
        for row, before in zip(rows, previous, strict=False)
    ]


def _print_tensors(rows: list[dict[str, Any]], everything: bool) -> None:
    differ = sorted((row for row in rows if not row["same"]), key=lambda row: -(row["relative"] or float("inf")))
    out.print(f"{len(differ)} of {len(rows)} tensors differ", markup=False)
    listed = rows if everything else differ[:MOST]
    if listed:
        print_table(
            [
                {
                    "tensor": row["tensor"],
                    "shape": " / ".join(dict.fromkeys(str(shape or "-") for shape in row["shapes"])),
                    "largest difference": "-" if row["largest"] is None else f"{row['largest']:.3g}",
                    "relative": "-" if row["relative"] is None else f"{row['relative']:.2%}",
                }
                for row in listed
            ]
        )
    if len(listed) < len(differ):
        out.print(f"and {len(differ) - len(listed)} more: --all", markup=False)
