"""The writer: config, tensors and companions become a Hugging Face folder, complete or not at all."""

import json
import re
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from ..errors import ExportError
from ..translate.tensors import Outgoing
from .checkpoint import COMPANIONS, CONFIG, beside


def write_checkpoint(
    folder: Path,
    hf: Mapping[str, Any],
    tensors: Mapping[str, Outgoing],
    companions: Path | None,
    max_shard_size: int | str,
) -> Path:
    """Write a checkpoint into a folder that is new or empty, which is returned.

    Raises: ExportError when the target holds something already or cannot be written, CheckpointError for a companion
    that is a link elsewhere; the target is then as it was.
    """
    with _whole(folder, sum(tensor.header.bytes for tensor in tensors.values())) as new:
        (new / CONFIG).write_text(json.dumps(hf, indent=2, sort_keys=True) + "\n", "utf-8")
        for name in COMPANIONS:
            if companions and (companions / name).exists():
                shutil.copyfile(beside(companions, name), new / name)
        _write_tensors(new, tensors, max_shard_size)
        # Safetensors files are private; a checkpoint is as readable as its config.
        mode = stat.S_IMODE((new / CONFIG).stat().st_mode)
        for path in new.iterdir():
            path.chmod(mode)
    return folder.expanduser().resolve()


@contextmanager
def _whole(folder: Path, needed: int) -> Iterator[Path]:
    """A temporary folder beside the target, renamed to it when all is written, removed when something fails.

    What a killed export to the same target left behind is removed first. `needed` are the bytes of the weights.
    """
    from safetensors import SafetensorError

    partial = None
    try:
        folder = folder.expanduser().resolve()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ExportError(f"{folder}: exists already, expected a new or an empty folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        free = shutil.disk_usage(folder.parent).free
        if needed > free:
            raise ExportError(f"{folder}: found {free} bytes free, expected {needed} for the weights alone")
        partial = folder.parent / _temporary(folder, uuid4().hex)
        with _held(partial):
            partial.mkdir()
            yield partial
            partial.rename(folder)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ExportError(f"{folder}: cannot be written: {error}") from None
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial)


def _temporary(folder: Path, tail: str) -> str:
    """How the temporary folder of an export to a folder is called, beside it; names have a limit."""
    return f".{folder.name[:100]}.partial-{tail}"


@contextmanager
def _held(partial: Path) -> Iterator[None]:
    """Hold a temporary folder while this process lives, so that nobody takes it for stale. Raises: Timeout."""
    lock = FileLock(partial.with_name(f"{partial.name}.lock"), blocking=False)
    with lock:
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    """Remove what exports to this folder left behind when they were killed: nobody holds it any more."""
    ours = re.compile(re.escape(_temporary(folder, "")) + r"[0-9a-f]{32}(\.lock)?")
    left = {path.name.removesuffix(".lock") for path in folder.parent.iterdir() if ours.fullmatch(path.name)}
    for name in left:
        with suppress(OSError, Timeout), _held(folder.parent / name):
            shutil.rmtree(folder.parent / name)


def _write_tensors(folder: Path, tensors: Mapping[str, Outgoing], max_shard_size: int | str) -> None:
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
        made = {key: tensors[key].make() for key in keys}
        addresses = Counter(tensor.data_ptr() for tensor in made.values())
        own = {key: tensor.clone() if addresses[tensor.data_ptr()] > 1 else tensor for key, tensor in made.items()}
        save_file(own, folder / name, metadata={"format": "pt"})  # which refuses tensors that share memory
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")
