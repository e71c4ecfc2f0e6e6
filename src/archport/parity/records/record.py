"""What a record says, and the file that it is in."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ...checking import kind, require
from ...errors import ConfigError
from ...files.strict_json import read_json
from .agreeing import contradictions

MOST = 1 << 24  # bytes of a record
SHOWN = 3  # contradictions in a message
SETTINGS = ("dtype", "against", "device", "quick", "packed", "by_block", "compiled")
WORDS = ("name", "against", "dtype", "verdict")  # of a report
FIGURES = ("port_error", "reference_error", "budget")  # of a check


@dataclass(frozen=True, kw_only=True)
class Record:
    """What verify compared and what came out, and all that the verdict rests on.

    `source` is how a checkpoint was named and opened, with the commit that the Hub had; of an architecture it is the
    name. `files` and `code` are SHA-256: of each file of the checkpoint; of the key table, the model's code and the
    sizes of an architecture's tiny models. `settings` are verify's. `not_varied` are the config fields that change the
    mathematics and stood at their default in all that was compared. `reports` are what `Report.to_dict` says; their
    figures differ from machine to machine.

    Raises: ConfigError, naming every field that is wrong.
    """

    record: Literal[1] = 1
    of: Literal["checkpoint", "architecture"]
    source: Mapping[str, str | bool | None]
    architecture: str
    files: Mapping[str, str]
    code: Mapping[str, str]
    versions: Mapping[str, str]
    settings: Mapping[str, str | bool]
    not_varied: list[str]
    reports: list[Any]

    def __post_init__(self) -> None:
        kinds = {name: kind(hint) for name, hint in get_type_hints(type(self)).items()}
        require(self, {name: (one.fits, one.words) for name, one in kinds.items()}, "record")
        rules = {
            "source": (lambda value: isinstance(value.get("name"), str), "an object with a name"),
            "settings": (lambda value: set(value) <= set(SETTINGS), f"an object with some of {', '.join(SETTINGS)}"),
            "reports": (lambda value: value and all(map(_is_report, value)), "one report or more"),
        }
        require(self, rules, "record")

    @property
    def ok(self) -> bool:
        """Whether it was the same model."""
        return all(report["ok"] for report in self.reports)

    def to_json(self) -> str:
        """One JSON object; what holds no lists, as a check, is on a line of its own."""
        return f"{_in_lines(asdict(self))}\n"


def read(path: Path) -> Record:
    """A record from its file.

    Raises: CheckpointError for what is no JSON, ConfigError for what is no record or contradicts itself.
    """
    values = read_json(path, MOST)
    names = {one.name for one in fields(Record)}
    faults = dict.fromkeys(sorted(names - values.keys()), "missing")
    faults |= dict.fromkeys(sorted(values.keys() - names), "no such field")
    if faults:
        raise ConfigError(faults, str(path))
    try:
        record = Record(**values)
        wrong = list(contradictions(record.reports, record.settings))
    except ConfigError as error:
        raise ConfigError(error.faults, str(path)) from None
    if wrong:
        raise ConfigError({"reports": "; ".join(wrong[:SHOWN])}, str(path))
    return record


def _is_report(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("checks"), list):
        return False
    lists = value.get("problems"), value.get("where", [])
    words = all(isinstance(value.get(name), str) for name in WORDS)
    return (
        words and type(value.get("ok")) is bool and all(map(_are_words, lists)) and all(map(_is_check, value["checks"]))
    )


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_check(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or type(value.get("ok")) is not bool:
        return False
    return all(name in value and (value[name] is None or type(value[name]) in (int, float)) for name in FIGURES)


def _in_lines(value: Any, indent: str = "") -> str:
    """JSON with a line for each item of what holds objects or lists."""
    inner = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(value, dict | list) or not any(isinstance(one, dict | list) and one for one in inner):
        return json.dumps(value)
    keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    deeper = f"{indent}  "
    lines = [f"{deeper}{key}{_in_lines(one, deeper)}" for key, one in zip(keys, inner, strict=True)]
    opened, closed = ("{", "}") if isinstance(value, dict) else ("[", "]")
    return "\n".join([opened, ",\n".join(lines), f"{indent}{closed}"])
