"""YAML objects of untrusted files: of limited size, plain values only, and nothing that is there twice."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, in_a_line
from .strict_json import regular_file

MAX_YAML = 1 << 16  # bytes, far above any config
MAX_BRACKETS = 500  # of which parsing takes the longer the more are open


def read_yaml(path: Path, limit: int = MAX_YAML) -> dict[str, Any]:
    """A YAML object from a file of at most `limit` bytes. Raises: CheckpointError for anything else."""
    import yaml

    regular_file(path)
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > limit:
        raise CheckpointError(f"{path}: found {path.stat().st_size} bytes, expected at most {limit} of YAML")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if max(map(raw.count, (b"[", b"{", b"- -"))) > MAX_BRACKETS:
            raise ValueError("brackets nested too deeply")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(raw, loader)):
            raise ValueError("an alias, by which a few bytes may stand for gigabytes")
        if (node := yaml.compose(raw, loader)) is not None:
            _check_names(node)
        value = yaml.load(raw, loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a YAML object, found {in_a_line(error)}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise CheckpointError(f"{path}: found a YAML {type(value).__name__}, expected an object with names")
    return value


def as_yaml(value: Mapping[str, Any]) -> str:
    """A JSON object as YAML."""
    import yaml

    return str(yaml.safe_dump(json.loads(json.dumps(value))))  # a copy, of which no part is there twice


def _check_names(node: Any) -> None:
    """Raises: ValueError for an object with a key that is there twice."""
    inner = node.value if isinstance(node.value, list) else []
    if node.id == "mapping":
        counts = Counter(str(key.value) for key, _ in inner)
        if twice := [key for key, count in counts.items() if count > 1]:
            raise ValueError(f"{twice[0][:60]!r} twice")
        inner = [value for _, value in inner]
    for one in inner:
        _check_names(one)
