"""TransformerLens' HookedTransformer and its bridge, with weights as they convert them and nothing folded."""

import pytest
import transformers
from tokenizers import Tokenizer, models

from archport.parity.references import with_plain_experts
from archport.translate.table import rearranged

from .ports import SAME, Checkpoint, Port, put_down
from .test_transformer_lens import peer_of

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # theirs
lens = pytest.importorskip("transformer_lens")
loading = pytest.importorskip("transformer_lens.loading_from_pretrained")
bridges = pytest.importorskip("transformer_lens.model_bridge")
NOT_FOLDED = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False, "fold_value_biases": False}


def rows(grouped):
    """Heads are an axis of their own; where keys are grouped, theirs have an underscore."""
    mark = "_" if grouped else ""
    of_qkv = [tuple(f"blocks.{{n}}.attn.{one}" for one in ("{}_Q", f"{mark}{{}}_K", f"{mark}{{}}_V"))] * 2
    weights, biases = (tuple(key.replace("{}", kind) for key in keys) for keys, kind in zip(of_qkv, "Wb", strict=True))
    qkv = "kv [group k v]"
    made = {
        "embed.tokens.weight": "embed.W_E",
        "embed.positions.weight": "pos_embed.W_pos",
        "blocks.{n}.attn.qkv.weight": rearranged(weights, f"({qkv}) width dim -> ({qkv} dim) width"),
        "blocks.{n}.attn.qkv.bias": rearranged(biases, f"({qkv}) dim -> ({qkv} dim)"),
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
    """As they read config.json or, where they cannot from a folder, by the settings of tests/peers/test_transformer_lens.py."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    if name in ("gpt2", "gptj"):
        return Port("transformer_lens", peer_of(model), rows(False), how="settings by hand")
    cfg = loading.get_pretrained_model_config(str(folder), device="cpu")
    cfg.tokenizer_name = None
    state = loading.get_pretrained_state_dict(str(folder), cfg, hf_model=model)
    peer = lens.HookedTransformer(cfg)
    peer.load_and_process_state_dict(state, **NOT_FOLDED)
    return Port("transformer_lens", peer, rows(cfg.n_key_value_heads is not None))


@pytest.fixture
def folder_of(tmp_path):
    """Checkpoints under a name that says nothing: they take what has llama or gemma in its path for a published one."""

    def linked(name):
        (tmp_path / "model").symlink_to(Checkpoint(name).folder.resolve())
        return tmp_path / "model"

    return linked


@pytest.mark.parametrize(
    "name", ["gpt2", "gptj", "gpt_neox", "gpt_neox sequential", "llama", "mistral", "phi3", "qwen2", "qwen3"]
)
def test_hooked_transformer(name, folder_of):
    result = put_down(hooked(name, folder_of(name)), name)
    assert result["same"] == (result["error"] < SAME)
