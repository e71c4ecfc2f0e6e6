"""Runs that are worth repeating, as data: settings, and for each architecture the sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, Any]

_WIDE_128: Values = {"width": 128, "layers": 4, "heads": 4}
_WIDE_192: Values = {"width": 192, "layers": 6, "heads": 6}
# A head of GPT-J is turned whole; the gated MLP of a Llama has three matrices where others have two.
_OWN: Mapping[str, Values] = {"gpt2": {}, "gptj": {"rotary_width": None}, "gpt_neox": {}, "llama": {}}


def _sizes(shared: Values, gated: int) -> Mapping[str, Values]:
    return {arch: {**shared, **own, **({"mlp_width": gated} if arch == "llama" else {})} for arch, own in _OWN.items()}


@dataclass(frozen=True)
class Recipe:
    """What it shows in a line, its settings, and the sizes by architecture where it begins with fresh weights."""

    about: str
    settings: Values
    sizes: Mapping[str, Values] = field(default_factory=dict)


RECIPES: Mapping[str, Recipe] = {
    "shakespeare_char": Recipe(
        "a character a token, from scratch, on a CPU; nanoGPT's README reports a validation loss of 1.88",
        {"tokenizer": "characters", "context": 64, "batch": 12, "steps": 2000, "lr": 1e-3, "min_lr": 1e-4}
        | {"warmup": 100, "beta2": 0.99, "dropout": 0.0, "weight_decay": 0.1, "clip": 1.0, "eval_every": 250},
        _sizes(_WIDE_128, 344),
    ),
    "shakespeare_gpt2_finetune": Recipe(
        "a published checkpoint goes on with a text; nanoGPT's finetune_shakespeare",
        {"source": "openai-community/gpt2", "context": 1024, "batch": 1, "accumulate": 32, "steps": 20}
        | {"lr": 3e-5, "schedule": "constant", "warmup": 0, "eval_every": 5, "save_every": 10, "dropout": 0.0},
    ),
    "demo": Recipe(
        "the bundled checkpoint's own, on any text, with byte pairs learned from it",
        {"tokenizer": "train:2000", "context": 256, "batch": 16, "steps": 1700, "lr": 2e-3, "min_lr": 0.0}
        | {"warmup": 85, "beta2": 0.999, "weight_decay": 0.1},
        _sizes(_WIDE_192, 512),
    ),
}
