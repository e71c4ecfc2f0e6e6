"""Commands about parity: verify, faults."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from typer import Argument, BadParameter, Option

from .. import registry
from ..files.write import check_target, whole_file
from ..foreign.importing import imported
from ..parity import kill, records
from ..parity.by_name import verify_by_name
from ..view.rendering import report_page
from ..view.subjects import names_architecture
from .app import (
    Device,
    Forward,
    Json,
    Like,
    Links,
    MaybeArch,
    Offline,
    Revision,
    Variant,
    app,
    like_architecture,
    print_json,
    print_table,
    reading,
    say,
)


@app.command()
def verify(
    source: MaybeArch = None,
    dtype: Annotated[str, Option(help="float32, float16 or bfloat16")] = "float32",
    against: Annotated[str, Option(help="the reference's attention: eager or sdpa")] = "eager",
    device: Device = "cpu",
    quick: Annotated[bool, Option("--quick", help="compare logits and embeddings only")] = False,
    packed: Annotated[bool, Option("--packed", help="the port with its linear maps packed for speed")] = False,
    compiled: Annotated[bool, Option("--compiled", help="compile steps of generation too, in minutes")] = False,
    by_block: Annotated[bool, Option("--by-block", help="in the memory of a few blocks")] = False,
    revision: Revision = None,
    offline: Offline = False,
    variant: Variant = None,
    follow_links: Links = False,
    as_json: Json = False,
    report: Annotated[Path | None, Option(help="write the report to a .md or .html file too")] = None,
    module: Annotated[str | None, Option(help="a class or function of your own, as my_model.py:GPT")] = None,
    like: Like = None,
    rows: Annotated[str | None, Option(help="the rows of --module, as my_model.py:ROWS; else they are found")] = None,
    forward: Forward = None,
    record: Annotated[Path | None, Option(help="write what it rests on to a .json file, for archport record")] = None,
) -> None:
    """Is it the same model as transformers', and if not, which line is wrong? Exit code 1 when it is not.

    With --module it is code of your own that is held against SOURCE, or against a tiny model of --like.
    """
    of_architecture = names_architecture(source)
    if module is None and (like or rows or forward):
        raise BadParameter("--like, --rows and --forward are for --module")
    if module is not None and (packed or quick or by_block or record is not None):
        raise BadParameter("--module has lines of its own, without --packed, --quick, --by-block and --record")
    if report is not None and report.suffix not in (".md", ".html"):
        raise BadParameter(f"--report {report}: expected a name ending in .md or .html")
    if record is not None:
        check_target(record, [".json"], force=True)
    if packed and (of_architecture or quick):
        raise BadParameter("--packed is for a SOURCE, and has lines of its own")
    if compiled and (of_architecture or quick or packed or by_block):
        raise BadParameter("--compiled is for a SOURCE, all lines")
    if by_block and (packed or of_architecture or quick or against != "eager" or device != "cpu"):
        raise BadParameter("--by-block is for a SOURCE, against eager attention on the cpu, all lines")
    options = reading(revision, offline, variant, follow_links)
    if of_architecture and any(options.values()):
        given = next(name for name, value in options.items() if value).replace("_", "-")
        raise BadParameter(f"{source} is an architecture: --{given} is for a SOURCE")
    if of_architecture:
        torch.set_num_threads(1)  # more only get in each other's way on models as small as these
        options = {}
    settings: dict[str, Any] = {"dtype": dtype, "against": against, "device": device}
    settings |= {"quick": quick, "packed": packed, "by_block": by_block}
    settings |= {"compiled": True} if compiled else {}
    if module is not None:
        if of_architecture:
            source, like, of_architecture = None, like or source, False
        if source is None and like is None:
            raise BadParameter("--module: expected a SOURCE, or --like ARCH, that it is to be like")
        like = like and like_architecture(like).name
        how: dict[str, Any] = {"dtype": dtype, "against": against, "device": device} | (options if source else {})
        how |= {"rows": rows and imported(rows), "forward": forward and imported(forward)}
        reports = [verify_by_name(module, source, like=like, **how)]
    else:
        reports = records.verified(source, settings, of_architecture=of_architecture, **options)
    if as_json:
        values = [one.to_dict() for one in reports]
        print_json(values if of_architecture else values[0])
    else:
        say("\n".join(one.verdict if one.ok and of_architecture else str(one) for one in reports))
        if of_architecture and reports[0].ok and reports[0].never_varied:  # not printed yet
            say(reports[0].remarks[-1])
    if record is not None:
        made = records.made(source, settings, reports, of_architecture=of_architecture, **options)
        whole_file(record, made.to_json().encode())
    if report is not None:
        in_markdown = report.suffix == ".md"
        text = "\n".join(one.to_markdown() for one in reports) if in_markdown else report_page(reports)
        whole_file(report, text.encode())
    sys.exit(not all(one.ok for one in reports))


@app.command()
def faults(
    models: Annotated[
        list[str] | None, Argument(help="architectures, or bundled; all without", metavar="[ARCH]...")
    ] = None,
    in_build: Annotated[
        bool, Option("--in-build", help="in the code that makes ports, so that no right port is at hand")
    ] = False,
    as_json: Json = False,
) -> None:
    """Plant every known port bug, one at a time: is it noticed, located, named?"""
    torch.set_num_threads(1)  # more only get in each other's way on models as small as these
    names = [m if m == kill.BUNDLED else registry.architecture(m).name for m in models or ()]
    tables = [kill.kill_table(name, in_build=in_build) for name in names or (*registry.architectures(), kill.BUNDLED)]
    rows = [kill.row(one) for table in tables for one in table.kills]
    if as_json:
        covered = {table.coverage.model: asdict(table.coverage) for table in tables}
        print_json({"faults": rows, "score": kill.kill_score(tables), "coverage": covered})
    else:
        print_table(rows)
        say(kill.kill_score(tables))
