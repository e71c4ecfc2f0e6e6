"""TransformerLens' HookedTransformer and its bridge, with weights as they convert them and nothing folded."""

import pytest
import transformers
from tokenizers import Tokenizer, models

from archport.translate.table import rearranged

from .ports import Checkpoint, Port, put_down
from .test_transformer_lens import peer_of

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # theirs
lens = pytest.importorskip("transformer_lens")
loading = pytest.importorskip("transformer_lens.loading_from_pretrained")
bridges = pytest.importorskip("transformer_lens.model_bridge")
GROUPS = "kv [group k v]"
NOT_FOLDED = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False, "fold_value_biases": False}


def rows(grouped):
    """Heads are an axis of their own; where keys are grouped, theirs have an underscore."""
    mark = "_" if grouped else ""
    of_qkv = [tuple(f"blocks.{{n}}.attn.{one}" for one in ("{}_Q", f"{mark}{{}}_K", f"{mark}{{}}_V"))] * 2
    weights, biases = (tuple(key.replace("{}", kind) for key in keys) for keys, kind in zip(of_qkv, "Wb", strict=True))
    made = {
        "embed.tokens.weight": "embed.W_E",
        "embed.positions.weight": "pos_embed.W_pos",
        "blocks.{n}.attn.qkv.weight": rearranged(weights, f"({GROUPS}) width dim -> ({GROUPS} dim) width"),
        "blocks.{n}.attn.qkv.bias": rearranged(biases, f"({GROUPS}) dim -> ({GROUPS} dim)"),
        "blocks.{n}.attn.out.weight": rearranged("blocks.{n}.attn.W_O", "head dim width -> width (head dim)"),
        "blocks.{n}.attn.out.bias": "blocks.{n}.attn.b_O",
        "head.weight": rearranged("unembed.W_U", "width vocab -> vocab width"),
        "head.bias": "unembed.b_U",
    }
    norms = {"blocks.{n}.norm": "ln1", "blocks.{n}.norm_attn": "ln1", "blocks.{n}.norm_mlp": "ln2"}
    norms |= {"blocks.{n}.attn.q_norm": "attn.q_norm", "blocks.{n}.attn.k_norm": "attn.k_norm"}
    for ours, theirs in norms.items():
        made |= {f"{ours}.weight": f"blocks.{{n}}.{theirs}.w", f"{ours}.bias": f"blocks.{{n}}.{theirs}.b"}
    made |= {"norm.weight": "ln_final.w", "norm.bias": "ln_final.b"}
    for ours, theirs in {"up": "in", "gate": "gate", "down": "out"}.items():
        key = f"blocks.{{n}}.mlp.W_{theirs}"
        made[f"blocks.{{n}}.mlp.{ours}.weight"] = rearranged(key, "rows columns -> columns rows")
        made[f"blocks.{{n}}.mlp.{ours}.bias"] = f"blocks.{{n}}.mlp.b_{theirs}"
    return made


