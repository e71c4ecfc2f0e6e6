"""The verdict of a verification: for people and for programs."""

import json
import math
from dataclasses import dataclass
from typing import Any

from .budget import Check
from .diagnose import Diagnosis

SHOWN = 5  # problems in the verdict
HEADINGS = ("compared", "port error", "reference error", "ratio", "budget", "verdict", "detail")


@dataclass(frozen=True)
class Report:
    """What was compared and what came out; `ok` is the verdict, `fault` the diagnosis where it is not.

    `never_varied` are the fields of an architecture that its tiny models leave at their defaults, so that no line shows
    what they do. `not_run` are the lines of a port that a person's own module has no way to be asked for.
    `where` are the fields of which it says nothing at other values, as a module of one's own never asks for them.
    `notes` are lines on what is unlike and yet makes no other model.
    """

    name: str
    against: str
    dtype: str
    checks: tuple[Check, ...]
    fault: Diagnosis | None = None
    problems: tuple[str, ...] = ()
    never_varied: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    where: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every line is within its budget and nothing kept a line from being drawn."""
        return not self.problems and all(check.ok for check in self.checks)

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        failed = sum(not check.ok for check in self.checks)
        if self.ok:
            where = f", where {', '.join(self.where)}: it asks for none of these" if self.where else ""
            of_all = f"by all {len(self.checks)} checks{where}"
            return f"{self.name}: the same model as {self.against} in {self.dtype}, {of_all}"
        more = len(self.problems) - SHOWN
        listed = [*self.problems[:SHOWN], *([f"and {more} more like these"] if more > 0 else [])]
        reasons = [*listed, *([f"{failed} of {len(self.checks)} checks fail"] if failed else [])]
        return f"{self.name}: NOT the same model as {self.against} in {self.dtype}: {'; '.join(reasons)}"

    @property
    def remarks(self) -> list[str]:
        """Lines beside the verdict: where and what is wrong, and what was not looked at."""
        found = [self.fault.words] if self.fault and self.fault.words not in self.problems else []
        left_out = {"never varied": self.never_varied, "not run": self.not_run}
        return [*found, *self.notes, *(f"{what}: {', '.join(names)}" for what, names in left_out.items() if names)]

    def rows(self) -> list[tuple[str, ...]]:
        """The lines as text, under HEADINGS."""
        return [
            (
                check.name,
                f"{check.port_error:.2g}",
                f"{check.reference_error:.2g}",
                f"{check.ratio:.2f}",
                f"{check.budget:.2g}",
                "ok" if check.ok else "FAILS",
                check.detail,
            )
            for check in self.checks
        ]

    def __str__(self) -> str:
        table = [HEADINGS, *self.rows()]
        widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        return "\n".join([*lines, *self.remarks, self.verdict])

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain values; numbers that are not finite are None."""
        checks: list[dict[str, Any]] = [
            {
                "name": check.name,
                "port_error": _finite(check.port_error),
                "reference_error": _finite(check.reference_error),
                "budget": _finite(check.budget),
                "ok": check.ok,
                "part": check.part,
                "note": check.note,
            }
            for check in self.checks
        ]
        fault = self.fault and {
            "place": self.fault.place,
            "name": self.fault.fault.name if self.fault.fault else None,
            "words": self.fault.words,
            "ruled_out": list(self.fault.ruled_out),
        }
        top = {"name": self.name, "against": self.against, "dtype": self.dtype, "ok": self.ok, "verdict": self.verdict}
        beside = {
            "problems": list(self.problems),
            "never_varied": list(self.never_varied),
            "not_run": list(self.not_run),
            "notes": list(self.notes),
            "where": list(self.where),
        }
        return top | beside | {"checks": checks, "fault": fault}

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    def to_markdown(self) -> str:
        """A page in Markdown."""
        rows = [HEADINGS, ("---",) * len(HEADINGS), *self.rows()]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        paragraphs = "".join(f"\n\n{line}" for line in self.remarks)
        return f"# {self.name}\n\n{self.verdict}{paragraphs}\n\n{table}\n"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
