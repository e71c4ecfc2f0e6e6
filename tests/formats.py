"""Tiny models that other libraries have too, and what a file of one holds, in short."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import archport
from archport.errors import ConfigError
from archport.formats import formats
from archport.registry import architecture
from archport.translate.formats import settings_of

# What a library has not of the sizes that we test with, or has otherwise.
OTHER_SIZES: dict[str, dict[str, Any]] = {
    "qwen2": {"windowed": False},
    "qwen3": {"windowed": False},
    "olmo": {"clip": None},
    "qwen3_moe": {"normalised": True, "sparse_step": 1},
}
IN_FORMAT: dict[str, dict[str, dict[str, Any]]] = {
    "nanogpt": {"gpt2": {"mlp_width": None, "norm_eps": 1e-5, "activation": "gelu"}},
    "transformer_lens": {
        "mistral": {"window": None},
        "mixtral": {"window": None},
        "phi": {"kv_heads": None},
        "phi3": {"rotary_fraction": 1.0},
    },
    "litgpt": {},
}


def sizes(name: str, kind: str) -> dict[str, Any]:
    """The sizes of a tiny model of an architecture that a format can hold."""
    return {**architecture(name).sizes, **OTHER_SIZES.get(name, {}), **IN_FORMAT[kind].get(name, {})}


def common_sizes(name: str) -> dict[str, Any]:
    """The sizes of a tiny model of an architecture that every format with that architecture can hold."""
    found: dict[str, Any] = {}
    for kind, other in of_each():
        found |= sizes(name, kind) if other == name else {}
    for fields in IN_FORMAT.values():
        found |= fields.get(name, {})
    return found


def of_each() -> list[tuple[str, str]]:
    """Every format with every architecture it has."""
    return [(kind, name) for kind, one in formats().items() for name in dict.fromkeys(name for name, _ in one.tables)]


def variants(kind: str, name: str) -> Iterator[dict[str, Any]]:
    """The fields of each tiny model of an architecture that a format can hold."""
    arch, base = architecture(name), sizes(name, kind)
    for fields in ({}, *arch.variants.values()):
        try:
            config = arch.config_class(**{**base, **fields})
        except ConfigError:
            continue
        for table in formats()[kind].tables_of(name):
            try:
                settings_of(table, config, kind)
            except ConfigError:
                continue
            yield {**base, **fields}
            break


def numbered(name: str, fields: Mapping[str, Any]) -> archport.Decoder:
    """A model in which no two numbers are alike, nor zero."""
    model = archport.build(name, architecture(name).config_class(**fields))
    first = 1
    for parameter in model.parameters():
        count = parameter.numel()
        parameter.data = torch.arange(first, first + count, dtype=torch.float32).view(parameter.shape) / 4096
        first += count
    assert first < 1 << 24
    return model.eval()


def loud(name: str, fields: Mapping[str, Any]) -> archport.Decoder:
    """A model whose logits show what its weights are."""
    model = archport.build(name, architecture(name).config_class(**fields))
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The names, shapes and bytes of tensors, in short."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().float().contiguous()
        total.update(f"{key} {tuple(tensor.shape)}".encode())
        total.update(tensor.numpy().tobytes())
    return f"{len(tensors)} tensors, {total.hexdigest()[:16]}"
