"""Writing a checkpoint into a folder that holds other files, as transformers does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import ExportError
from ..files.checkpoint import COMPANIONS, GENERATION, SHARD, WEIGHTS


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A new folder whose files, when all are written, go into another, in the place of the weights that are there.

    A tokenizer that is there stays. Raises: ExportError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".partial-", dir=folder) as temporary:
            new = Path(temporary) / "new"
            yield new
            names = {path.name for path in new.iterdir()}
            stay = {name for name in COMPANIONS if name != GENERATION and (folder / name).exists()}
            for name in names - stay:
                (new / name).replace(folder / name)
            for path in folder.iterdir():
                if path.name not in names and (path.name in WEIGHTS or SHARD.fullmatch(path.name)):
                    path.unlink()
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written: {error.strerror or error}") from None
