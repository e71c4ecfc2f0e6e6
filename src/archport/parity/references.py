"""Reference models to compare with: transformers' own of a checkpoint, or tiny loud ones of every variant."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import SourceError, in_a_line
from ..registry import Architecture, architecture
from ..translate.fields import write_config

# Settings that no accident can match: several rotary pairs, rotary below the head width, heads unequal to head width
# and to three, an MLP that is not four times the width, odd eps. An architecture uses those of its own fields.
SIZES: dict[str, Any] = {
    "vocab_size": 113,
    "context": 43,
    "width": 70,
    "layers": 3,
    "heads": 5,
    "mlp_width": 102,
    "norm_eps": 3e-5,
    "rotary_width": 8,
    "rotary_fraction": 0.6,
    "rotary_base": 9973.0,
}
# Each field that has other values worth a variant, with those values.
VARIANTS: dict[str, tuple[Any, ...]] = {
    "activation": ("gelu", "gelu_tanh", "relu"),
    "tied": (True, False),
    "parallel": (False,),
    "attention_bias": (False,),
    "rotary_fraction": (1.0,),
    "rotary_width": (14,),
    "scale_scores": (False,),
    "scale_scores_by_depth": (True,),
}
LOUD = 0.3  # standard deviation of matrices; norms and biases are uniform in (-1, 1)


def of_folder(folder: Path, dtype: torch.dtype, attention: str) -> nn.Module:
    """transformers' model of a checkpoint folder, with nothing missing. Raises: SourceError when it cannot be built."""
    from transformers import AutoModelForCausalLM

    options = {"torch_dtype": dtype, "attn_implementation": attention, "local_files_only": True}
    with _building(f"{folder}: "):
        model, said = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    if said["missing_keys"]:
        missing = ", ".join(sorted(said["missing_keys"])[:3])
        raise SourceError(f"{folder}: transformers fills what is missing with random numbers: {missing}")
    return model.eval()


def of_config(hf: dict[str, Any], dtype: torch.dtype, attention: str = "eager") -> nn.Module:
    """transformers' model of a parsed config.json. Raises: SourceError when it cannot be built."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with _building():
        config = AutoConfig.for_model(**copy.deepcopy(hf))
        model = AutoModelForCausalLM.from_config(config, torch_dtype=dtype, attn_implementation=attention)
    return model.eval()


def admit(reference: Any) -> None:
    """Take a transformers model with a head as a reference, and nothing else. Raises: SourceError."""
    kind = type(reference).__name__
    if not isinstance(reference, nn.Module) or not hasattr(reference, "config"):
        raise SourceError(f"the reference is a {kind}, expected a transformers model, as GPT2LMHeadModel")
    head: Any = getattr(reference, "get_output_embeddings", lambda: None)
    if head() is None:
        raise SourceError(f"the reference is a {kind}, which has no output head; expected one of the ...ForCausalLM")


def variants(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every variant of an architecture: its name and its fields of ours."""
    arch = architecture(name)
    known = arch.table.config.keys()
    sizes = {field: value for field, value in SIZES.items() if field in known}
    yield arch.name, sizes
    default = arch.config_class(**sizes)
    for field, values in VARIANTS.items():
        meaning = arch.table.field(field)[1] if field in known else {}
        for value in [v for v in values if field in known and (not meaning or v in meaning.values())]:
            if getattr(default, field) != value:
                yield f"{arch.name}, {field} {value}", sizes | {field: value}


def loud(arch: Architecture, sizes: dict[str, Any], attention: str = "eager", seed: int = 0) -> nn.Module:
    """A transformers model of these sizes whose every parameter is redrawn, so that none is too quiet to notice."""
    hf = write_config(arch.table, arch.config_class(**sizes), arch.name, None)
    generator = torch.Generator().manual_seed(seed)
    model = of_config(hf, torch.float32, attention)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-1, 1, generator=generator)
            else:
                parameter.normal_(0, LOUD, generator=generator)
    return model


@contextmanager
def _building(where: str = "") -> Iterator[None]:
    """Keep transformers' own messages and bars off the terminal; what it raises becomes a SourceError."""
    import transformers

    logger = logging.getLogger("transformers")
    level, bars = logger.level, transformers.utils.logging.is_progress_bar_enabled()
    logger.setLevel(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # whatever transformers raises for a config or a file it does not take
        reason = in_a_line(error, 300) or type(error).__name__
        raise SourceError(f"{where}transformers cannot build the reference: {reason}") from None
    finally:
        logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
