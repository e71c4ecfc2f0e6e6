"""The model that a run begins with: fresh weights, or those of a checkpoint."""

from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import combinations
from typing import Any

from .. import port
from ..config import DecoderConfig, Origin
from ..dialects import config_of
from ..errors import ConfigError, TrainingError
from ..files.source import source_named
from ..generation.tokenizers import Tokenizer
from ..interop.saving import hf_config
from ..layers import Decoder
from ..registry import architecture, skeleton
from .settings import Settings

SMALL = {"width": 128, "layers": 4, "heads": 4}  # unless told otherwise
RATES = ("embed_dropout", "attention_dropout", "residual_dropout")
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def fresh_model(settings: Settings, vocab_size: int, tokenizer: Tokenizer | None) -> Decoder:
    """One with weights drawn as its architecture draws them. Raises: ConfigError."""
    sizes = _sizes(settings, {"vocab_size": vocab_size, "context": settings.context})
    if sizes["context"] < settings.context:
        raise TrainingError(f"context: found blocks of {settings.context}, but a context of {sizes['context']}")
    model = port.build(settings.arch or "", sizes)
    # Or its file would name tokens of the class's own vocabulary, which may be far above this one.
    end = getattr(getattr(tokenizer, "own", None), "eos_token_id", None)
    model.origin = Origin("build", {**hf_config(model), **dict.fromkeys(ENDS, end)})
    return model


def _sizes(settings: Settings, of_data: Mapping[str, int]) -> dict[str, Any]:
    """Those that were given, for the rest small ones, and what an architecture has of its own as its tests have it.

    Raises: ConfigError for what no small model of it can be.
    """
    arch = architecture(settings.arch or "")
    general = {one.name for one in fields(DecoderConfig)}
    own = {name: value for name, value in arch.sizes.items() if name not in general}
    tried: tuple[dict[str, Any], ...] = ({}, own, own | {"layers": arch.sizes.get("layers", SMALL["layers"])})
    faults: list[ConfigError] = []
    for more in tried:
        sizes = {**of_data, **SMALL, **more, **settings.sizes}
        try:
            config_of(arch, sizes)
            return sizes
        except ConfigError as error:
            faults.append(error)
    raise faults[0]


def loaded_model(settings: Settings) -> Decoder:
    """One from a checkpoint, with memory of its own, in float32. Raises: ArchportError."""
    model = port.load(source_named(settings.source), copy=True, dtype="float32")
    if settings.context > model.config.context:
        found = f"context: found blocks of {settings.context}"
        raise TrainingError(f"{found}, expected up to {model.config.context}, the context of {settings.source}")
    return model


def set_dropout(model: Decoder, rate: float) -> Decoder:
    """The same weights with other rates: all that the architecture's files can say. Raises: ConfigError."""
    arch = architecture(model.architecture)
    for count in range(len(RATES), 0, -1):
        for names in combinations(RATES, count):
            try:
                rates: dict[str, Any] = dict.fromkeys(names, rate)
                changed = skeleton(arch, replace(model.config, **rates))
            except ConfigError:
                continue
            changed.load_state_dict(model.state_dict(), assign=True)
            changed.tie()
            for one in changed.parameters():
                one.requires_grad_(True)
            changed.origin = model.origin
            return changed
    if rate:
        raise ConfigError({"dropout": f"found {rate}, but {arch.name} has none"}, "train")
    return model
