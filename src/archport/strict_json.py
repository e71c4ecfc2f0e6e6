"""JSON objects from strangers: of limited size, in UTF-8, and without a key that is there twice."""

import json
import stat
from pathlib import Path
from typing import Any

from .errors import CheckpointError


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """A JSON object from a file of at most `limit` bytes. Raises: CheckpointError for anything else."""
    try:
        regular_file(path)
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > limit:
        raise CheckpointError(f"{path}: found {path.stat().st_size} bytes, expected a JSON file of at most {limit}")
    try:
        value = parse(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a JSON object in UTF-8, found something else: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: found a JSON {type(value).__name__}, expected an object")
    return value


def parse(raw: bytes) -> Any:
    """A JSON value. Raises: ValueError, also for a key that is there twice; RecursionError."""
    return json.loads(raw.decode("utf-8"), object_pairs_hook=_object)


def regular_file(path: Path) -> None:
    """Raises: CheckpointError when there is no file, or a folder, a pipe or a device in its place."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found, expected a file") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise CheckpointError(f"{path}: found {kind}, expected a file")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:60]!r} is there twice")
    return value
