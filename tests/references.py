"""The reference models that everything is compared with: transformers, loud weights, sizes no accident can match.

They are written in transformers' own fields, so that they do not rest on our tables. An architecture that has no row
here yet is tested at the SIZES and VARIANTS of its module, as its table writes them.
"""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

import archport
from archport.parity.references import with_attention_that_agrees, with_plain_experts
from archport.registry import architecture
from archport.translate.fields import read_config, write_config

# One row an architecture: several rotary pairs, a rotary width below the head width, an MLP that is not four times
# the width, heads unequal to head width and to three, odd eps and base. `full` is the longest sequence the model takes.
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": 131,
        "n_positions": 37,
        "n_embd": 60,
        "n_layer": 3,
        "n_head": 5,
        "n_inner": 104,
        "layer_norm_epsilon": 3e-5,
    },
    "gptj": {
        "vocab_size": 127,
        "n_positions": 41,
        "n_embd": 84,
        "n_layer": 3,
        "n_head": 6,
        "n_inner": 100,
        "rotary_dim": 8,
        "layer_norm_epsilon": 3e-5,
    },
    "gpt_neox": {
        "vocab_size": 113,
        "max_position_embeddings": 43,
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 140,
        "rotary_pct": 0.5,
        "rotary_emb_base": 9973,
        "layer_norm_eps": 3e-5,
    },
}
HF_ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu")

# Every variant the key tables accept: the architecture, and what differs from its row of SIZES.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in SIZES},
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt2 n_inner null": ("gpt2", {"n_inner": None}),
    "gpt2 scaled by depth": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2 scores not scaled": ("gpt2", {"scale_attn_weights": False}),
    "gpt2 upcast attention": ("gpt2", {"reorder_and_upcast_attn": True}),
    "gptj rotary over the whole head": ("gptj", {"rotary_dim": 14}),
    "gptj tied": ("gptj", {"tie_word_embeddings": True}),
    "gpt_neox sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "gpt_neox rotary over the whole head": ("gpt_neox", {"rotary_pct": 1.0}),
    "gpt_neox without attention bias": ("gpt_neox", {"attention_bias": False}),
    "gpt_neox tied": ("gpt_neox", {"tie_word_embeddings": True}),
    "gpt_neox linear rope": ("gpt_neox", {"rope_scaling": {"type": "linear", "factor": 3.0}}),
    **{f"gpt2 {name}": ("gpt2", {"activation_function": name}) for name in HF_ACTIVATIONS},
    **{f"gptj {name}": ("gptj", {"activation_function": name}) for name in HF_ACTIVATIONS},
    **{f"gpt_neox {name}": ("gpt_neox", {"hidden_act": name}) for name in HF_ACTIVATIONS},
}


def _written(arch: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    return write_config(arch.table, arch.config_class(**sizes), arch.name, None)


# The others, but those that this version of transformers does not have. The eager attention of Qwen before 5 knows no
# window, and configs before 5 do not take all settings of rotary: these variants are left out by what their class says.
OLD = int(transformers.__version__.partition(".")[0]) < 5
LACKING = {"qwen2", "qwen3", "qwen3_moe"} if OLD else set()
FAMILIES = {name for name in archport.architectures() if name not in SIZES and name in transformers.CONFIG_MAPPING}
FAMILIES -= LACKING
for arch in map(architecture, sorted(FAMILIES)):
    SIZES[arch.name] = _written(arch, dict(arch.sizes))
    VARIANTS[arch.name] = (arch.name, {})
    for variant, changes in arch.variants.items():
        if not (OLD and variant.startswith(("rotary", "alibi"))):
            VARIANTS[f"{arch.name} {variant}"] = (arch.name, _written(arch, {**arch.sizes, **changes}))

# Each architecture, and a third of its variants, for what hangs on few of the settings.
A_THIRD = [*(name for name in VARIANTS if " " not in name), *[name for name in VARIANTS if " " in name][::3]]

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # an old BigCode scripts functions as it is imported
    CLASSES = {
        name: (config_class, transformers.MODEL_FOR_CAUSAL_LM_MAPPING[config_class])
        for name, config_class in ((name, transformers.CONFIG_MAPPING[name]) for name in SIZES)
    }


def reference(variant: str, *, attention: str = "eager", seed: int = 0, context: int | None = None, **more: Any) -> Any:
    """A transformers model of a variant with loud weights, in eval mode, for texts of `context` tokens where given."""
    name, changes = VARIANTS[variant]
    if context is not None:
        more |= {architecture(name).table.field("context").spellings[0]: context}
    config_class, model_class = CLASSES[name]
    # from_dict and _from_config keep and change what they are given: every model gets a config of its own.
    config = config_class(**copy.deepcopy(SIZES[name] | changes | more))
    model = model_class._from_config(config, attn_implementation=attention)
    return as_written(loud(model, seed).eval())


def as_written(model: Any) -> Any:
    """The same model, its experts one by one, its attention as transformers means it."""
    model = with_plain_experts(model)
    return with_attention_that_agrees(model) if getattr(model.config, "alibi", False) else model


def pretrained(folder: Path, dtype: torch.dtype | str, **options: Any) -> Any:
    """What transformers makes of a folder; `torch_dtype` is what both 4 and 5 call it."""
    options = {"attn_implementation": "eager", **options}
    made = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype, **options)
    as_written(made[0] if isinstance(made, tuple) else made)
    return made


def with_attention(model: Any, attention: str) -> Any:
    """A copy of a reference model that runs another attention implementation."""
    config = copy.deepcopy(model.config)
    other = type(model)._from_config(config, attn_implementation=attention)
    other.load_state_dict(model.state_dict())
    return as_written(other.to(model.dtype).eval())


def loud(model: Any, seed: int = 0) -> Any:
    """Redraw every parameter so that none is a one, a zero or too small to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-1, 1, generator=generator)
            else:
                parameter.normal_(0, 0.3, generator=generator)
    return model


def hf_dict(model: Any) -> dict[str, Any]:
    """A reference model's config as config.json would hold it."""
    return copy.deepcopy(model.config.to_dict())


def context(model: Any) -> int:
    """The longest sequence a reference model takes."""
    arch = architecture(model.config.model_type)
    return int(read_config(arch.table, arch.config_class, model.config.to_dict(), "config")[0].context)


def bound(name: str, theirs: torch.Tensor, tolerance: float = 1e-5) -> float:
    """How far off logits may be: for families in parts of the largest, where that is louder than 1."""
    return tolerance * max(1.0, theirs.abs().max().item()) if name.partition(" ")[0] in FAMILIES else tolerance


def sequences(model: Any) -> list[torch.Tensor]:
    """Token ids to compare on: random over the full context, the edge ids, and one token alone."""
    vocab, length = model.config.vocab_size, context(model)
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, vocab, (3, length), generator=generator),
        torch.tensor([[0, vocab - 1, 0, vocab - 1, vocab - 2, 1]]),
        torch.tensor([[vocab // 2]]),
    ]
