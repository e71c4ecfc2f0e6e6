"""What `save_pretrained` writes, and writing it into a folder that holds other files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from ..config import Origin, dtype_name
from ..errors import ExportError, in_a_line
from ..files.checkpoint import CONFIG, GENERATION
from ..files.choosing import OF_WEIGHTS
from ..layers import Decoder
from ..registry import architecture, skeleton
from ..translate.fields import read_config, write_config


def hf_config(model: Decoder) -> dict[str, Any]:
    """What an export of a model writes as its config.json."""
    arch, origin = architecture(model.architecture), model.origin
    hf = write_config(arch.table, model.config, arch.name, origin.hf if origin else None)
    return hf | {"torch_dtype": dtype_name(model.dtype)}


def to_write(model: Decoder, weights: Mapping[str, Tensor] | None, changes: Mapping[str, Any]) -> Decoder:
    """A model to export: with these weights, named as those of its transformers model, and changes of its config.json.

    Raises: ExportError.
    """
    arch = architecture(model.architecture)
    written = copy(model) if weights is None else skeleton(arch, model.config)
    if weights is not None:
        try:
            own = {name.removeprefix("decoder."): weight for name, weight in weights.items()}
            written.load_state_dict(own, assign=True)
        except RuntimeError as error:
            raise ExportError(f"state_dict: {in_a_line(error)}") from None
        written.tie()
    hf = {**hf_config(model), **changes}
    written.config = read_config(arch.table, arch.config_class, hf, "config")[0]
    written.origin = replace(model.origin or Origin("build", {}), hf=hf)
    return written


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A new folder whose files, when all are written, go into another, in the place of the weights that are there.

    A tokenizer that is there stays. Raises: ExportError, and leaves no folder that was not there.
    """
    there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".partial-", dir=folder) as temporary:
            new = Path(temporary) / "new"
            yield new
            names = {path.name for path in new.iterdir()}
            ours = {name for name in names if OF_WEIGHTS.fullmatch(name) or name in (CONFIG, GENERATION)}
            for name in names:
                if name in ours or not (folder / name).exists():
                    (new / name).replace(folder / name)
            for path in folder.iterdir():
                if path.name not in names and OF_WEIGHTS.fullmatch(path.name):
                    path.unlink()
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        if not there:
            with suppress(OSError):  # it is not empty where all went well
                folder.rmdir()
