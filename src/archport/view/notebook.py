"""How a model, a plan and a report show themselves in a notebook, and reports as a page."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from ..config import dtype_name
from ..layers import Decoder
from ..loading import LoadPlan
from ..parity.report import HEADINGS, Report
from .rendering import render, whole_page
from .trees import as_text, parameter_count, tree

_html = partial(render, "notebook.html")


def report_page(reports: Sequence[Report]) -> str:
    """One page in HTML of any number of reports."""
    title = ", ".join(report.name for report in reports[:3])
    return whole_page("reports.html", title=title, reports=map(report_values, reports))


def report_values(report: Report) -> dict[str, Any]:
    """What a template needs to show a report."""
    lines = [report.verdict, *([report.fault.words] if report.fault else [])]
    rows = [dict(zip(HEADINGS, row, strict=True)) for row in report.rows()]
    return {"name": report.name, "lines": lines, "rows": rows}


def _of_decoder(model: Decoder) -> str:
    packed = not isinstance(getattr(model.head, "weight", None), nn.Parameter)  # as the linear maps of fast/
    missing = ", not counting its linear maps, which are packed" if packed else ""
    name = getattr(model, "architecture", type(model).__name__)
    return _html(
        rows=[as_text(row) for row in tree(model)], caption=f"{name}: {parameter_count(model):,} parameters{missing}"
    )


def _of_plan(plan: LoadPlan) -> str:
    what = f"{plan.checkpoint.origin.name}: {plan.architecture.name}, {plan.parameters:,} parameters"
    memory = f"{plan.bytes_in_place:,} bytes used in place, {plan.bytes_copied:,} copied"
    return _html(rows=plan.key_table, caption=f"{what} in {dtype_name(plan.dtype)}; {memory}")


# None of the classes knows how it is shown.
setattr(Decoder, "_repr_html_", _of_decoder)  # noqa: B010
setattr(LoadPlan, "_repr_html_", _of_plan)  # noqa: B010
setattr(Report, "_repr_html_", lambda report: _html(report=report_values(report)))  # noqa: B010
