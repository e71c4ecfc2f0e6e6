"""YAML objects of untrusted files: of limited size, plain values only, and nothing that is there twice."""

from pathlib import Path
from typing import Any

from ..errors import CheckpointError, in_a_line
from .strict_json import regular_file


def read_yaml(path: Path, limit: int) -> dict[str, Any]:
    """A YAML object from a file of at most `limit` bytes. Raises: CheckpointError for anything else."""
    import yaml

    class Plain(yaml.SafeLoader):
        """Without aliases, which make a few bytes stand for gigabytes."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias, which no config needs")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            value = super().construct_mapping(node, deep)
            if len(value) < len(node.value):
                raise yaml.YAMLError("a key that is there twice")
            return value

    regular_file(path)
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > limit:
        raise CheckpointError(f"{path}: found {path.stat().st_size} bytes, expected at most {limit} of YAML")
    try:
        value = yaml.load(raw, Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a YAML object, found {in_a_line(error)}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise CheckpointError(f"{path}: found a YAML {type(value).__name__}, expected an object with names")
    return value
