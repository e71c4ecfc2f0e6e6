"""HTML from templates that escape whatever they are given: whole pages, and what a notebook shows."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..config import dtype_name
from ..errors import printable
from ..generation.scoring import Score
from ..layers import Decoder
from ..load_plan import LoadPlan
from ..parity.report import HEADINGS, Report
from .trees import as_text, parameter_count, tree

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:
    """A template filled in: no name, wherever it comes from, becomes markup or an attribute."""
    return _environment().get_template(template).render(values)


def whole_page(template: str, *, script: str = "", **values: Any) -> str:
    """A whole page. What it may do is written into it: its own style, `script` and pictures, no more."""
    style = source("page.css")
    may_run = _digest(script) if script else "'none'"
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
        f"script-src {may_run}; base-uri 'none'; form-action 'none'"
    )
    return render(template, style=style, script=script, policy=policy, **values)


def source(name: str) -> str:
    """The text of a file beside the templates."""
    return (TEMPLATES / name).read_text("utf-8")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    def finalize(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def indented(value: Any) -> Markup:
        text = printable(str(value))
        inner = text.lstrip(" ")
        return Markup("&nbsp;") * (len(text) - len(inner)) + escape(inner)  # an indent is seen without a style too

    strict: Any = {"autoescape": True, "undefined": StrictUndefined, "finalize": finalize}
    environment = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, **strict)
    environment.filters |= {"indented": indented, "tuple": tuple}
    return environment


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def report_page(reports: Sequence[Report]) -> str:
    """One page in HTML of any number of reports."""
    title = ", ".join(report.name for report in reports[:3])
    return whole_page("reports.html", title=title, reports=map(report_values, reports))


def report_values(report: Report) -> dict[str, Any]:
    """What a template needs to show a report."""
    lines = [report.verdict, *report.remarks]
    rows = [dict(zip(HEADINGS, row, strict=True)) for row in report.rows()]
    return {"name": report.name, "lines": lines, "rows": rows}


def _of_decoder(model: Decoder) -> str:
    packed = not isinstance(getattr(model.head, "weight", None), nn.Parameter)  # as the linear maps of fast/
    missing = ", not counting its linear maps, which are packed" if packed else ""
    name = getattr(model, "architecture", type(model).__name__)
    return render(
        "notebook.html",
        rows=[as_text(row) for row in tree(model)],
        caption=f"{name}: {parameter_count(model):,} parameters{missing}",
    )


def _of_plan(plan: LoadPlan) -> str:
    what = f"{plan.checkpoint.origin.name}: {plan.architecture.name}, {plan.parameters:,} parameters"
    memory = f"{plan.bytes_in_place:,} bytes used in place, {plan.bytes_copied:,} copied"
    return render("notebook.html", rows=plan.key_table, caption=f"{what} in {dtype_name(plan.dtype)}; {memory}")


def _of_score(score: Score) -> str:
    row = {"tokens": f"{len(score.losses):,}", "loss": f"{score.loss:.4f}", "perplexity": f"{score.perplexity:.4f}"}
    return render("notebook.html", rows=[row], caption="each token after the first, in nats, given those before it")


# None of the classes knows how it is shown.
setattr(Decoder, "_repr_html_", _of_decoder)  # noqa: B010
setattr(LoadPlan, "_repr_html_", _of_plan)  # noqa: B010
setattr(Score, "_repr_html_", _of_score)  # noqa: B010
setattr(Report, "_repr_html_", lambda report: render("notebook.html", report=report_values(report)))  # noqa: B010
