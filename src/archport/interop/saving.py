"""Writing a checkpoint into a folder that holds other files, as transformers does."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import ExportError
from ..files.checkpoint import CONFIG, GENERATION

WEIGHTS = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?")


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
            ours = {name for name in names if WEIGHTS.fullmatch(name) or name in (CONFIG, GENERATION)}
            for name in names:
                if name in ours or not (folder / name).exists():
                    (new / name).replace(folder / name)
            for path in folder.iterdir():
                if path.name not in names and WEIGHTS.fullmatch(path.name):
                    path.unlink()
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written: {error.strerror or error}") from None
