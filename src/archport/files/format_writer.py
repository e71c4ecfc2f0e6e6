"""Config and tensors become a file of another library: one tensor of it is in memory at a time."""

import json
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Origin
from ..errors import ExportError
from .checkpoint import CONFIG, LITGPT_CONFIG
from .checkpoint_writer import TensorToWrite, check_folder
from .choosing import ENDINGS
from .companions import companions_of, copy_companions
from .one_file import LITGPT
from .write import check_target, whole_file_at, whole_folder
from .yaml_file import as_yaml

OF_TORCH = tuple(ending for ending in ENDINGS if ending != ".safetensors")


def check_place(path: Path, *, folder: bool, force: bool = False) -> None:
    """Look at a target before anything is computed for it: a file, or where one may be, a `folder`.

    Raises: ExportError.
    """
    if folder and not path.suffix:
        check_folder(path, force=force, also=(LITGPT, LITGPT_CONFIG))
        return
    check_target(path, OF_TORCH, force=force)
    if folder:
        check_target(path.with_name(LITGPT_CONFIG), (".yaml",), force=force)


def write_file(
    path: Path,
    tensors: Mapping[str, TensorToWrite],
    same: Mapping[str, str],
    around: Callable[[dict[str, Tensor]], Any],
) -> None:
    """Write a file of torch, of whatever is `around` the tensors. `same` are keys that share the memory of another."""
    with whole_file_at(path, _bytes(tensors)) as partial:
        _write(partial, tensors, same, around)


def write_beside_yaml(
    path: Path, tensors: Mapping[str, TensorToWrite], same: Mapping[str, str], settings: Mapping[str, Any]
) -> None:
    """Write a file of tensors alone and, beside it, its config as YAML."""
    with whole_file_at(path.with_name(LITGPT_CONFIG), 0) as config:
        config.write_text(as_yaml(settings), "utf-8")
        write_file(path, tensors, same, lambda held: held)


def write_folder(
    folder: Path,
    tensors: Mapping[str, TensorToWrite],
    same: Mapping[str, str],
    settings: Mapping[str, Any],
    hf: Mapping[str, Any],
    origin: Origin | None,
    *,
    force: bool = False,
) -> None:
    """Write litgpt's folder: weights, config, and what its tokenizer reads. Raises: ExportError."""
    try:
        with whole_folder(folder, _bytes(tensors), force=force) as new:
            (new / CONFIG).write_text(json.dumps(hf, indent=2, sort_keys=True) + "\n", "utf-8")
            (new / LITGPT_CONFIG).write_text(as_yaml(settings), "utf-8")
            if origin is not None and origin.folder is not None:
                copy_companions(origin.folder, companions_of(origin.folder), new, follow_links=origin.follow_links)
            _write(new / LITGPT, tensors, same, lambda held: held)
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder}: cannot be written: {error}") from None


def _bytes(tensors: Mapping[str, TensorToWrite]) -> int:
    return sum(tensor.header.bytes for tensor in tensors.values())


def _write(
    path: Path,
    tensors: Mapping[str, TensorToWrite],
    same: Mapping[str, str],
    around: Callable[[dict[str, Tensor]], Any],
) -> None:
    """A file with holes first, into which each tensor is then written through a map of it."""
    held = {
        key: torch.empty(tensor.header.shape, dtype=tensor.header.dtype)  # which takes no memory until it is written to
        for key, tensor in tensors.items()
        if key not in same
    }
    order = {key: held[same.get(key, key)] for key in tensors}
    with torch.serialization.skip_data():
        torch.save(around(order), path)
    with path.open("r+b") as file:  # a full disk is an error now, and would end the process later
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        inside: list[dict[str, Tensor]] = []
        _find(torch.load(path, mmap=True, weights_only=True), inside, set(tensors))
    for key in held:
        inside[0][key].copy_(tensors[key].make())


def _find(value: Any, found: list[dict[str, Tensor]], keys: set[str]) -> None:
    """The dictionary with these keys, wherever it lies."""
    if isinstance(value, dict):
        if value.keys() == keys:
            found.append(value)
        else:
            for inner in value.values():
                _find(inner, found, keys)
