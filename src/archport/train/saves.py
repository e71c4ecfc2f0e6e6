"""The saves of a run: which there are, what each holds, and how an old one goes."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from .. import port
from ..exporting import export
from ..generation.tokenizers import Tokenizer
from ..interop.saving import filled, to_write
from ..layers import Decoder
from .lora import is_adapted, load_adapter, merged, save_adapter

PARTIAL = ".partial"  # where a save lies while it is written or removed
NAME = re.compile(r"checkpoint-(\d+)")


def saves(out: Path) -> list[Path]:
    """Those in the folder of a run, by their steps. What is there was renamed when whole, so each is whole."""
    named = ((NAME.fullmatch(path.name), path) for path in out.glob("checkpoint-*") if path.is_dir())
    return [path for _, path in sorted((int(found[1]), path) for found, path in named if found)]


def last_save(out: Path) -> Path | None:
    """The one to go on from."""
    there = saves(out)
    return there[-1] if there else None


def steps_of(save: Path) -> int:
    """How many steps were done when it was written."""
    return int(save.name.rpartition("-")[2])


def remove_old(out: Path, keep: int) -> None:
    """Leave so many."""
    for path in saves(out)[:-keep]:
        remove(path)


def remove(save: Path) -> None:
    """Take a save away whole: a process that is killed meanwhile leaves no half of it."""
    away = save.parent / PARTIAL / f"old {save.name}"
    away.parent.mkdir(exist_ok=True)
    shutil.rmtree(save.rename(away), ignore_errors=True)


def write_save(model: Decoder, folder: Path, weights: Mapping[str, Tensor] | None, *, reader: Tokenizer | None) -> None:
    """A save: what transformers reads, and where only adapters are trained, these too. Raises: ExportError."""
    adapted = is_adapted(model)
    written = merged(model) if adapted else model if weights is None else to_write(model, weights, {})
    with filled(folder) as new:
        export(written, new, tokenizer=getattr(reader, "folder", reader) if reader is not None else None)
        if adapted:
            save_adapter(model, new)


def read_save(model: Decoder, folder: Path) -> None:
    """The weights of a save, back into the model. Raises: ArchportError."""
    if is_adapted(model):
        load_adapter(model, folder)
        return
    read = port.load(folder, dtype=model.dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value: Tensor = read.get_parameter(name)
            if isinstance(parameter, DTensor):  # of FSDP2: each process takes its part
                value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
            parameter.copy_(value)
