"""One file of HTML with all there is to see of one model or two: trees, facts, parts, keys, plots, the verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

from ..errors import ArchportError, SourceError
from ..layers import PositionedEmbed
from ..parity import Report
from . import plot
from .beside import LEGEND, MARKS, TINY, Joined, joined
from .diff import RELATIVE, columns, diff, shown, side_by_side, tensors
from .explain import every, explain
from .facts import facts, layout
from .markup import escaped, page, picture, table
from .subject import Subject
from .tree import Line, folded

IN_ALL = "in all"
DRAWN = ("positions", "attention", "spectrum", "norms")
HINT = (
    "Point at a line, or reach it with Tab and the arrow keys: what belongs to it lights up in every tree, and is "
    "explained below. Left and right go to the same part in the next tree, Enter to what explains it, Escape back."
)
NUMBERS = "The number behind a dot counts parameters."


def to_html(subjects: Sequence[Subject], *, verdicts: Iterable[Report] = (), plots: bool = True) -> str:
    """The page of one model, or of two with what differs; `plots` are drawn of those whose weights are at hand.

    Raises: whatever `diff` and `explain` raise.
    """
    names = zip(subjects, columns(subjects), strict=True)
    subjects = [subject if subject.name == name else replace(subject, name=name) for subject, name in names]
    title = " and ".join(subject.name for subject in subjects)
    pairs = [_joined(subject) for subject in subjects]
    sections = {
        "verdict": "".join(_wide(one._repr_html_(), "verdict") for one in verdicts),
        "trees": _trees(subjects, pairs),
        "differences" if len(subjects) > 1 else "facts": _facts(subjects),
        "parts": _parts(subjects, pairs),
        "keys": _keys(subjects),
        "plots": "".join(_plots(subject) for subject in subjects) if plots else "",
    }
    there = {name: text for name, text in sections.items() if text}
    links = " ".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in there)
    body = "".join(
        f'<section id="{name}">\n<h2>{name.capitalize()}</h2>\n{text}</section>\n' for name, text in there.items()
    )
    said = "".join(f"<p>{escaped(_what(subject))}</p>\n" for subject in subjects)
    script = files(__package__).joinpath("page.js").read_text("utf-8")
    head = f"<header>\n<h1>{escaped(title)}</h1>\n{said}<nav>{links}</nav>\n</header>\n"
    return page(f"archport: {title}", f"{head}<main>\n{body}</main>\n", script=script)


def _what(subject: Subject) -> str:
    count = sum(parameter.numel() for parameter in subject.model.parameters())
    like = f", at the sizes of {subject.like}" if subject.like else ""
    return f"{subject.name}: {subject.architecture.name}, {count:,} parameters{like}"


# --- the trees ---


def _joined(subject: Subject) -> Joined:
    """The two trees, or ours alone where there is no reference; what kept it away is all that theirs says."""
    try:
        return joined(subject)
    except SourceError as error:
        alone = Line("", "no tree to compare with", 1, str(error), "", 0)
        ours = list(folded(subject.model))
        return Joined(ours, [alone], {}, dict.fromkeys((line.path for line in ours), ""), {"": ""})


def _trees(subjects: Sequence[Subject], pairs: Sequence[Joined]) -> str:
    made = []
    for number, (subject, pair) in enumerate(zip(subjects, pairs, strict=True)):
        parts = {theirs: every(ours) for ours, paths in pair.joins.items() for theirs in paths}
        names = {line.path: every(line.path) for line in pair.ours}
        ours = _tree(f"{subject.name} in archport", pair.ours, names, pair.marks)
        theirs = _tree(f"{subject.name} in transformers", pair.theirs, parts, pair.their_marks)
        # Of two models ours are side by side in the middle.
        made += [ours, theirs] if number or len(subjects) == 1 else [theirs, ours]
    tiny = "".join(f"; {escaped(subject.name)}: {TINY}" for subject in subjects if not subject.at_hand)
    return (
        f"<p data-script hidden>{HINT}</p>\n"
        f'<div class="trees">\n{"".join(made)}</div>\n<p id="lit" role="status" data-script hidden></p>\n'
        '<div id="about" role="region" tabindex="0" aria-label="what is lit" data-script hidden></div>\n'
        f'<p class="soft">{NUMBERS} {LEGEND}{tiny}</p>\n'
    )


def _tree(title: str, lines: Sequence[Line], parts: Mapping[str, str], marks: Mapping[str, str]) -> str:
    items = []
    for number, line in enumerate(lines):
        name = parts.get(line.path)
        mark = marks[line.path]
        tone = "wrong" if mark == "!" else "soft"
        said = f'&nbsp;<abbr class="{tone}" title="{MARKS[mark]}">{mark}</abbr>' if mark else ""
        count = f" &middot;&nbsp;{line.parameters:,}" if line.parameters else ""
        rest = " ".join(filter(None, (line.kind, line.shape)))
        items.append(
            f'<li role="treeitem" aria-level="{line.depth}" tabindex="{-1 if number else 0}"'
            + (f' data-part="{escaped(name)}"' if name else "")
            + f'>{escaped(line.label)} <span class="soft">{escaped(rest)}{count}</span>{said}</li>\n'
        )
    return (
        f"<div><h3>{escaped(title)}</h3>\n"
        f'<ul role="tree" aria-multiselectable="true" aria-label="{escaped(title)}">\n{"".join(items)}</ul></div>\n'
    )


# --- facts, parts, keys ---


def _facts(subjects: Sequence[Subject]) -> str:
    if len(subjects) == 1:
        return _wide(table([fact._asdict() for fact in facts(subjects[0])]), "facts")
    rows = diff(subjects)
    cells = [cell | {IN_ALL: _mark(row)} for cell, row in zip(side_by_side(subjects, rows), rows, strict=True)]
    box = '<p class="controls"><label><input type="checkbox" id="differing"> only what differs</label></p>\n'
    return box + _wide(table(cells, attributes=[_class(row) for row in rows]), "differences") + _tensors(subjects)


def _tensors(subjects: Sequence[Subject]) -> str:
    """How far the tensors of two checkpoints of one architecture are apart, where both are at hand."""
    rows = list(tensors(*subjects))
    if not rows:
        return ""
    cells = [shown(row) | {IN_ALL: _mark(row)} for row in rows]
    differ = sum(not row["same"] for row in rows)
    said = f"{differ} of {len(rows)} tensors differ; relative is {RELATIVE}"
    found = table(cells, caption=said, attributes=[_class(row) for row in rows])
    return "<h3>Tensor by tensor</h3>\n" + _wide(found, "tensors")


def _parts(subjects: Sequence[Subject], pairs: Sequence[Joined]) -> str:
    told = [{row["path"]: row for row in explain(subject)} for subject in subjects]
    names = dict.fromkeys(name for rows in told for name in rows)
    articles = []
    for name in names:
        said = [
            _part(subject, pair, rows[name], several=len(subjects) > 1)
            for subject, pair, rows in zip(subjects, pairs, told, strict=True)
            if name in rows
        ]
        head = f'<article data-part="{escaped(name)}">\n<h3>{escaped(name)}</h3>\n'
        articles.append(f'{head}<div class="each">\n{"".join(said)}</div></article>\n')
    return "".join(articles)


def _part(subject: Subject, pair: Joined, row: Mapping[str, Any], *, several: bool) -> str:
    number = f", {row['count']} of them" if row["count"] > 1 else ""
    paths = [line.path for line in pair.ours if every(line.path) == row["path"]]
    joins = [
        f"in transformers: {' + '.join(map(every, pair.joins[path]))}: {MARKS[pair.marks[path]]}"
        for path in paths
        if path in pair.joins
    ]
    head = f"{subject.name + ': ' if several else ''}{row['kind']}{number}"
    source = f" ({row['source']})" if row["source"] else ""
    items = [
        f"<li><code>{escaped(tensor['name'].rpartition('.')[2])} {escaped(tuple(tensor['shape']))}</code>: "
        f"<code>{escaped(' + '.join(tensor['keys']))}</code>, {escaped(tensor['stored'])}</li>\n"
        for tensor in row["tensors"]
    ]
    lines = [
        *(f'<p class="soft">{escaped(line)}</p>\n' for line in dict.fromkeys((head, *joins))),
        f"<p>{escaped(row['text'] + source)}</p>\n",
    ]
    return f"<div>{''.join(lines)}{'<ul>' + ''.join(items) + '</ul>' if items else ''}</div>\n"


def _keys(subjects: Sequence[Subject]) -> str:
    rows: dict[str, dict[str, str]] = {}
    empty: dict[str, str] = {"ours": ""}
    for subject, name in zip(subjects, columns(subjects), strict=True):
        titles = {key: f"{name}: {key}" if len(subjects) > 1 else key for key in ("shape", "theirs", "how")}
        empty |= dict.fromkeys(titles.values(), "")
        for found in _key_table(subject):
            key = found["ours"] if found["ours"] != "-" else f"- {found['theirs']}"
            row = rows.setdefault(key, {"ours": found["ours"]})
            row |= {title: found[column] for column, title in titles.items()}
    box = (
        '<p class="controls" data-script hidden><label for="filter">filter</label> <input type="search" id="filter" '
        'placeholder="words of a name, as attn c_proj"> <output id="count" for="filter"></output></p>\n'
    )
    named = [f'data-part="{escaped(every(row["ours"].rpartition(".")[0]))}"' for row in rows.values()]
    return box + _wide(table([empty | row for row in rows.values()], attributes=named), "key table")


def _key_table(subject: Subject) -> list[dict[str, str]]:
    """A row a tensor: of a checkpoint by its plan, of an architecture by its key table."""
    known = subject.architecture.table

    def stored(name: str, ndim: int) -> str:
        return layout(known.row(name), ndim, fused=".attn.qkv." in name)

    if subject.plan is None:
        return [
            {
                "ours": name,
                "shape": str(tuple(parameter.shape)),
                "theirs": " + ".join(known.row(name).keys),
                "how": stored(name, parameter.ndim),
            }
            for name, parameter in subject.model.named_parameters()
        ]
    rows = subject.plan.key_table
    for step, row in zip(subject.plan.steps, rows, strict=True):
        if step.name and step in subject.plan.mapped:
            row["how"] = f"{stored(step.name, len(step.shape))}; {step.kind}"
    return rows


# --- plots ---


def _plots(subject: Subject) -> str:
    if not subject.at_hand:
        reason = "its weights were not fetched" if subject.plan else "an architecture has no weights"
        return f'<p class="soft">{escaped(subject.name)}: nothing to draw, {reason}</p>\n'
    learned = isinstance(subject.model.embed, PositionedEmbed)
    drawn = [_plot(subject, kind) for kind in DRAWN if learned or kind != "positions"]
    return f"<h3>{escaped(subject.name)}</h3>\n" + "".join(dict.fromkeys(drawn))  # several may lack the same


def _plot(subject: Subject, kind: str) -> str:
    """A plot, or why there is none."""
    try:
        figure = plot.plot(subject, kind)
    except ArchportError as error:
        return f'<p class="soft">{escaped(error)}</p>\n'
    title = " ".join(figure.get_suptitle().split())
    return _wide(picture(plot.drawn(figure, ".svg"), title), title)


# --- how it is written ---


def _mark(row: Mapping[str, Any]) -> str:
    return "same" if row["same"] else "differs"


def _class(row: Mapping[str, Any]) -> str:
    return f'class="{_mark(row)}"'


def _wide(inner: str, label: str) -> str:
    """What may be wider than a phone scrolls by itself, by keyboard too."""
    return f'<div class="wide" role="region" aria-label="{escaped(label)}" tabindex="0">\n{inner}</div>\n'
