"""Published models by Hub id: their architecture and sizes. Source: each model's config.json and card."""

from typing import Any

from ..errors import ConfigError
from ..layers import Decoder
from ..registry import architecture, skeleton


def _gpt2(layers: int, width: int, heads: int) -> tuple[str, dict[str, Any]]:
    return "gpt2", {"vocab_size": 50257, "context": 1024, "layers": layers, "width": width, "heads": heads}


def _neox(layers: int, width: int, heads: int, vocab_size: int = 50304, **more: Any) -> tuple[str, dict[str, Any]]:
    sizes = {"vocab_size": vocab_size, "context": 2048, "layers": layers, "width": width, "heads": heads}
    return "gpt_neox", sizes | more


PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "openai-community/gpt2": _gpt2(12, 768, 12),
    "distilbert/distilgpt2": _gpt2(6, 768, 12),
    "openai-community/gpt2-medium": _gpt2(24, 1024, 16),
    "openai-community/gpt2-large": _gpt2(36, 1280, 20),
    "openai-community/gpt2-xl": _gpt2(48, 1600, 25),
    "EleutherAI/gpt-j-6b": (
        "gptj",
        {"vocab_size": 50400, "context": 2048, "layers": 28, "width": 4096, "heads": 16, "rotary_width": 64},
    ),
    "EleutherAI/gpt-neox-20b": _neox(44, 6144, 64, 50432, activation="gelu_tanh"),
    "EleutherAI/pythia-14m": _neox(6, 128, 4),
    "EleutherAI/pythia-31m": _neox(6, 256, 8),
    "EleutherAI/pythia-70m": _neox(6, 512, 8),
    "EleutherAI/pythia-160m": _neox(12, 768, 12),
    "EleutherAI/pythia-410m": _neox(24, 1024, 16),
    "EleutherAI/pythia-1b": _neox(16, 2048, 8),
    "EleutherAI/pythia-1.4b": _neox(24, 2048, 16),
    "EleutherAI/pythia-2.8b": _neox(32, 2560, 32),
    "EleutherAI/pythia-6.9b": _neox(32, 4096, 32, 50432),
    "EleutherAI/pythia-12b": _neox(36, 5120, 40, 50688),
    "togethercomputer/RedPajama-INCITE-7B-Base": _neox(32, 4096, 32, 50432, parallel=False, rotary_fraction=1.0),
}


def first_of(architecture_name: str) -> tuple[str, dict[str, Any]]:
    """The first published model of an architecture, by its Hub id, and its sizes. Raises: ConfigError."""
    for name, (of, sizes) in PUBLISHED.items():
        if of == architecture_name:
            return name, sizes
    raise ConfigError({"architecture": f"{architecture_name} has no published sizes here: give a folder or a Hub id"})


def skeleton_of(name: str) -> Decoder:
    """A published model on `meta`: its modules and shapes, no weights. Raises: KeyError for a name not listed."""
    architecture_name, sizes = PUBLISHED[name]
    arch = architecture(architecture_name)
    return skeleton(arch, arch.config_class(**sizes))
