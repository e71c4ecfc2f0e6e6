"""Parts that none of our architectures has: each in a plugin, against transformers' class with loud weights."""

from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, Llama4TextConfig, RobertaConfig
from transformers.masking_utils import create_chunked_causal_mask
from transformers.models.bert.modeling_bert import BertEmbeddings, BertPredictionHeadTransform
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

import archport
from archport import registry
from archport.config import bounded, fixed
from archport.layers import (
    MLP,
    Chunked,
    CountedEmbed,
    Experts,
    GatedMLP,
    NormedLastAttention,
    OffsetLayerNorm,
    PositionedEmbed,
    RMSNorm,
    SequentialBlock,
    SharedExpert,
    SigmoidRouter,
    SummedEmbed,
    TransformedNorm,
    initialise,
)
from archport.layers.context import of_pass
from archport.mappings import ROTARY_FRACTION
from archport.mappings import llama as llama_file
from archport.mappings import olmoe as olmoe_file
from archport.mappings import qwen3 as qwen3_file
from archport.models import ExpertsConfig, llama, olmoe
from archport.parity import verify_architecture

LAYER = llama_file.LAYER


def relative(cfg, attn, mlp, norm=RMSNorm):
    """A Llama with another attention, or another MLP in each layer."""
    norm, rotary = partial(norm, cfg.width, eps=cfg.norm_eps), cfg.rotary()

    def block(layer):
        return SequentialBlock(norm_attn=norm(), attn=attn(rotary), norm_mlp=norm(), mlp=mlp(layer))

    return llama.decoder(cfg, block, norm=norm())


@dataclass(frozen=True, kw_only=True)
class Qwen2Moe(llama.Config, ExpertsConfig):
    attention_bias: bool = fixed(True)
    expert_width: int
    shared_width: int
    normalised: bool = False


def qwen2_moe(cfg):
    def mlp(_):
        mixed = olmoe.experts(cfg, cfg.expert_width)
        shared = GatedMLP(cfg.width, cfg.shared_width, activation=cfg.activation)
        return Experts(mixed.router, mixed.experts, SharedExpert(cfg.width, shared))

    return relative(cfg, lambda rotary: llama.attention(cfg, out_bias=False, rotary=rotary), mlp)


@dataclass(frozen=True, kw_only=True)
class Dots1(llama.Config, ExpertsConfig):
    expert_width: int
    shared: int
    groups: int = 1
    top_groups: int = 1
    scale: float = 1.0
    dense_layers: int = bounded(0, least=0)
    normalised: bool = True


def dots1(cfg):
    def attn(rotary):
        norms = {name: RMSNorm(cfg.head_width, eps=cfg.norm_eps) for name in ("q_norm", "k_norm")}
        return llama.attention(cfg, rotary=rotary, **norms)

    def mlp(layer):
        if layer < cfg.dense_layers:
            return llama.mlp(cfg)
        groups = {"groups": cfg.groups, "top_groups": cfg.top_groups, "scale": cfg.scale}
        groups |= {"normalised": cfg.normalised}
        expert = partial(GatedMLP, cfg.width, activation=cfg.activation)
        return Experts(
            SigmoidRouter(cfg.width, cfg.experts, top=cfg.experts_per_token, **groups),
            [expert(cfg.expert_width) for _ in range(cfg.experts)],
            expert(cfg.shared * cfg.expert_width),
        )

    return relative(cfg, attn, mlp)


def hunyuan(cfg):
    def attn(rotary):
        norms = {name: RMSNorm(cfg.head_width, eps=cfg.norm_eps) for name in ("q_norm", "k_norm")}
        sizes = {"kv_heads": cfg.kv_heads, "head_width": cfg.head_width, "bias": cfg.attention_bias}
        more = {"rotary": rotary, "score_dropout": cfg.attention_dropout}
        return NormedLastAttention(cfg.width, cfg.heads, **sizes, **norms, **more)

    return relative(cfg, attn, lambda _: llama.mlp(cfg))


@dataclass(frozen=True, kw_only=True)
class Persimmon(llama.Config):
    activation: str = "relu_squared"
    attention_bias: bool = fixed(True)
    rotary_fraction: float = 0.5
    normed: bool = True


