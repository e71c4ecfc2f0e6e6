"""The writer: config, tensors and companions become a Hugging Face folder, complete or not at all."""

import json
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoint import COMPANIONS, CONFIG
from .errors import ExportError
from .translate import Outgoing


def write_checkpoint(
    folder: Path,
    hf: Mapping[str, Any],
    tensors: Mapping[str, Outgoing],
    companions: Path | None,
    max_shard_size: int | str,
) -> Path:
    """Write everything into a temporary folder beside the target, then rename it.

    Raises: ExportError when the target holds something already or cannot be written; it is then as it was.
    """
    partial = None
    try:
        folder = folder.resolve()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ExportError(f"{folder}: exists already, expected a new or an empty folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        (partial / CONFIG).write_text(json.dumps(hf, indent=2, sort_keys=True) + "\n", "utf-8")
        for name in COMPANIONS:
            if companions and (companions / name).is_file():
                shutil.copyfile(companions / name, partial / name)
        _write_tensors(partial, tensors, max_shard_size)
        # Temporary folders and safetensors files are private; a checkpoint is as readable as its config.
        mode = stat.S_IMODE((partial / CONFIG).stat().st_mode)
        for path in partial.iterdir():
            path.chmod(mode)
        partial.chmod(mode | (mode & 0o444) >> 2)
        partial.rename(folder)
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(f"{folder}: cannot be written: {error}") from None
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial)
    return folder


def _write_tensors(folder: Path, tensors: Mapping[str, Outgoing], max_shard_size: int | str) -> None:
    """One file, or shards of at most that size with their index; the tensors of one file are in memory at a time."""
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.torch import save_file

    if isinstance(max_shard_size, int) and max_shard_size <= 0:
        raise ValueError(f"the largest shard is {max_shard_size} bytes, expected more than 0")
    split = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: tensor.header.bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for name, keys in split.filename_to_tensors.items():
        made = {key: tensors[key].make() for key in keys}
        addresses = Counter(tensor.data_ptr() for tensor in made.values())
        own = {key: tensor.clone() if addresses[tensor.data_ptr()] > 1 else tensor for key, tensor in made.items()}
        save_file(own, folder / name, metadata={"format": "pt"})  # which refuses tensors that share memory
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")
