"""Reference models to compare with: transformers' own of a checkpoint, or tiny loud ones of every variant."""

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, SourceError, in_a_line
from ..generation.sampling import Sampling
from ..layers import Decoder
from ..registry import Architecture
from ..translate.fields import write_config

TOKENS = 12  # on which two ways to attend are compared
APART = 1e-3  # of the largest logit, in float32: no two ways to round differ by so much
LOUD = 0.3  # standard deviation of matrices; norms and biases are uniform in (-1, 1)


def of_folder(folder: Path, dtype: torch.dtype, attention: str, variant: str | None = None) -> nn.Module:
    """transformers' model of a checkpoint folder, with nothing missing. Raises: SourceError when it cannot be built."""
    from transformers import AutoModelForCausalLM

    options = {"torch_dtype": dtype, "attn_implementation": attention, "local_files_only": True, "variant": variant}
    with building(f"{folder}: "):
        model, account = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    if account["missing_keys"]:
        missing = ", ".join(sorted(account["missing_keys"])[:3])
        raise SourceError(f"{folder}: transformers fills what is missing with random numbers: {missing}")
    return with_attention_that_agrees(with_plain_experts(model.eval()))


def of_tensors(port: Decoder, dtype: torch.dtype, attention: str) -> nn.Module:
    """transformers' model of a port whose checkpoint it does not read, with the port's tensors under its names.

    Raises: SourceError when it cannot be built.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    hf = dict(port.origin.hf) if port.origin else {}
    options: dict[str, Any] = {"torch_dtype": dtype, "attn_implementation": attention}
    with building():
        config = AutoConfig.for_model(**copy.deepcopy(hf))
        # What is made of it must share nothing with the port.
        tensors = {key: tensor.detach().clone() for key, tensor in port.hf_state_dict().items()}
        kind = AutoModelForCausalLM._model_mapping[type(config)]
        model, account = kind.from_pretrained(
            None, config=config, state_dict=tensors, output_loading_info=True, **options
        )
    if account["missing_keys"]:
        missing = ", ".join(sorted(account["missing_keys"])[:3])
        raise SourceError(f"transformers fills what is missing with random numbers: {missing}")
    return with_attention_that_agrees(with_plain_experts(model.eval()))


def of_config(hf: dict[str, Any], dtype: torch.dtype, attention: str = "eager") -> nn.Module:
    """transformers' model of a parsed config.json. Raises: SourceError when it cannot be built."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with building():
        config = AutoConfig.for_model(**copy.deepcopy(hf))
        model = AutoModelForCausalLM.from_config(config, torch_dtype=dtype, attn_implementation=attention)
    return with_plain_experts(model.eval())


def config_as_read(hf: dict[str, Any]) -> dict[str, Any]:
    """All fields of a config, as transformers has them once it has read a config.json. Raises: SourceError."""
    from transformers import AutoConfig

    with building():
        fields: dict[str, Any] = AutoConfig.for_model(**copy.deepcopy(hf)).to_dict()
    return fields


def with_plain_experts(model: Any) -> Any:
    """A transformers model whose experts run as written, in versions that have other ways, which refuse float64."""
    if getattr(getattr(model, "config", None), "_experts_implementation", None) not in (None, "eager"):
        model.set_experts_implementation("eager")
    return model


def empty_cache() -> Any:
    """What the reference keeps keys and values in."""
    from transformers import DynamicCache

    return DynamicCache()


def choices(how: Sampling, ids: Tensor, logits: Tensor) -> Tensor:
    """The probabilities (batch, vocab_size) that transformers draws the next token by, each step a class of its own.

    Source: the order of `GenerationMixin._get_logits_processor`.
    """
    from transformers.generation import logits_process

    steps: list[tuple[str, float, bool]] = [
        ("RepetitionPenaltyLogitsProcessor", how.repetition_penalty, how.repetition_penalty != 1),
        ("TemperatureLogitsWarper", float(how.temperature), how.temperature != 1),
        ("TopKLogitsWarper", how.top_k, how.top_k > 0),
        ("TopPLogitsWarper", how.top_p, how.top_p < 1),
        ("MinPLogitsWarper", how.min_p, how.min_p > 0),
    ]
    for name, value, asked in steps:
        if asked:
            logits = getattr(logits_process, name)(value)(ids, logits)
    return logits.softmax(-1)


def ends(reference: Any, vocab_size: int) -> set[int]:
    """The ids at which the reference ends a text."""
    value = getattr(getattr(reference, "generation_config", None), "eos_token_id", None)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    return {token for token in ids if 0 <= token < vocab_size}