def persimmon(cfg):
    def attn(rotary):
        norms = {name: nn.LayerNorm(cfg.head_width, eps=cfg.norm_eps) for name in ("q_norm", "k_norm") if cfg.normed}
        return llama.attention(cfg, rotary=rotary, **norms)

    return relative(cfg, attn, lambda _: MLP(cfg.width, cfg.mlp_width, activation=cfg.activation), nn.LayerNorm)


def table(name: str, config: dict[str, Any], weights: dict[str, Any], harmless=(), dropped=(), **more: Any):
    """Llama's table, with its fields but those dropped, and other ones."""
    fields = {field: cell for field, cell in llama_file.FIELDS.items() if field not in {"mlp_bias", *dropped}}
    known = {"harmless": llama_file.TABLE.harmless | {*harmless, "output_router_logits", "router_aux_loss_coef"}}
    return replace(llama_file.TABLE, classes=(name,), config=fields | config, weights=weights, **known | more)


def gated(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{part}.*": f"{theirs}.{part}_proj.*" for part in ("gate", "up", "down")}


MIXED = {"experts": "num_experts", "experts_per_token": "num_experts_per_tok", "expert_width": "moe_intermediate_size"}
OUTER = {name: cell for name, cell in llama_file.ROWS.items() if not name.startswith("blocks")}
SIZES = {**llama.SIZES, "norm_eps": 3e-4}
SPARSE = SIZES | {"expert_width": 38, "experts": 8, "experts_per_token": 3}
del SPARSE["head_width"]
PLUGINS: dict[str, dict[str, Any]] = {
    "qwen2_moe": {
        "config_class": Qwen2Moe,
        "build": qwen2_moe,
        "table": table(
            "Qwen2MoeForCausalLM",
            MIXED | {"shared_width": "shared_expert_intermediate_size", "normalised": "norm_topk_prob"},
            llama_file.WITHOUT_MLP
            | olmoe_file.EXPERT_ROWS
            | gated("blocks.{n}.mlp.shared.mlp", f"{LAYER}mlp.shared_expert")
            | {"blocks.{n}.mlp.shared.gate.weight": f"{LAYER}mlp.shared_expert_gate.weight"},
            {"decoder_sparse_step", "mlp_only_layers", "layer_types", "max_window_layers", "qkv_bias"}
            | {"sliding_window", "use_sliding_window"},
            ("head_width", "attention_bias"),
        ),
        "sizes": SPARSE | {"shared_width": 50},
        "variants": {"normalised": {"normalised": True}},
    },
    "dots1": {
        "config_class": Dots1,
        "build": dots1,
        "table": table(
            "Dots1ForCausalLM",
            MIXED
            | {"experts": "n_routed_experts", "shared": "n_shared_experts", "scale": "routed_scaling_factor"}
            | {"groups": "n_group", "top_groups": "topk_group", "dense_layers": "first_k_dense_replace"}
            | {"normalised": "norm_topk_prob"},
            qwen3_file.TABLE.weights
            | olmoe_file.EXPERT_ROWS
            | gated("blocks.{n}.mlp.shared", f"{LAYER}mlp.shared_experts")
            | {"blocks.{n}.mlp.router.preference": f"{LAYER}mlp.gate.e_score_correction_bias"},
            {"layer_types", "max_window_layers", "sliding_window"},
            ("head_width",),
        ),
        "sizes": SPARSE | {"shared": 2, "groups": 4, "top_groups": 2, "scale": 1.7, "dense_layers": 1},
        "variants": {
            "one group": {"groups": 1, "top_groups": 1, "dense_layers": 0},
            "normalised": {"normalised": False},
        },
    },
    "hunyuan_v1_dense": {
        "config_class": llama.Config,
        "build": hunyuan,
        "table": table(
            "HunYuanDenseV1ForCausalLM",
            {},
            llama_file.ROWS
            | {"blocks.{n}.attn.q_norm.*": f"{LAYER}self_attn.query_layernorm.*"}
            | {"blocks.{n}.attn.k_norm.*": f"{LAYER}self_attn.key_layernorm.*"},
            {"eod_token_id"},
        ),
        "sizes": SIZES,
        "variants": {"attention_bias": {"attention_bias": True}},
    },
    "persimmon": {
        "config_class": Persimmon,
        "build": persimmon,
        "table": table(
            "PersimmonForCausalLM",
            {"norm_eps": "layer_norm_eps", "normed": "qk_layernorm", **ROTARY_FRACTION},
            OUTER
            | {"norm.*": "model.final_layernorm.*"}
            | {"blocks.{n}.norm_attn.*": f"{LAYER}input_layernorm.*"}
            | {"blocks.{n}.attn.qkv.*": f"{LAYER}self_attn.query_key_value.*"}
            | {"blocks.{n}.attn.q_norm.*": f"{LAYER}self_attn.q_layernorm.*"}
            | {"blocks.{n}.attn.k_norm.*": f"{LAYER}self_attn.k_layernorm.*"}
            | {"blocks.{n}.attn.out.*": f"{LAYER}self_attn.dense.*"}
            | {"blocks.{n}.norm_mlp.*": f"{LAYER}post_attention_layernorm.*"}
            | {"blocks.{n}.mlp.up.*": f"{LAYER}mlp.dense_h_to_4h.*"}
            | {"blocks.{n}.mlp.down.*": f"{LAYER}mlp.dense_4h_to_h.*"},
            {"hidden_dropout"},
            ("kv_heads", "head_width", "attention_bias"),
            requires={},
        ),
        "sizes": {name: size for name, size in SIZES.items() if name not in ("kv_heads", "head_width")},
        "variants": {"not normed": {"normed": False}},
    },
}


@pytest.fixture
def plugin(request, monkeypatch):
    """An architecture that is registered for one test."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    archport.register(request.param, **PLUGINS[request.param])
    return registry.architecture(request.param)


@pytest.mark.parametrize("plugin", PLUGINS, indirect=True)
def test_is_its_reference_in_float32_and_float64(plugin):
    for report in verify_architecture(plugin.name):
        assert report.ok, report


@pytest.mark.parametrize("plugin", PLUGINS, indirect=True)
def test_every_weight_is_drawn_anew(plugin):
    model = archport.build(plugin.name, dict(plugin.sizes), device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(torch.nan)
    initialise(model, std=0.02, residual_std=0.01)
    assert all(weight.isfinite().all() for weight in model.parameters())
    if plugin.name == "dots1":
        assert not model.blocks[-1].mlp.router.preference.any()


@pytest.mark.parametrize("size", [1, 4, 7, 16, 17])
def test_chunks_are_the_reference_s_with_and_without_padding_and_cache(size):
    """The mask alone: Llama 4's text model has more that no part of ours does."""
    batch, seq, past = 3, 17, 11
    tokens = torch.arange(seq) >= torch.tensor([0, 3, 9])[:, None]
    config = Llama4TextConfig(attention_chunk_size=size)
    config._attn_implementation = "sdpa"
    of_all = {"inputs_embeds": torch.zeros(batch, seq, 8), "cache": None, "allow_is_causal_skip": False}
    for mask in (tokens, None):
        theirs = create_chunked_causal_mask(config, **of_all, attention_mask=mask)
        whole = of_pass(batch, seq, torch.device("cpu"), positions=None, mask=mask, cache=None)
        cache = SimpleNamespace(length=past, keys=lambda seq: past + seq)
        rest = of_pass(batch, seq - past, torch.device("cpu"), positions=None, mask=mask, cache=cache)
        real = tokens if mask is not None else torch.ones_like(tokens)
        for context, rows in ((whole, slice(None)), (rest, slice(past, None))):
            ours = Chunked(size)(context)
            ours = (context.visible if ours is None else ours).expand(batch, -1, -1, -1)
            assert torch.equal(ours[:, 0][real[:, rows]], theirs.expand(batch, -1, -1, -1)[:, 0, rows][real[:, rows]])


def loud(module: nn.Module) -> nn.Module:
    """The module with weights drawn anew, in float64."""
    torch.manual_seed(3)
    for one in module.parameters():
        nn.init.normal_(one, std=0.4)
    return module.double().eval()


def with_keys(ours: nn.Module, theirs: nn.Module, **names: str) -> nn.Module:
    """Our part with the reference's weights, by what it calls each of our children."""
    state = theirs.state_dict()
    for name, parameter in ours.named_parameters():
        child, _, leaf = name.rpartition(".")
        with torch.no_grad():
            parameter.data = state[f"{names[child]}.{leaf}" if child else leaf].clone()
    return ours.double().eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_embedding_that_is_normed_as_a_sum_is_bert_s(dtype):
    config = BertConfig(vocab_size=61, hidden_size=24, max_position_embeddings=32, type_vocab_size=3)
    theirs = loud(BertEmbeddings(config))
    ours = SummedEmbed(61, 24, context=32, segments=3, last=nn.LayerNorm(24, eps=config.layer_norm_eps))
    names = {"tokens": "word_embeddings", "positions": "position_embeddings", "segments": "token_type_embeddings"}
    with_keys(ours, theirs, **names, last="LayerNorm")
    ids, positions = torch.randint(61, (2, 9)), torch.arange(9)
    assert ours.to(dtype)(ids, positions).equal(theirs.to(dtype)(ids))
    with pytest.raises(ValueError, match="33 tokens, but this model has learned 32 positions"):
        ours(torch.zeros(1, 33, dtype=torch.long), torch.arange(33))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_an_embedding_that_counts_the_tokens_that_are_not_padding_is_roberta_s(dtype, padding):
    sizes = {"vocab_size": 7, "hidden_size": 24, "max_position_embeddings": 32, "type_vocab_size": 2}
    theirs = loud(RobertaEmbeddings(RobertaConfig(**sizes, pad_token_id=padding)))
    last = nn.LayerNorm(24, eps=1e-12)
    ours = CountedEmbed(7, 24, context=31 - padding, padding=padding, segments=2, last=last)
    names = {"tokens": "word_embeddings", "positions": "position_embeddings", "segments": "token_type_embeddings"}
    with_keys(ours, theirs, **names, last="LayerNorm").to(dtype)
    ids = torch.randint(7, (4, 19))
    assert (ids == padding).any()
    assert ours(ids, torch.arange(19)).equal(theirs.to(dtype)(ids))
    assert ours(ids, 5 + torch.arange(19)).equal(theirs(ids, None, None, None, 5))  # with a cache
    for filler in (padding, 3):
        mask = torch.arange(19) >= torch.tensor([[0], [7], [14], [18]])
        found = ours(ids.where(mask, filler), (mask.cumsum(-1) - 1).clamp(min=0))
        for row, kept, one in zip(ids, mask, found, strict=True):
            assert one[kept].equal(theirs(row[kept][None])[0])
    ours.double()(ids, torch.arange(19)).sum().backward()
    assert not ours.tokens.weight.grad[padding].any()
    assert not ours.positions.weight.grad[padding].any()


def test_an_embedding_without_segments_or_a_last_norm_has_neither():
    plain, summed = (kind(61, 24, context=32) for kind in (PositionedEmbed, SummedEmbed))
    summed.load_state_dict(plain.state_dict())
    ids, positions = torch.randint(61, (2, 9)), torch.arange(9)
    assert summed(ids, positions).equal(plain(ids, positions))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_stands_before_the_head_is_bert_s(dtype):
    theirs = loud(BertPredictionHeadTransform(BertConfig(hidden_size=24, hidden_act="gelu_new")))
    ours = TransformedNorm(nn.Identity(), nn.LayerNorm(24, eps=1e-12), 24, activation="gelu_tanh")
    with_keys(ours, theirs, dense="dense", last="LayerNorm")
    x = torch.randn(2, 9, 24, dtype=dtype)
    apart = ours.to(dtype)(x) - theirs.to(dtype)(x)
    assert apart.abs().max() <= 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_layer_norm_kept_as_its_distance_from_one_is_nemotron_s(dtype):
    theirs = loud(NemotronLayerNorm1P(24, eps=1e-3))
    ours = with_keys(OffsetLayerNorm(24, eps=1e-3), theirs).to(dtype)
    x = torch.randn(2, 9, 24, dtype=dtype)
    assert ours(x).equal(theirs.to(dtype)(x))
    with torch.no_grad():
        ours.draw(0.02)
    assert ours.to(torch.float64)(x.double()).mean(-1).abs().max() < 1e-12
