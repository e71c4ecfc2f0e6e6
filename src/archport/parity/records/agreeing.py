"""Does a record agree with itself: its verdicts with its checks, these with their figures, all with the settings?"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ...config import dtype_name
from ...dtypes import to_dtype
from ..budget import Check
from ..report import Report


def contradictions(reports: list[Any], settings: Mapping[str, str | bool]) -> Iterator[str]:
    """What reports say that does not follow from their own figures, or was not asked for. Raises: ConfigError."""
    asked = dtype_name(to_dtype(str(settings["dtype"]))) if "dtype" in settings else None
    for said in reports:
        checks = [_check(one) for one in said["checks"]]
        problems, where = tuple(said["problems"]), tuple(said.get("where", ()))
        made = Report(said["name"], said["against"], said["dtype"], tuple(checks), problems=problems, where=where)
        if asked not in (None, said["dtype"]):
            yield f"{made.name} is of {said['dtype']}, the settings of {asked}"
        if not checks and not problems:
            yield f"{made.name} compares nothing"
        for one, check in zip(said["checks"], checks, strict=True):
            if one["ok"] != check.ok:
                off = f"an error of {one['port_error']} within {one['budget']}"
                yield f"{made.name}, {check.name}: found ok {one['ok']} beside {off}"
        if (said["ok"], said["verdict"]) != (made.ok, made.verdict):
            yield f"{made.name}: found {said['verdict']!r} with ok {said['ok']}, its checks say {made.verdict!r}"


def _check(said: Mapping[str, Any]) -> Check:
    """The figures of a line; those that are None were not finite, and held nothing."""
    error, budget = (math.nan if said[name] is None else said[name] for name in ("port_error", "budget"))
    return Check(said["name"], error, 0.0, budget)
