"""A model back to files: a folder that transformers loads."""

from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .config import DecoderConfig, dtype_name
from .converting import write_format
from .dtypes import to_dtype
from .errors import ExportError
from .fast.linears import is_swapped
from .files.checkpoint_writer import write_checkpoint
from .files.source import companions
from .files.values import same_bytes
from .generation.tokenizers import read_tokenizer, says_its_class
from .keywords import strict_keywords
from .layers import Decoder
from .registry import Architecture, architecture, skeleton
from .translate.fields import write_config
from .translate.tensors import Outgoing, export_tensors

T = TypeVar("T")


@strict_keywords
def export(
    model: Decoder | nn.Module,
    folder: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    max_shard_size: int | str = "5GB",
    tokenizer: Any = None,
    force: bool = False,
    format: str | None = None,
) -> Path:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads, in `dtype` where given; the folder is returned.

    `model.config` is what is written: change it with the modules. The config fields we do not use,
    generation_config.json and the tokenizer's files come along from the origin; `tokenizer`, one of transformers, of
    tokenizers, a folder or a Hub id, goes before those. The model may be compiled, wrapped to train in parallel, or one
    of `as_transformers`. `force` replaces a checkpoint in that folder once the new one is whole. A `format` makes it
    another library's: "nanogpt" and "transformer_lens" write one file, "litgpt" a folder, or a file with its config
    beside it.

    Raises: ExportError, and leaves the target as it was.
    """
    inner = _inside(model)
    if not isinstance(inner, Decoder) or not isinstance(folder, str | Path):
        types = f"{type(model).__name__} and {type(folder).__name__}"
        raise ExportError(f"found a {types}, expected a Decoder and a folder to export it to")
    model = inner
    _require_plain(model)
    beside: dict[str, Any] = {"tokenizer": _tokenizer(tokenizer), "force": force}
    if format is None:
        hf, tensors = outgoing(model, dtype=dtype)
        return write_checkpoint(Path(folder), hf, tensors, model.origin, max_shard_size, **beside)
    if tokenizer is not None:
        raise ExportError("tokenizer: an export in another format takes along the origin's own, expected none")
    arch, target = architecture(model.architecture), to_dtype(dtype) if dtype is not None else None
    hf, config, parameters = _written(model, arch, target)
    if config.tied:
        parameters["head.weight"] = parameters["embed.tokens.weight"]
    return write_format(Path(folder), format, arch, config, parameters, hf, model.origin, dtype=target, force=force)


def outgoing(
    model: Decoder, *, dtype: torch.dtype | str | None = None, present: Container[str] | None = None
) -> tuple[dict[str, Any], dict[str, Outgoing]]:
    """What `export` writes of a model: its config.json, and its tensors by their keys, each made when asked for.

    Where a tensor may be written under several keys, those `present` go first.

    Raises: ExportError.
    """
    arch, target = architecture(model.architecture), to_dtype(dtype) if dtype is not None else None
    hf, config, parameters = _written(model, arch, target)
    return hf, export_tensors(arch.table, config, parameters, dtype=target, present=present)


def _written(
    model: Decoder, arch: Architecture, dtype: torch.dtype | None
) -> tuple[dict[str, Any], DecoderConfig, dict[str, nn.Parameter]]:
    """The config.json of a model, and the config and parameters that it is of."""
    config, parameters = _exportable(model, arch)
    hf = write_config(arch.table, config, arch.name, model.origin.hf if model.origin else None)
    widest = dtype or reduce(torch.promote_types, {parameter.dtype for parameter in parameters.values()})
    for field in [name for name in ("dtype", "torch_dtype") if name in hf] or ["torch_dtype"]:
        hf[field] = dtype_name(widest)
    return hf, config, parameters


def hf_state_dict(model: Decoder) -> dict[str, Tensor]:
    """A model's tensors under the names of transformers' files; those that lie there as they do here are its own.

    Raises: ExportError.
    """
    _require_plain(model)
    arch = architecture(model.architecture)
    config, parameters = _exportable(model, arch)
    tensors = {key: one.make() for key, one in export_tensors(arch.table, config, parameters).items()}
    if config.tied:
        keys = [arch.table.row(name, config).keys[0] for name in ("head.weight", "embed.tokens.weight")]
        tensors[keys[0]] = tensors[keys[1]]
    return tensors


Decoder.hf_state_dict = hf_state_dict  # type: ignore[method-assign, assignment]  # layers know no tables


def _require_plain(model: Decoder) -> None:
    """Raises: ExportError for a model whose weights are in no layout that files have."""
    if is_swapped(model):
        raise ExportError("the model's linear maps are direct, packed or quantised: export it as loaded without them")
    if model.is_part:
        raise ExportError("found a part of the model in this process, the rest in others, expected all of it in one")


def _tokenizer(given: Any) -> Any:
    """A folder with the files of a tokenizer, or one that can write them. Raises: ExportError."""
    if isinstance(given, str | Path):
        folder = companions(given)
        return folder if says_its_class(folder) else read_tokenizer(folder)
    if given is not None and not any(hasattr(given, name) for name in ("save_pretrained", "save")):
        kinds = "one of transformers or tokenizers, a folder or a Hub id"
        raise ExportError(f"tokenizer: found a {type(given).__name__}, expected {kinds}")
    return given


def _inside(model: Any) -> Any:
    """What torch.compile, torch's parallel training, accelerate, DeepSpeed and `as_transformers` have wrapped."""
    names = "_orig_mod", "module", "decoder"
    while not isinstance(model, Decoder):
        inner = [one for one in (getattr(model, name, None) for name in names) if isinstance(one, nn.Module)]
        if not inner:
            break
        model = inner[0]
    return model