def _is_5_or_later() -> bool:
    import transformers

    return int(transformers.__version__.partition(".")[0]) >= 5


def require_reference(reference: Any) -> None:
    """Take a transformers model with a head as a reference, and nothing else. Raises: SourceError."""
    kind = type(reference).__name__
    if not isinstance(reference, nn.Module) or not hasattr(reference, "config"):
        raise SourceError(f"the reference is a {kind}, expected a transformers model, as GPT2LMHeadModel")
    head: Any = getattr(reference, "get_output_embeddings", lambda: None)
    if head() is None:
        raise SourceError(f"the reference is a {kind}, which has no output head; expected one of the ...ForCausalLM")


def variants(arch: Architecture) -> dict[str, dict[str, Any]]:
    """The fields of each tiny model of an architecture, by its name. Raises: ConfigError where it has no sizes."""
    if not arch.sizes:
        wanted = "found none, expected those of a tiny model: SIZES of its module or register(sizes=...)"
        raise ConfigError({"sizes": wanted}, f"architecture {arch.name}")
    different = {f"{arch.name}, {name}": {**arch.sizes, **changes} for name, changes in arch.variants.items()}
    return {arch.name: dict(arch.sizes)} | different


def never_varied(arch: Architecture) -> list[str]:
    """Config fields that change the mathematics and that sizes and variants leave at their default: not verified."""
    return left_at_default(arch, variants(arch).values())


def left_at_default(arch: Architecture, models: Iterable[Mapping[str, Any]]) -> list[str]:
    """Config fields that change the mathematics and that none of the models, each as fields of ours, has changed."""
    defaults = {field.name: field.default for field in fields(arch.config_class)}
    models = list(models)
    return [
        name
        for name in arch.table.config
        if name != "init_std"
        and not name.endswith("_dropout")  # which act on fresh weights and in train mode only
        and len(set(arch.table.field(name).values.values())) != 1  # the only value there is
        and all(given.get(name, defaults[name]) == defaults[name] for given in models)
    ]


def with_dropout(arch: Architecture, sizes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """These sizes with dropout, at rates that differ, at one rate, or at none where neither library takes any."""
    names = [name for name in arch.table.config if name.endswith("_dropout")]
    for rates in ({name: 0.1 * at for at, name in enumerate(names, 1)}, dict.fromkeys(names, 0.1)):
        with suppress(ConfigError):
            arch.config_class(**{**rates, **sizes})
            yield {**rates, **sizes}
    yield sizes


def loud(arch: Architecture, sizes: dict[str, Any], attention: str = "eager", seed: int = 0) -> nn.Module:
    """A transformers model of these sizes whose every weight is redrawn, so that none is too quiet to notice."""
    hf = write_config(arch.table, arch.config_class(**sizes), arch.name, None)
    generator = torch.Generator().manual_seed(seed)
    model = of_config(hf, torch.float32, attention)
    with torch.no_grad():
        for weight in (*model.parameters(), *saved_buffers(model).values()):
            if weight.ndim == 1:
                weight.uniform_(-1, 1, generator=generator)
            else:
                weight.normal_(0, LOUD, generator=generator)
    return with_attention_that_agrees(model)


@torch.no_grad()
def with_attention_that_agrees(model: Any) -> nn.Module:
    """The model, or, where its eager attention is another function than transformers' default one, with that.

    Falcon's adds ALiBi in the mask and once more in attention, from transformers 5 on; before, each way was a class.
    """
    if model.config._attn_implementation == "eager" and getattr(model.config, "alibi", False) and _is_5_or_later():
        tokens = min(TOKENS, getattr(model.config, "max_position_embeddings", TOKENS))
        ids = torch.arange(tokens, device=model.device)[None] % model.config.vocab_size
        eager = model(ids, use_cache=False).logits
        limit = APART if eager.dtype == torch.float32 else 100 * APART
        model.config._attn_implementation = "sdpa"
        try:
            apart = (model(ids, use_cache=False).logits - eager).abs().max() / eager.abs().max()
        except Exception:  # it is the reference's code, and may lack what eager attention has, as caps
            apart = torch.zeros(())
        if not apart > limit:
            model.config._attn_implementation = "eager"
    return model


def saved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that a checkpoint holds: weights that no gradient trains, as a router's preferences."""
    state = model.state_dict()
    return {name: one for name, one in model.named_buffers() if name in state and one.is_floating_point()}


@contextmanager
def building(where: str = "") -> Iterator[None]:
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
        if isinstance(error, SystemError):
            reason += ", as Python says where there is no memory left for an error"
        raise SourceError(f"{where}transformers cannot build the reference: {reason}") from None
    finally:
        logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
