"""Commands to see a model: tree, diff, explain, plot, page."""

import math
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, BadParameter, Option

from .. import parity
from ..files.source import is_folder
from ..files.write import check_target, whole_file
from ..loading import execute
from ..proposing import architecture_read, model_types
from ..registry import is_architecture
from ..view import aligned_trees, explaining, fact_table, plotting, reference_tree, tensor_differences, trees
from ..view.page import to_html
from ..view.subjects import Subject, subject
from .app import (
    Force,
    Json,
    Links,
    MaybeArch,
    MaybeSource,
    Offline,
    Revision,
    Source,
    Variant,
    app,
    out,
    print_json,
    print_table,
    reading,
    say,
)

Weights = Annotated[bool, Option("--weights", help="fetch the weights of Hub ids, to compare or draw them")]
WIDTH = 100  # of explanations, at most
MOST = 20  # tensors that differ which are listed, unless all are asked for


@app.command()
def tree(
    source: MaybeSource = None,
    other: Annotated[str | None, Argument(help="another, to lay beside it", metavar="[OTHER]")] = None,
    depth: Annotated[int | None, Option(help="levels to show", min=1)] = None,
    reference: Annotated[
        bool, Option("--reference", help="transformers' tree beside ours, each join compared number by number")
    ] = False,
    weights: Weights = False,
    revision: Revision = None,
    offline: Offline = False,
    variant: Variant = None,
    follow_links: Links = False,
    as_json: Json = False,
) -> None:
    """The modules of a model, an architecture or a checkpoint, from headers alone; repeated blocks are folded.

    Of two, the same parts are on the same line. A Hub id may carry a revision, as NAME@step3000.
    """
    if other is not None and (reference or revision):
        raise BadParameter("of two models there is no --reference, and a revision is written as NAME@REVISION")
    looked_at = partial(
        _looked_at, headers_only=not weights, offline=offline, variant=variant, follow_links=follow_links
    )
    model = looked_at(source, revision=revision)
    if other is not None:
        _print_aligned([model, looked_at(other)], depth, as_json)
        return
    rows = reference_tree.joined_rows(model, depth=depth) if reference else trees.tree(model.model, depth=depth)
    if as_json:
        compared = {"compared": "its weights" if model.at_hand else "a tiny model"} if reference else {}
        print_json({"model": model.name, **compared, "modules": rows})
        return
    names = {"join": "", "theirs": "transformers", "their_kind": "its kind"} if reference else {}
    _print_names([model])
    cells = [trees.as_text(row) | {name: row[name] for name in names} for row in rows]
    print_table(cells, ("shape", "their_kind", "parameters", "share", "dtype"), names)
    if reference:
        say(reference_tree.legend(row["join"] for row in rows))
        if not model.at_hand:
            say(reference_tree.TINY)


def _print_aligned(models: Sequence[Subject], depth: int | None, as_json: bool) -> None:
    rows = aligned_trees.aligned(*models, depth=depth)
    if as_json:
        print_json({"models": [model.name for model in models], "modules": rows})
        return
    _print_names(models)
    one, other = fact_table.titles(models)
    names = {"one": one, "same": "", "other": other, "parameters of the other": "parameters"}
    cells = [aligned_trees.aligned_as_text(row) for row in rows]
    print_table(cells, ("parameters", "parameters of the other"), names)
    say(aligned_trees.LEGEND)


def _print_names(models: Sequence[Subject]) -> None:
    for model in models:
        say(f"{model.name}: {trees.parameter_count(model.model):,} parameters")
    _print_likes(models)


@app.command()
def diff(
    sources: Annotated[
        list[str], Argument(help="architectures, folders, Hub ids or classes of your own", metavar="A B [C]...")
    ],
    everything: Annotated[bool, Option("--all", help="also what is the same")] = False,
    weights: Weights = False,
    offline: Offline = False,
    variant: Variant = None,
    follow_links: Links = False,
    as_json: Json = False,
) -> None:
    """What differs between models; between two checkpoints of one architecture also tensor by tensor.

    A Hub id may carry a revision, as NAME@step3000. A class of your own, as my_model.py:GPT, is read by running it.
    """
    if len(sources) < 2:
        raise BadParameter(f"found {len(sources)} model, expected two or more to compare")
    how = reading(None, offline, variant, follow_links)
    models = [_looked_at(source, headers_only=not weights, **how) for source in sources]
    rows = fact_table.diff(models)
    apart = list(tensor_differences.tensors(*models)) if len(models) == 2 else []
    if as_json:
        print_json({"models": [model.name for model in models], "facts": rows, "tensors": apart})
        return
    listed = [row for row in rows if everything or row["same"] is not True]
    if listed:
        cells = fact_table.side_by_side(models, listed)
        for above, row in reversed([*pairwise(cells)]):  # a part is named where it begins
            row["part"] = "" if row["part"] == above["part"] else row["part"]
        print_table(cells)
    _print_likes(models)
    same = [f"{row['part']} {row['what']}" for row in rows if row["same"]]
    if any(fact_table.ABSENT in row["values"] for row in listed):
        say(fact_table.LEGEND)
    if not any(row["same"] is False for row in rows):
        say("no fact differs")
    elif same and not everything:
        say(f"the same: {', '.join(same)}")
    if apart:
        _print_tensors(apart, everything)
    elif len(models) > 2 and all(model.at_hand for model in models):
        say("tensors are compared between two checkpoints of one architecture, not between more")


