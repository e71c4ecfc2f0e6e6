"""Two models' trees side by side: a line of both where they have the same part."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from .subjects import Subject
from .trees import as_text, every, tree

LEGEND = "= the same in both, with all it holds: kind, shape, parameters; - has no such part"
COMPARED = ("kind", "shape", "parameters")


def aligned(one: Subject, other: Subject, *, depth: int | None = None) -> list[dict[str, Any]]:
    """A row a part: its row of `tree` in each model, None where one has none, and if both are the same to the last."""
    pairs = [*_pairs(tree(one.model), tree(other.model))]
    depths = [(a or b)["depth"] for a, b in pairs]
    alike = [a is not None and b is not None and all(a[key] == b[key] for key in COMPARED) for a, b in pairs]
    rows = []
    for at, (pair, level) in enumerate(zip(pairs, depths, strict=True)):
        end = next((below for below in range(at + 1, len(pairs)) if depths[below] <= level), len(pairs))
        if depth is None or level <= depth:
            rows.append({"rows": [*pair], "same": all(alike[at:end])})
    return rows


def _pairs(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> Iterator[tuple[Any, Any]]:
    """Rows of the same part together, the others by themselves, in the order of both."""
    ours, theirs = ([every(row["path"]) for row in rows] for rows in (one, other))
    for kind, start, end, begin, stop in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind == "equal":
            yield from zip(one[start:end], other[begin:stop], strict=True)
        else:
            yield from ((row, None) for row in one[start:end])
            yield from ((None, row) for row in other[begin:stop])


def aligned_as_text(row: dict[str, Any]) -> dict[str, str]:
    """A row of `aligned` as people read it: the part, and of each model what it is and how many parameters it has."""
    texts = [as_text(one) if one else {} for one in row["rows"]]
    labels = dict.fromkeys(text["module"] for text in texts if text)
    module = next(iter(labels)) + "".join(f" / {label.strip()}" for label in list(labels)[1:])
    kinds = [f"{text['kind']} {text['shape']}".strip() if text else "-" for text in texts]
    counts = [text.get("parameters", "") for text in texts]
    cells = {"module": module, "one": kinds[0], "parameters": counts[0]}
    return cells | {"same": "=" * row["same"], "other": kinds[1], "parameters of the other": counts[1]}
