"""A file that a command writes: never over another unless told so, and never half."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import ExportError

LONGEST = 248  # bytes of a name: most file systems take 255, and `write` adds a few


def may_write(file: Path, endings: Sequence[str], *, force: bool = False) -> None:
    """Look at a name before anything is made. Raises: ExportError."""
    if file.suffix.lower() not in endings:
        raise ExportError(f"{file}: expected a name ending in {' or '.join(endings)}")
    if len(file.name.encode()) > LONGEST:
        raise ExportError(f"{file.name[:40]}..: found a name of {len(file.name.encode())} bytes, which is too long")
    if file.is_dir():
        raise ExportError(f"{file}: is a folder")
    if (file.exists() or file.is_symlink()) and not force:
        raise ExportError(f"{file}: is there already: choose another name, or --force")
    if not file.parent.is_dir():
        raise ExportError(f"{file}: cannot be written: there is no folder {file.parent}")


def write(file: Path, content: bytes) -> None:
    """Put a file where it belongs when all of it is written. Raises: ExportError."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(content)
        part.replace(file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ExportError(f"{file}: cannot be written: {error.strerror}") from None
