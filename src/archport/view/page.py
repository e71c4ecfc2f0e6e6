"""One file of HTML with all there is to see of one model or two: trees, facts, parts, keys, plots, the verdict."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..errors import ArchportError, SourceError
from ..parity import Report
from . import plotting
from .descriptions import described
from .explaining import explain, heading, sentence, stored
from .fact_table import diff, facts, side_by_side, titles
from .reference_tree import MARKS, TINY, Joined, joined, legend
from .rendering import report_values, source, whole_page
from .subjects import Subject
from .tensor_differences import RELATIVE, as_text, tensors
from .trees import Line, every, folded, parameter_count

Values = dict[str, Any]


def to_html(subjects: Sequence[Subject], *, verdicts: Iterable[Report] = (), plots: bool = True) -> str:
    """The page of one model, or of two with what differs; `plots` are drawn of those whose weights are at hand."""
    names = zip(subjects, titles(subjects), strict=True)
    subjects = [subject if subject.name == name else replace(subject, name=name) for subject, name in names]
    pairs = [_joined(subject) for subject in subjects]
    tiny = "".join(f"; {subject.name}: {TINY}" for subject in subjects if not subject.at_hand)
    return whole_page(
        "model.html",
        script=source("page.js"),
        title=" and ".join(subject.name for subject in subjects),
        subjects=[(subject, parameter_count(subject.model)) for subject in subjects],
        verdicts=[report_values(report) for report in verdicts],
        trees=_trees(subjects, pairs),
        meanings=MARKS,
        legend=legend(mark for pair in pairs for mark in pair.marks.values()) + tiny,
        parts=_parts(subjects, pairs),
        plots=[plot for subject in subjects for plot in _plots(subject)] if plots else [],
        **_facts(subjects),
        **_keys(subjects),
    )


def _joined(subject: Subject) -> Joined:
    """The two trees, or ours alone where there is no reference; what kept it away is all that theirs says."""
    try:
        return joined(subject)
    except SourceError as error:
        alone = Line("", "no tree to compare with", 1, str(error), "", 0)
        ours = list(folded(subject.model))
        return Joined(ours, [alone], {}, dict.fromkeys((line.path for line in ours), ""), {"": ""})


def _trees(subjects: Sequence[Subject], pairs: Sequence[Joined]) -> list[Values]:
    trees: list[Values] = []
    for number, (subject, pair) in enumerate(zip(subjects, pairs, strict=True)):
        names = {line.path: every(line.path) for line in pair.ours}
        parts = {theirs: every(ours) for ours, paths in pair.joins.items() for theirs in paths}
        ours = {"title": f"{subject.name} in archport", "lines": pair.ours, "parts": names, "marks": pair.marks}
        title = f"{subject.name} in transformers"
        theirs = {"title": title, "lines": pair.theirs, "parts": parts, "marks": pair.their_marks}
        # Of two models ours are side by side in the middle.
        trees += [ours, theirs] if number or len(subjects) == 1 else [theirs, ours]
    return trees


def _facts(subjects: Sequence[Subject]) -> Values:
    """The facts of one model; of two what differs, for checkpoints of one architecture tensor by tensor too."""
    if len(subjects) == 1:
        return {"facts": [fact._asdict() for fact in facts(subjects[0])], "tensors": []}
    rows, apart = diff(subjects), list(tensors(*subjects))
    differ = sum(not row["same"] for row in apart)
    return {
        "facts": _judged(side_by_side(subjects, rows), rows),
        "tensors": _judged([as_text(row) for row in apart], apart),
        "caption": f"{differ} of {len(apart)} tensors differ; relative is {RELATIVE}",
    }


def _judged(cells: Sequence[dict[str, str]], rows: Sequence[Values]) -> list[dict[str, str]]:
    verdicts = {True: "same", False: "differs", None: "lacking"}
    return [cell | {"in all": verdicts[row["same"]]} for cell, row in zip(cells, rows, strict=True)]


def _parts(subjects: Sequence[Subject], pairs: Sequence[Joined]) -> dict[str, list[Values]]:
    """What each part does, by its name, in each model that has one."""
    parts: dict[str, list[Values]] = {}
    for subject, pair in zip(subjects, pairs, strict=True):
        name = f"{subject.name}: " if len(subjects) > 1 else ""
        for row in explain(subject):
            joins = [
                f"in transformers: {' + '.join(map(every, paths))}: {MARKS[pair.marks[path]]}"
                for path, paths in pair.joins.items()
                if every(path) == row["path"] and path in pair.marks
            ]
            heads = list(dict.fromkeys((name + heading(row), *joins)))
            parts.setdefault(row["path"], []).append(row | {"heads": heads, "text": sentence(row)})
    return parts


def _keys(subjects: Sequence[Subject]) -> Values:
    rows: dict[str, dict[str, str]] = {}
    empty: dict[str, str] = {"ours": ""}
    for subject in subjects:
        prefix = f"{subject.name}: " if len(subjects) > 1 else ""
        columns = {key: prefix + key for key in ("shape", "theirs", "how")}
        empty |= dict.fromkeys(columns.values(), "")
        for cells in _key_table(subject):
            key = cells["ours"] if cells["ours"] != "-" else f"- {cells['theirs']}"
            row = rows.setdefault(key, {"ours": cells["ours"]})
            row |= {column: cells[name] for name, column in columns.items()}
    parts = [every(row["ours"].rpartition(".")[0]) for row in rows.values()]
    return {"keys": [empty | row for row in rows.values()], "key_parts": parts}


def _key_table(subject: Subject) -> list[dict[str, str]]:
    """A row a tensor: of a checkpoint by its plan, of an architecture by its key table."""
    descriptions, table, plan = described(subject), subject.architecture.table, subject.plan
    if plan is None:
        return [
            {
                "ours": name,
                "shape": str(tuple(parameter.shape)),
                "theirs": " + ".join(table.row(name, subject.config).keys),
            }
            | {"how": stored(subject, descriptions, name, parameter.ndim)}
            for name, parameter in subject.model.named_parameters()
        ]
    rows = plan.key_table
    for step, row in zip(plan.steps, rows, strict=True):
        if step.name and step.kind not in ("tied", "ignored"):
            row["how"] = f"{stored(subject, descriptions, step.name, len(step.shape))}; {step.kind}"
    return rows


def _plots(subject: Subject) -> list[Values]:
    """Every picture that can be drawn of a model, or the reason why one is missing, each reason once."""
    if not subject.at_hand:
        reason = "its weights were not fetched" if subject.plan else "an architecture has no weights"
        return [{"heading": "", "reason": f"{subject.name}: nothing to draw, {reason}"}]
    plots: list[Values] = []
    for kind in plotting.drawable(subject):
        try:
            figure = plotting.draw(subject, kind)
        except ArchportError as error:
            plot = {"reason": str(error)}
        else:
            words = " ".join(figure.get_suptitle().split())
            data = base64.b64encode(plotting.drawn(figure, ".svg")).decode("ascii")
            plot = {"reason": "", "title": words, "data": data}
        plots += [plot] if plot not in plots else []
    return [{"heading": "" if number else subject.name} | plot for number, plot in enumerate(plots)]
