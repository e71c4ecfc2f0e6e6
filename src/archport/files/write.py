"""Writing: a file or a folder is complete, or not there at all; nothing is written over unless told so."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from ..errors import ExportError

LONGEST = 255  # bytes of a name, in most file systems
ATTEMPTS = 10  # at a temporary name


def check_target(path: Path, endings: Sequence[str], *, force: bool = False) -> None:
    """Look at the name of a file before anything is computed for it. Raises: ExportError."""
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
    """Write a file, in the place of what is there, when all of its content is written. Raises: ExportError."""
    try:
        with _partial(path) as partial:
            partial.write_bytes(content)
            partial.replace(path)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def whole_file_at(path: Path, needed: int) -> Iterator[Path]:
    """A temporary name beside a file, which is put in its place when all is written.

    `needed` are the bytes that will be written at least. Raises: ExportError.
    """
    try:
        with _partial(path) as partial:
            _require_space(path, path.parent, needed)
            yield partial
            partial.replace(path)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def whole_folder(folder: Path, needed: int, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside the target, renamed to it when all is written.

    The target is new or empty, or with `force` there, and then stays until the new one is whole. `needed` are the
    bytes that will be written at least. Raises: ExportError, and OSError where the disk refuses.
    """
    if not force and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder}: exists already, expected a new or an empty folder, or --force (force=True)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _partial(folder) as partial:
        _require_space(folder, folder.parent, needed)
        partial.mkdir()
        yield partial
        _replace(folder, partial) if force and folder.exists() else partial.rename(folder)


def _require_space(target: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ExportError(f"{target}: found {free} bytes free, expected {needed} for the weights alone")


def _replace(folder: Path, new: Path) -> None:
    """Put a whole folder in the place of another. If the process is killed in between, both are there, none is lost."""
    old = folder.with_name(
        _temporary(folder, uuid4().hex, "replaced")
    )  # which nobody clears up, unlike what is partial
    folder.rename(old)
    try:
        new.rename(folder)
    finally:
        if folder.exists():  # or another process's
            _remove(old)
        else:
            old.rename(folder)


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A free name beside a target, for what is not complete; whatever still has that name at the end is removed.

    What writers to the same target left behind when they were killed is removed first.
    """
    _remove_stale(target)
    with ExitStack() as stack:
        partial = _claimed(target, stack)
        try:
            yield partial
        finally:
            _remove(partial)


def _claimed(target: Path, stack: ExitStack) -> Path:
    """A temporary name that is held until the stack unwinds; another process may take it for stale until it is."""
    for attempt in range(ATTEMPTS):
        partial = target.parent / _temporary(target, uuid4().hex)
        try:
            stack.enter_context(_held(partial))
        except Timeout:
            if attempt + 1 == ATTEMPTS:
                raise
        else:
            break
    return partial


def _temporary(target: Path, tail: str, kind: str = "partial") -> str:
    """What is written for a target is called so until it is complete; names have a limit, in bytes."""
    return f".{target.name.encode()[:100].decode(errors='ignore')}.{kind}-{tail}"


@contextmanager
def _held(partial: Path) -> Iterator[None]:
    """Hold a temporary name while this process lives, so that no other process takes it for stale. Raises: Timeout."""
    lock = FileLock(partial.with_name(f"{partial.name}.lock"), blocking=False)
    path = Path(lock.lock_file)
    with lock:
        if not path.exists():  # another process held it, and has just removed it
            raise Timeout(lock.lock_file)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _remove_stale(target: Path) -> None:
    """Remove what writers to this target left behind when they were killed: no process holds it any more."""
    ours = re.compile(re.escape(_temporary(target, "")) + r"[0-9a-f]{32}(\.lock)?")
    names = {path.name.removesuffix(".lock") for path in target.parent.iterdir() if ours.fullmatch(path.name)}
    for name in names:
        with suppress(OSError, Timeout), _held(target.parent / name):
            _remove(target.parent / name)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
