"""Config, tensors and companions become a Hugging Face folder."""

import json
import re
import shutil
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..errors import AsideWarning, ExportError
from .checkpoint import CONFIG, companion, companions_of
from .header import Header
from .write import whole_folder


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
    companions: Path | None,
    max_shard_size: int | str,
) -> Path:
    """Write a checkpoint into a folder that is new or empty, which is returned.

    Raises: ExportError when the target holds something already or cannot be written, CheckpointError for a companion
    that is a link elsewhere; the target is then as it was.
    """
    from safetensors import SafetensorError

    try:
        folder = folder.expanduser().resolve()
        with whole_folder(folder, sum(tensor.header.bytes for tensor in tensors.values())) as new:
            (new / CONFIG).write_text(json.dumps(hf, indent=2, sort_keys=True) + "\n", "utf-8")
            for name in _taken_along(companions):
                (new / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(companion(companions or folder, name), new / name)
            _write_tensors(new, tensors, max_shard_size)
            # Safetensors files are private; a checkpoint is as readable as its config.
            mode = stat.S_IMODE((new / CONFIG).stat().st_mode)
            for path in new.rglob("*"):
                if path.is_file():
                    path.chmod(mode)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ExportError(f"{folder}: cannot be written: {error}") from None
    return folder


def _taken_along(companions: Path | None) -> list[str]:
    if companions is None or companions.is_dir():
        return companions_of(companions) if companions else []
    warnings.warn(AsideWarning(f"{companions}: is gone, so that no tokenizer is taken along"), stacklevel=5)
    return []


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
