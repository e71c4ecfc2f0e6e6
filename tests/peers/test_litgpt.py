"""litgpt's GPT is the same model as transformers' for the families it converts."""

import pytest

from archport.translate.table import sections

from .ports import Checkpoint, Port, put_down

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # theirs
litgpt = pytest.importorskip("litgpt")
conversion = pytest.importorskip("litgpt.scripts.convert_hf_checkpoint")
QKV = "(kv [group k v] dim)"
ROWS = {
    "embed.tokens.weight": "transformer.wte.weight",
    "blocks.{n}.norm.*": "transformer.h.{n}.norm_1.*",
    "blocks.{n}.norm_attn.*": "transformer.h.{n}.norm_1.*",
    "blocks.{n}.norm_attn_out.*": "transformer.h.{n}.post_attention_norm.*",
    "blocks.{n}.norm_mlp.*": "transformer.h.{n}.norm_2.*",
    "blocks.{n}.norm_mlp_out.*": "transformer.h.{n}.post_mlp_norm.*",
    "blocks.{n}.attn.qkv.*": sections("transformer.h.{n}.attn.qkv.*", f"{QKV} ... -> {QKV} ..."),
    "blocks.{n}.attn.q_norm.*": "transformer.h.{n}.attn.norm_q.*",
    "blocks.{n}.attn.k_norm.*": "transformer.h.{n}.attn.norm_k.*",
    "blocks.{n}.attn.q_norm.norm.*": "transformer.h.{n}.attn.norm_q.*",
    "blocks.{n}.attn.k_norm.norm.*": "transformer.h.{n}.attn.norm_k.*",
    "blocks.{n}.attn.out.*": "transformer.h.{n}.attn.proj.*",
    "blocks.{n}.mlp.up.*": "transformer.h.{n}.mlp.fc.*",
    "blocks.{n}.mlp.down.*": "transformer.h.{n}.mlp.proj.*",
    "norm.*": "transformer.ln_f.*",
    "head.*": "lm_head.*",
}
GATED = ROWS | {
    "blocks.{n}.mlp.gate.*": "transformer.h.{n}.mlp.fc_1.*",
    "blocks.{n}.mlp.up.*": "transformer.h.{n}.mlp.fc_2.*",
}


def sizes_of(sizes):
    """Their names of the sizes, which a published config is given."""
    ours = {"vocab_size": "vocab_size", "padded_vocab_size": "vocab_size", "block_size": "context"}
    ours |= {"n_layer": "layers", "n_head": "heads", "n_query_groups": "kv_heads", "n_embd": "width"}
    ours |= {"head_size": "head_width", "intermediate_size": "mlp_width", "norm_eps": "norm_eps"}
    return {theirs: sizes[name] for theirs, name in ours.items()} | {"rope_base": sizes["rotary_base"]}


EXPERTS = GATED | {
    "blocks.{n}.mlp.router.score.*": "transformer.h.{n}.mlp.gate.*",
    "blocks.{n}.mlp.experts.{e}.gate.*": "transformer.h.{n}.mlp.experts.{e}.fc_1.*",
    "blocks.{n}.mlp.experts.{e}.up.*": "transformer.h.{n}.mlp.experts.{e}.fc_2.*",
    "blocks.{n}.mlp.experts.{e}.down.*": "transformer.h.{n}.mlp.experts.{e}.proj.*",
}


# By checkpoint: the published config, what of it is the checkpoint's, the conversion, the rows.
MODELS = {
    "gpt_neox": ("pythia-14m", {"rotary_percentage": 0.5}, "gpt_neox", ROWS),
    "gpt_neox sequential": ("pythia-14m", {"rotary_percentage": 0.5, "parallel_residual": False}, "gpt_neox", ROWS),
    "falcon": ("falcon-40b", {}, "falcon", ROWS),
    "phi": ("phi-2", {"rotary_percentage": 0.5}, "phi", ROWS),
    "phi3": ("Phi-3-mini-4k-instruct", {"sliding_window_size": None}, "phi", GATED),
    "llama": ("Llama-2-7b-hf", {}, "hf_llama", GATED),
    "mistral": ("Mistral-7B-v0.1", {"sliding_window_size": 9}, "hf_llama", GATED),
    "mixtral": (
        "Mixtral-8x7B-v0.1",
        {"n_expert": 5, "n_expert_per_token": 3, "sliding_window_size": None},
        "hf_llama",
        EXPERTS,
    ),
    "gemma": ("Gemma-2b", {}, "hf_llama", GATED),
    "gemma2": (
        "Gemma-2-2b",
        {"attention_scores_scalar": 14, "attention_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
        | {"sliding_window_size": 9, "sliding_window_indices": [1, 0, 1]},
        "gemma_2",
        GATED,
    ),
    "gemma3_text": (
        "Gemma-3-1b-it",
        {"attention_scores_scalar": 14, "rope_local_base_freq": 97.0, "rope_indices": [1, 0, 1]}
        | {"sliding_window_size": 9, "sliding_window_indices": [1, 0, 1]},
        "gemma_3",
        GATED,
    ),
    "qwen2": ("Qwen2.5-0.5B", {}, "qwen_2_5", GATED),
    "qwen3": ("Qwen3-0.6B", {}, "qwen_3", GATED),
    "olmo2": ("OLMo-2-1124-7B", {}, "olmo2", GATED),
}


def port(name):
    checkpoint = Checkpoint(name)
    published, more, convert, rows = MODELS[name]
    config = litgpt.Config.from_name(published, **sizes_of(checkpoint.sizes) | more)
    state: dict = {}
    first = {"gpt_neox": (config,), "falcon": (config,), "gemma_2": ({},), "gemma_3": ({},)}
    copy = getattr(conversion, f"copy_weights_{convert}")
    copy(
        *first.get(convert, (config, {})),
        state,
        checkpoint.tensors,
        **({"config": config} if convert == "gemma_3" else {}),
    )
    state.setdefault("lm_head.weight", state["transformer.wte.weight"])  # where the checkpoint's is tied
    model = litgpt.GPT(config)
    model.load_state_dict(state)
    return Port("litgpt", model, rows)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_model(name):
    assert put_down(port(name), name)["same"]