@app.command()
def explain(
    source: MaybeArch = None,
    pattern: Annotated[str | None, Argument(help="a part of a name, or a glob", metavar="[PATTERN]")] = None,
    revision: Revision = None,
    offline: Offline = False,
    variant: Variant = None,
    follow_links: Links = False,
    as_json: Json = False,
) -> None:
    """What each part of a model does, its shape, and where each tensor lies in the checkpoint; from headers alone."""
    model = _looked_at(source, **reading(revision, offline, variant, follow_links))
    rows = explaining.explain(model, pattern)
    if as_json:
        print_json({"model": model.name, "parts": rows})
        return
    width = min(WIDTH, out.width) if out.is_terminal else WIDTH
    for row in rows:
        say(f"{row['path']}: {explaining.heading(row)}")
        if row["text"]:
            say(textwrap.fill(explaining.sentence(row), width, initial_indent="  ", subsequent_indent="  "))
        for tensor in row["tensors"]:
            say(f"    {tensor['name'].rpartition('.')[2]} {tuple(tensor['shape'])}: {' + '.join(tensor['keys'])}")
            say(f"      {tensor['stored']}")
        say("")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


@app.command()
def plot(
    source: Source,
    kind: Annotated[str, Argument(help="positions, weights, attention, spectrum or norms", metavar="WHAT")],
    name: Annotated[
        str | None,
        Argument(
            help="a tensor or a block of it, for weights: by our name, or by the checkpoint's as it lies there",
            metavar="[NAME]",
        ),
    ] = None,
    output: Annotated[Path, Option("--output", "-o", help="a .png or .svg file")] = Path("plot.png"),
    prompt: Annotated[str | None, Option(help="the text, for attention and norms")] = None,
    layer: Annotated[int | None, Option(help="for attention; the first")] = None,
    columns: Annotated[
        Any, Option(help="of positions, to draw as curves, as 150,200,250", parser=_numbers, metavar="N,N..")
    ] = None,
    force: Force = False,
    revision: Revision = None,
    offline: Offline = False,
    variant: Variant = None,
    follow_links: Links = False,
) -> None:
    """Draw what is inside a checkpoint; `bundled` is the one that ships with archport."""
    options = {"name": name, "layer": layer, "prompt": prompt, "columns": columns}
    how = reading(revision, offline, variant, follow_links)
    model = plotting.opened(source, kind, how, **options)
    check_target(output, tuple(plotting.UNDATED), force=force)
    model = plotting.with_weights(model, kind, offline=offline)
    plotting.save(plotting.draw(model, kind, **options), output, force=force)
    say(f"{output}  {output.stat().st_size:,} bytes")


@app.command()
def page(
    source: Annotated[str, Argument(help="a folder, a Hub id or an ARCH", metavar="SOURCE|ARCH")],
    other: Annotated[str | None, Argument(help="one to compare it with", metavar="[OTHER]")] = None,
    output: Annotated[Path, Option("--output", "-o", help="an .html file")] = Path("page.html"),
    verify: Annotated[bool, Option("--verify", help="compare with transformers, and show the verdict")] = False,
    no_plots: Annotated[bool, Option("--no-plots", help="draw nothing")] = False,
    weights: Weights = False,
    force: Force = False,
    offline: Offline = False,
    variant: Variant = None,
    follow_links: Links = False,
) -> None:
    """All there is to see of a model, or of two side by side, as one HTML file that needs no network.

    With --verify the exit code is 1 when it is not the same model as transformers'.
    """
    check_target(output, (".html", ".htm"), force=force)
    names = [source] if other is None else [source, other]
    how = reading(None, offline, variant, follow_links)
    models = [subject(name, headers_only=not (weights or verify), **how) for name in names]
    verdicts = [report for model in models for report in _verified(model)] if verify else []
    whole_file(output, to_html(models, verdicts=verdicts, plots=not no_plots).encode("utf-8"))
    say(f"{output}  {output.stat().st_size:,} bytes")
    for report in verdicts:
        say(report.verdict)
    sys.exit(not all(report.ok for report in verdicts))


def _verified(model: Subject) -> Sequence[parity.Report]:
    if model.plan is None:
        return parity.verify_architecture(model.architecture.name)
    return [parity.verify(execute(model.plan), dtype="float32")]


def _print_likes(models: Sequence[Subject]) -> None:
    likes = dict.fromkeys(f"{model.name} at the sizes of {model.like}" for model in models if model.like)
    if likes:
        say(", ".join(likes))


def _looked_at(source: str | None, **how: Any) -> Subject:
    """What is looked at: a class of one's own, as MODULE:CLASS, or a decoder that archport lacks is read first."""
    unknown = source is not None and "/" not in source and not (is_architecture(source) or is_folder(source))
    if source is not None and (":" in source or (unknown and source.replace("-", "_") in model_types())):
        arch = architecture_read(source)
        return Subject(source, arch, arch.config_class(**arch.sizes), like="a tiny one, as it was read and not proved")
    return subject(source, **how)


def _print_tensors(rows: list[dict[str, Any]], everything: bool) -> None:
    differ = sorted((row for row in rows if not row["same"]), key=lambda row: -(row["relative"] or math.inf))
    say(f"{len(differ)} of {len(rows)} tensors differ")
    listed = rows if everything else differ[:MOST]
    if listed:
        print_table([tensor_differences.as_text(row) for row in listed])
    if len(listed) < len(differ):
        say(f"and {len(differ) - len(listed)} more: --all")
