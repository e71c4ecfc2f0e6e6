"""Layers of types, of which some have a window and others none."""

from typing import Any

from .other_values import SLIDING
from .subject import TINY, Subject
from .varying import Reading, reading


def with_windows(subject: Subject, base: Reading) -> tuple[Subject, Reading]:
    """The subject at settings that give one layer a window and another none, by their types, where it has such."""
    types = subject.config.get("layer_types")
    if not isinstance(types, list) or "sliding_window" not in subject.config or any(base.program.windows):
        return subject, base
    changes: dict[str, Any] = {"layer_types": [*SLIDING], "sliding_window": TINY["window"]}
    try:
        again = reading(subject, changes)
    except Exception:  # it is somebody else's code, and need not take them
        return subject, base
    return (subject.at(changes), again) if again.program.windows == [True, False] else (subject, base)


def types_of(subject: Subject, base: Reading) -> tuple[str, ...] | None:
    """The types of its layers, where these say which of them have a window, if any."""
    types, windows = subject.config.get("layer_types"), base.program.windows
    if not isinstance(types, list) or not {*types} <= {*SLIDING}:
        return None
    return tuple(types) if [one == SLIDING[0] for one in types] == windows else None
