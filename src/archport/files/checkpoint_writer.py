"""Config, tensors and companions become a Hugging Face folder."""

import json
import re
import stat
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..config import Origin
from ..errors import ExportError
from .checkpoint import CONFIG, GENERATION
from .choosing import OF_WEIGHTS
from .companions import TEMPLATES, companions_among, companions_of, copy_companions
from .header import Header
from .write import whole_folder

SHOWN = 5  # names in a message


class TensorToWrite(Protocol):
    """A tensor to write: what its header will say, and how to make it."""

    @property
    def header(self) -> Header:
        """Its shape and dtype."""

    @property
    def make(self) -> Callable[[], Tensor]:
        """A function that makes it."""


def write_checkpoint(
    folder: Path,
    hf: Mapping[str, Any],
    tensors: Mapping[str, TensorToWrite],
    origin: Origin | None,
    max_shard_size: int | str,
    *,
    tokenizer: Any = None,
    force: bool = False,
) -> Path:
    """Write a checkpoint into a folder, which is returned: a new or an empty one, or with `force` an older checkpoint.

    The generation config comes along from the `origin`, and so do the files of its tokenizer unless one is given.

    Raises: ExportError when the target holds something already or cannot be written, CheckpointError for a companion
    that is a link elsewhere; the target is then as it was.
    """
    from safetensors import SafetensorError

    try:
        folder = folder.expanduser().resolve()
        check_folder(folder, force=force)
        with whole_folder(folder, sum(tensor.header.bytes for tensor in tensors.values()), force=force) as new:
            (new / CONFIG).write_text(json.dumps(hf, indent=2, sort_keys=True) + "\n", "utf-8")
            if origin is not None and origin.folder is not None:
                names = [name for name in companions_of(origin.folder) if tokenizer is None or name == GENERATION]
                copy_companions(origin.folder, names, new, follow_links=origin.follow_links)
            _write_tokenizer(new, tokenizer)
            _write_tensors(new, tensors, max_shard_size)
            # Safetensors files are private; a checkpoint is as readable as its config.
            mode = stat.S_IMODE((new / CONFIG).stat().st_mode)
            for path in new.rglob("*"):
                if path.is_file():
                    path.chmod(mode)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ExportError(f"{folder}: cannot be written: {error}") from None
    return folder


def check_folder(folder: Path, *, force: bool = False, also: Collection[str] = ()) -> None:
    """Look at a target before anything is computed for it; what no export writes stays. Raises: ExportError.

    `also` are names of files that one in another format writes.
    """
    try:
        there = folder.exists()
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written: {error.strerror}") from None
    if there and not folder.is_dir():
        raise ExportError(f"{folder}: is a file, expected a folder")
    if names and not force:
        raise ExportError(f"{folder}: exists already, expected a new or an empty folder, or --force (force=True)")
    ours = {CONFIG, TEMPLATES, *also, *companions_among(names)}
    foreign = [name for name in names if name not in ours and not OF_WEIGHTS.fullmatch(name)]
    if foreign:
        others = f"found {', '.join(sorted(foreign)[:SHOWN])}, which no export writes and which would be lost"
        raise ExportError(f"{folder}: {others}: choose another folder, or move them")


def _write_tokenizer(new: Path, tokenizer: Any) -> None:
    """The files of a tokenizer: those of a folder, or what transformers or tokenizers write. Raises: ExportError."""
    if isinstance(tokenizer, Path):
        names = [name for name in companions_of(tokenizer) if name != GENERATION]
        if not names:
            raise ExportError(f"{tokenizer}: no tokenizer found to take along, expected as tokenizer.json")
        copy_companions(tokenizer, names, new)
    elif hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(new)
    elif tokenizer is not None:
        tokenizer.save(str(new / "tokenizer.json"))


def _write_tensors(folder: Path, tensors: Mapping[str, TensorToWrite], max_shard_size: int | str) -> None:
    """One file, or shards of at most that size with their index; the tensors of one file are in memory at a time."""
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.torch import save_file

    if not re.fullmatch(r"[1-9]\d*(\.\d+)?\s*([KMGT]?B)?", str(max_shard_size), re.IGNORECASE):
        raise ValueError(f"the largest shard is {max_shard_size!r}, expected a size as 500MB")
    split = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: tensor.header.bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for name, keys in split.filename_to_tensors.items():
        held = {key: tensors[key].make() for key in keys}
        addresses = Counter(tensor.data_ptr() for tensor in held.values())
        own = {key: tensor.clone() if addresses[tensor.data_ptr()] > 1 else tensor for key, tensor in held.items()}
        save_file(own, folder / name, metadata={"format": "pt"})  # which refuses tensors that share memory
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")
