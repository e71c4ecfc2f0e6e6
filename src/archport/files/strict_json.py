"""JSON objects of untrusted files: of limited size, in UTF-8, and without a key that is there twice."""

import codecs
import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import CheckpointError


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """A JSON object from a file of at most `limit` bytes. Raises: CheckpointError for anything else."""
    try:
        regular_file(path)
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > limit:
        raise CheckpointError(f"{path}: found {path.stat().st_size} bytes, expected at most {limit} of JSON")
    try:
        value = parse(raw)
    except ValueError as error:
        raise CheckpointError(f"{path}: expected a JSON object, found {error}: correct it or fetch it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: found a JSON {type(value).__name__}, expected an object")
    return value


def parse(raw: bytes) -> Any:
    """A JSON value. Raises: ValueError, which says what was found instead."""
    if raw.startswith(codecs.BOM_UTF8):
        raise ValueError("a byte order mark before it")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise ValueError(f"a byte at {error.start} that is not UTF-8") from None
    except RecursionError:
        raise ValueError("brackets nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"something else at line {error.lineno}, column {error.colno}") from None
    except _TwiceError:
        raise
    except ValueError:  # of int()
        raise ValueError("a number of thousands of digits") from None


class _TwiceError(ValueError):
    pass


def regular_file(path: Path) -> None:
    """Raises: CheckpointError when there is no file, or a folder, a pipe or a device in its place."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            get = "get that, as by git annex get or dvc pull"
            link = f"found a link to {path.readlink()}, which is not there"
            raise CheckpointError(f"{path}: {link}, expected a file: {get}") from None
        raise CheckpointError(f"{path}: not found, expected a file") from None
    except OSError as error:  # links in a circle, or through something that is no folder
        raise CheckpointError(
            f"{path}: found something that leads nowhere ({error.strerror}), expected a file"
        ) from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise CheckpointError(f"{path}: found {kind}, expected a file")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise _TwiceError(f"{twice[:60]!r} twice")
    return value
