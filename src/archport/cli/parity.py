"""Commands about parity: verify, faults."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import DeviceOption, Json, Offline, Revision, app, print_table, say

if TYPE_CHECKING:
    from ..parity import Report


@app.command()
def verify(
    source: Annotated[str | None, typer.Argument(help="a folder, a Hub id or an ARCH", metavar="[SOURCE|ARCH]")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16")] = "float32",
    against: Annotated[str, typer.Option(help="the reference's attention: eager or sdpa")] = "eager",
    device: DeviceOption = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="compare logits and embeddings only")] = False,
    packed: Annotated[bool, typer.Option("--packed", help="the port with its linear maps packed for speed")] = False,
    by_block: Annotated[bool, typer.Option("--by-block", help="in the memory of a few blocks")] = False,
    revision: Revision = None,
    offline: Offline = False,
    as_json: Json = False,
    report: Annotated[Path | None, typer.Option(help="write the report to a .md or .html file too")] = None,
) -> None:
    """Is it the same model as transformers', and if not, which line is wrong? Exit code 1 when it is not."""
    from .. import parity, registry
    from ..files.write import whole_file
    from ..parity import references

    of_architecture = source is not None and not Path(source).exists() and registry.is_architecture(source)
    if report is not None and report.suffix not in (".md", ".html"):
        raise typer.BadParameter(f"--report {report}: expected a name ending in .md or .html")
    if packed and (of_architecture or quick):
        raise typer.BadParameter("--packed is for a SOURCE, and has lines of its own")
    if by_block and (packed or of_architecture or quick or against != "eager" or device != "cpu"):
        raise typer.BadParameter("--by-block is for a SOURCE, against eager attention on the cpu, all lines")
    if of_architecture and (revision or offline):
        raise typer.BadParameter(f"{source} is an architecture: --revision and --offline are for a SOURCE")
    if of_architecture:
        _one_thread()
        reports = parity.verify_architecture(str(source), dtype=dtype, against=against, device=device, quick=quick)
    elif by_block:
        reports = [parity.verify_by_block(source, dtype=dtype, revision=revision, offline=offline)]
    else:
        verify = partial(parity.verify, source, dtype=dtype, against=against, device=device, quick=quick, packed=packed)
        reports = [verify(revision=revision, offline=offline)]
    if as_json:
        values = [one.to_dict() for one in reports]
        print(json.dumps(values if of_architecture else values[0], indent=2))
    else:
        say("\n".join(one.verdict if one.ok and of_architecture else str(one) for one in reports))
        untested = references.never_varied(registry.architecture(str(source))) if of_architecture else []
        if untested:
            say(f"not verified, at their default in every variant: {', '.join(untested)}")
    if report is not None:
        whole_file(report, _page(reports, report.suffix).encode("utf-8"))
    sys.exit(not all(one.ok for one in reports))


@app.command()
def faults(
    models: Annotated[
        list[str] | None, typer.Argument(help="architectures, or bundled; all without", metavar="[ARCH]...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Plant every known port bug, one at a time: is it noticed, located, named?"""
    from .. import registry
    from ..parity import kill

    _one_thread()
    names = [m if m == kill.BUNDLED else registry.architecture(m).name for m in models or ()]
    tables = [kill.kill_table(name) for name in names or (*registry.architectures(), kill.BUNDLED)]
    rows = [kill.row(one) for table in tables for one in table.kills]
    if as_json:
        covered = {table.coverage.model: asdict(table.coverage) for table in tables}
        print(json.dumps({"faults": rows, "score": kill.kill_score(tables), "coverage": covered}, indent=2))
    else:
        print_table(rows)
        say(kill.kill_score(tables))


def _page(reports: "Sequence[Report]", suffix: str) -> str:
    if suffix == ".html":
        from ..view.notebook import report_page

        return report_page(reports)
    return "\n".join(report.to_markdown() for report in reports)


def _one_thread() -> None:
    """Threads only get in each other's way on models as small as these."""
    import torch

    torch.set_num_threads(1)