def _own_names(named: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Parameters or buffers by the names they have where no part of the model is compiled."""
    return {name.replace("_orig_mod.", ""): one for name, one in named}


def _exportable(model: Decoder, arch: Architecture) -> tuple[DecoderConfig, dict[str, nn.Parameter]]:
    """The config and the parameters to write, checked against each other; the head is left out where it is tied."""
    parameters = _own_names(model.named_parameters(remove_duplicate=False))
    if empty := [name for name, parameter in parameters.items() if parameter.is_meta]:
        some = f"{len(empty)} of {len(parameters)} parameters are"
        raise ExportError(f"{some} on meta and have no values, expected a model that was loaded or built elsewhere")
    right = skeleton(arch, model.config)
    expected = dict(right.named_parameters(remove_duplicate=False))
    faults = [f"{name} is missing" for name in expected if name not in parameters]
    faults += [f"{name} is not part of {arch.name}" for name in parameters if name not in expected]
    faults += [
        f"{name} is {tuple(parameters[name].shape)}, its config says {tuple(parameter.shape)}"
        for name, parameter in expected.items()
        if name in parameters and parameters[name].shape != parameter.shape
    ]
    faults += [f"{name} is a buffer that has changed, and no key takes it" for name in _changed_buffers(model, right)]
    if faults:
        raise ExportError(f"the model is not what its config says: {'; '.join(faults[:5])}")
    head, embedding = parameters["head.weight"], parameters["embed.tokens.weight"]
    if model.config.tied and (head is embedding or same_bytes(head.detach(), embedding.detach())):
        del parameters["head.weight"]
        return model.config, parameters
    return replace(model.config, tied=False), parameters


def _changed_buffers(model: Decoder, right: Decoder) -> Iterator[str]:
    """The persistent buffers that are not what `build` makes: a file would lose them."""
    buffers, persistent = _own_names(model.named_buffers()), right.state_dict().keys()
    for name, buffer in right.named_buffers():
        if name in persistent and name in buffers and not torch.equal(buffers[name].to(buffer), buffer):
            yield name
