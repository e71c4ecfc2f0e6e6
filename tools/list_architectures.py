"""Print the table of docs/architectures.md: a row an architecture. Run by tools/write_docs.py.

Lines of an architecture's two files are those of code and docstrings, without blank lines, and without what is there to
test it with: the assignments to SIZES, VARIANTS, PUBLISHED, FAULTS and to names with an underscore in front.
"""

import ast
import json
from pathlib import Path
from typing import Any

from archport import registry
from archport.mappings import COMMON_REQUIRES
from archport.parity import references
from archport.view.composition import parts

SOURCE = Path("src/archport")
SCORES = Path("docs/kill_scores.json")  # written by tools/count_kills.py
TEST_DATA = ("SIZES", "VARIANTS", "PUBLISHED", "FAULTS")


def main() -> None:
    """Print the table."""
    scores = json.loads(SCORES.read_text())
    rows = [
        ("architecture", "parts that it can have", "lines", "faults noticed, located, named", "refused", "published"),
        ("---",) * 6,
    ]
    for name in registry.architectures():
        arch = registry.architecture(name)
        model, mapping = (lines(SOURCE / room / f"{name}.py") for room in ("models", "mappings"))
        published = "<br>".join(arch.published) or "-"
        refused = "<br>".join(refusals(arch.table.requires)) or "-"
        sizes = (*references.variants(arch).values(), *arch.published.values())
        rows.append(
            (f"`{name}`", parts(arch, sizes), f"{model} + {mapping}", score(scores.get(name)), refused, published)
        )
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))


def lines(file: Path) -> int:
    """The lines of a file that say what an architecture is."""
    text = file.read_text()
    data = {
        number
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and any(map(is_test_data, targets(node)))
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return sum(bool(line.strip()) and number not in data for number, line in enumerate(text.splitlines(), 1))


def targets(node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> list[str]:
    """The names that a statement gives a value."""
    given = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [one.id for one in given if isinstance(one, ast.Name)]


def is_test_data(name: str) -> bool:
    """Whether a name holds what an architecture is tested with."""
    return name in TEST_DATA or name.startswith("_")


def refusals(requires: dict[str, tuple[object, ...]]) -> list[str]:
    """The fields that may have one value, or a few, beside those of every architecture."""
    own = {name.rpartition(".")[2]: allowed for name, allowed in requires.items() if name not in COMMON_REQUIRES}
    return [
        f"`{name}` other than {' or '.join(map(repr, allowed))}" if allowed else f"any `{name}`"
        for name, allowed in sorted(own.items())
    ]


def score(counts: dict[str, Any] | None) -> str:
    """What became of the faults that were planted, in figures."""
    if counts is None:
        return "-"
    halves = {"": counts, "in build: ": counts.get("in_build")}
    return "<br>".join(
        f"{where}{half['noticed']}, {half['located']}, {half['named']} of {half['planted']}"
        for where, half in halves.items()
        if half
    )


if __name__ == "__main__":
    main()
