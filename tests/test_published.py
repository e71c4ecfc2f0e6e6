"""Published models: how many parameters each has at the sizes that are kept of it, and how its config.json reads."""

from typing import Any

import pytest
import torch

from archport.registry import architecture
from archport.translate.fields import read_config

# Parameters of published models, a tied head counted once: those of transformers' own class, built without memory from
# the config.json of each.
OLDS = {
    "opt": {"facebook/opt-125m": 125_239_296, "facebook/opt-350m": 331_196_416, "facebook/opt-1.3b": 1_315_758_080},
    "gpt_neo": {"EleutherAI/gpt-neo-125m": 125_198_592, "EleutherAI/gpt-neo-1.3B": 1_315_575_808},
    "bloom": {"bigscience/bloom-560m": 559_214_592, "bigscience/bloom-7b1": 7_069_016_064},
    "falcon": {"tiiuae/falcon-rw-1b": 1_311_625_216, "tiiuae/falcon-7b": 6_921_720_704},
    "gpt_bigcode": {"bigcode/gpt_bigcode-santacoder": 1_124_886_528, "bigcode/starcoder": 15_517_456_384},
    "codegen": {"Salesforce/codegen-350M-mono": 356_712_448},
}
COUNTS = OLDS


@pytest.mark.parametrize(("name", "model"), [(name, model) for name in COUNTS for model in COUNTS[name]])
def test_a_published_model_has_its_number_of_parameters(name, model):
    arch = architecture(name)
    with torch.device("meta"):
        port = arch.build(arch.config_class(**arch.published[model]))
    assert sum(parameter.numel() for parameter in port.parameters()) == COUNTS[name][model]


# config.json as published, but for what every config says: special tokens, dtype, version.
OLDS_CONFIGS: dict[str, dict[str, Any]] = {
    "facebook/opt-350m": {
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "architectures": ["OPTForCausalLM"],
        "attention_dropout": 0.0,
        "do_layer_norm_before": False,
        "dropout": 0.1,
        "ffn_dim": 4096,
        "hidden_size": 1024,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 2048,
        "model_type": "opt",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "pad_token_id": 1,
        "prefix": "</s>",
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": 50272,
        "word_embed_proj_dim": 512,
    },
    "EleutherAI/gpt-neo-125m": {
        "activation_function": "gelu_new",
        "architectures": ["GPTNeoForCausalLM"],
        "attention_dropout": 0,
        "attention_layers": ["global", "local"] * 6,
        "attention_types": [[["global", "local"], 6]],
        "embed_dropout": 0,
        "gradient_checkpointing": False,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 2048,
        "model_type": "gpt_neo",
        "num_heads": 12,
        "num_layers": 12,
        "resid_dropout": 0,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "use_cache": True,
        "vocab_size": 50257,
        "window_size": 256,
    },
    "bigscience/bloom-560m": {
        "apply_residual_connection_post_layernorm": False,
        "architectures": ["BloomForCausalLM"],
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "hidden_dropout": 0.0,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "masked_softmax_fusion": True,
        "model_type": "bloom",
        "n_embed": 1024,
        "n_inner": None,
        "n_layer": 24,
        "num_attention_heads": 16,
        "offset_alibi": 100,
        "pad_token_id": 3,
        "pretraining_tp": 1,
        "seq_length": 2048,
        "skip_bias_add": True,
        "skip_bias_add_qkv": False,
        "unk_token_id": 0,
        "use_cache": True,
        "vocab_size": 250880,
    },
    "tiiuae/falcon-7b": {
        "alibi": False,
        "apply_residual_connection_post_layernorm": False,
        "architectures": ["FalconForCausalLM"],
        "attention_dropout": 0.0,
        "auto_map": {"AutoModelForCausalLM": "modeling_falcon.FalconForCausalLM"},
        "bias": False,
        "hidden_dropout": 0.0,
        "hidden_size": 4544,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "falcon",
        "multi_query": True,
        "new_decoder_architecture": False,
        "num_attention_heads": 71,
        "num_hidden_layers": 32,
        "parallel_attn": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 65024,
    },
    "bigcode/starcoder": {
        "activation_function": "gelu",
        "architectures": ["GPTBigCodeForCausalLM"],
        "attention_softmax_in_fp32": True,
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "inference_runner": 0,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "max_batch_size": None,
        "max_sequence_length": None,
        "model_type": "gpt_bigcode",
        "multi_query": True,
        "n_embd": 6144,
        "n_head": 48,
        "n_inner": 24576,
        "n_layer": 40,
        "n_positions": 8192,
        "pad_key_length": True,
        "pre_allocate_kv_cache": False,
        "resid_pdrop": 0.1,
        "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "validate_runner_input": True,
        "vocab_size": 49152,
    },
    "Salesforce/codegen-350M-mono": {
        "activation_function": "gelu_new",
        "architectures": ["CodeGenForCausalLM"],
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "gradient_checkpointing": False,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "codegen",
        "n_ctx": 2048,
        "n_embd": 1024,
        "n_head": 16,
        "n_inner": None,
        "n_layer": 20,
        "n_positions": 2048,
        "resid_pdrop": 0.0,
        "rotary_dim": 32,
        "scale_attn_weights": True,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "temperature": 1.0}},
        "tie_word_embeddings": False,
        "tokenizer_class": "GPT2Tokenizer",
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": 51200,
    },
}
CONFIGS = OLDS_CONFIGS


@pytest.mark.parametrize("model", CONFIGS)
def test_a_published_config_reads_as_the_sizes_that_are_kept_of_it(model):
    hf = CONFIGS[model]
    arch = architecture(hf["model_type"])
    config, unknown = read_config(arch.table, arch.config_class, hf, model)
    assert config == arch.config_class(**arch.published[model])
    assert unknown == ()