def hooked(name, folder):
    """As they read config.json or, where they cannot from a folder, by the settings that peer_of gives."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    if name in ("gpt2", "gptj"):
        why = "it has two norms, which train apart, where GPT-J has one" if name == "gptj" else ""
        return Port("transformer_lens", peer_of(model), rows(False), how="settings by hand", why=why)
    cfg = loading.get_pretrained_model_config(str(folder), device="cpu")
    cfg.tokenizer_name = None
    state = loading.get_pretrained_state_dict(str(folder), cfg, hf_model=model)
    peer = lens.HookedTransformer(cfg)
    peer.load_and_process_state_dict(state, **NOT_FOLDED)
    return Port("transformer_lens", peer, rows(cfg.n_key_value_heads is not None))


LAYER = "layers.{n}._original_component"


def bridged_rows(kind):
    """They wrap each module of transformers' model in one of theirs."""

    def maps(at, names):
        return {f"{ours}.*": f"{at}{theirs}._original_component.*" for ours, theirs in names.items()}

    def fused(at, names):
        keys = tuple(f"{at}{name}._original_component.*" for name in names)
        return {"blocks.{n}.attn.qkv.*": rearranged(keys, f"({GROUPS} dim) ... -> ({GROUPS} dim) ...")}

    if kind == "gpt2":
        block = "transformer.h.{n}._original_component."
        made = maps("transformer.", {"embed.tokens": "wte", "embed.positions": "wpe", "norm": "ln_f"})
        made |= fused(f"{block}attn.", "qkv")
        made |= maps(block, {"blocks.{n}.norm_attn": "ln_1", "blocks.{n}.norm_mlp": "ln_2"})
        mlp = "mlp._original_component."
        transposed = {"attn.out": "attn.o", "mlp.up": f"{mlp}c_fc", "mlp.down": f"{mlp}c_proj"}
        for ours, theirs in transposed.items():
            key = f"{block}{theirs}._original_component."
            made[f"blocks.{{n}}.{ours}.weight"] = rearranged(f"{key}weight", "rows columns -> columns rows")
            made[f"blocks.{{n}}.{ours}.bias"] = f"{key}bias"
        return made
    if kind == "gpt_neox":
        block = "gpt_neox.layers.{n}._original_component."
        made = maps("gpt_neox.", {"embed.tokens": "embed_in", "norm": "final_layer_norm"})
        made |= fused(f"{block}attention.", "qkv") | maps(block, {"blocks.{n}.attn.out": "attention.o"})
        inner = {"up": "dense_h_to_4h", "down": "dense_4h_to_h"}
    else:
        block = "model.layers.{n}._original_component."
        made = maps("model.", {"embed.tokens": "embed_tokens", "norm": "norm"})
        attention = f"{block}self_attn._original_component."
        made |= fused(attention, ("q_proj", "k_proj", "v_proj")) | maps(attention, {"blocks.{n}.attn.out": "o_proj"})
        inner = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    norms = {"blocks.{n}.norm_attn": "input_layernorm", "blocks.{n}.norm_mlp": "post_attention_layernorm"}
    mlp = {f"blocks.{{n}}.mlp.{ours}": theirs for ours, theirs in inner.items()}
    return made | maps(block, norms) | maps(f"{block}mlp._original_component.", mlp) | maps("", {"head": "lm_head"})


def bridged(folder, tokenizer):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    boot = bridges.TransformerBridge.boot_transformers
    peer = boot(str(folder), hf_model=model, tokenizer=tokenizer, device="cpu")
    return Port("transformer_lens", peer, bridged_rows(model.config.model_type))


@pytest.fixture
def folder_of(tmp_path_factory):
    """Checkpoints under a name that says nothing: they take what has llama or gemma in its path for a published one."""

    def linked(name):
        path = tmp_path_factory.mktemp("checkpoint") / "model"
        path.symlink_to(Checkpoint(name).folder.resolve())
        return path

    return linked


@pytest.mark.parametrize(
    "name", ["gpt2", "gptj", "gpt_neox", "gpt_neox sequential", "llama", "mistral", "phi3", "qwen2", "qwen3"]
)
def test_hooked_transformer(name, folder_of):
    result = put_down(hooked(name, folder_of(name)), name)
    fault = "rotary base 10000" if name.startswith("gpt_neox") else None  # whatever config.json says
    assert (result["same"], result["fault"]) == (fault is None and name != "gptj", fault)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """Any at all, which a bridge cannot be made without."""
    folder = tmp_path_factory.mktemp("tokenizer")
    model = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    special = {"bos_token": "a", "eos_token": "b", "pad_token": "a"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=model, **special).save_pretrained(folder)
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gpt_neox sequential", "llama", "mistral", "qwen2"])
def test_bridge(name, folder_of, tokenizer):
    assert put_down(bridged(folder_of(name), tokenizer), name)["same"]
