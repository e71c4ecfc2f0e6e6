"""A file that a command writes: never over another unless told so, and never half."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import ExportError

LONGEST = 248  # bytes of a name: most file systems take 255, and `whole_file` adds a few


def check_target(path: Path, endings: Sequence[str], *, force: bool = False) -> None:
    """Check a name before anything is made. Raises: ExportError."""
    if path.suffix.lower() not in endings:
        raise ExportError(f"{path}: expected a name ending in {' or '.join(endings)}")
    if len(path.name.encode()) > LONGEST:
        raise ExportError(f"{path.name[:40]}..: found a name of {len(path.name.encode())} bytes, which is too long")
    if path.is_dir():
        raise ExportError(f"{path}: is a folder")
    if (path.exists() or path.is_symlink()) and not force:
        raise ExportError(f"{path}: is there already: choose another name, or --force")
    if not path.parent.is_dir():
        raise ExportError(f"{path}: cannot be written: there is no folder {path.parent}")


def whole_file(path: Path, content: bytes) -> None:
    """Put a file where it belongs when all of it is written. Raises: ExportError."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from None
