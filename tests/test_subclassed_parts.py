"""A plugin that subclasses archport's attention: grouped heads by three maps, a norm of each head. Oracle: Qwen3."""

import re
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import Linear
from typer.testing import CliRunner

import archport
from archport import registry
from archport.cli import checkpoints, parity, views  # noqa: F401  # each adds its commands
from archport.cli.app import app
from archport.config import DecoderConfig
from archport.errors import SourceError
from archport.layers import Attention, Decoder, Embed, Rotary, SequentialBlock
from archport.mappings import COMMON_HARMLESS, COMMON_REQUIRES
from archport.parity import kill_table, references, verify_architecture
from archport.parity.catalogue import CATALOGUE
from archport.parity.locate import fitted
from archport.registry import architecture
from archport.translate.table import Table, config_field

pytest.importorskip("transformers.models.qwen3", reason="the oldest transformers that archport takes may lack Qwen3")

NAME = "qwen3"


class RMS(nn.Module):
    """Drops to float32 inside half precision only, where Qwen3 always does."""

    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        wide = x if x.dtype == torch.float64 else x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class ThreeMaps(Attention):
    """Makes queries, keys and values by a map each, and has no fused one."""

    def __init__(self, width, heads, *, kv_heads, head_width, **more):
        super().__init__(width, heads, kv_heads=kv_heads, head_width=head_width, bias=False, **more)
        del self.qkv
        self.q = Linear(width, heads * head_width, bias=False)
        self.k, self.v = (Linear(width, kv_heads * head_width, bias=False) for _ in range(2))

    def project(self, x):
        q, k, v = (part(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return q, k, v


class Gated(nn.Module):
    def __init__(self, width, mlp_width):
        super().__init__()
        self.gate, self.up = (Linear(width, mlp_width, bias=False) for _ in range(2))
        self.down = Linear(mlp_width, width, bias=False)

    def forward(self, x):
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    activation: str = "silu"
    rotary_base: float = 10000.0


def build(cfg):
    norm, head_norm = partial(RMS, cfg.width, cfg.norm_eps), partial(RMS, cfg.head_width, cfg.norm_eps)
    sizes = {"kv_heads": cfg.kv_heads, "head_width": cfg.head_width}
    attention = partial(ThreeMaps, cfg.width, cfg.heads, **sizes, rotary=Rotary(cfg.head_width, base=cfg.rotary_base))
    blocks = [
        SequentialBlock(
            norm_attn=norm(),
            attn=attention(q_norm=head_norm(), k_norm=head_norm()),
            norm_mlp=norm(),
            mlp=Gated(cfg.width, cfg.mlp_width),
        )
        for _ in range(cfg.layers)
    ]
    head = Linear(cfg.width, cfg.vocab_size, bias=False)
    return Decoder(embed=Embed(cfg.vocab_size, cfg.width), blocks=blocks, norm=norm(), head=head, tied=cfg.tied)


LAYER = "model.layers.{n}."
ATTENTION = {part: f"self_attn.{part}_proj" for part in "qkv"} | {"out": "self_attn.o_proj"}
ATTENTION |= {name: f"self_attn.{name}" for name in ("q_norm", "k_norm")}
TABLE = Table(
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    prefix="model.",
    config={
        "vocab_size": "vocab_size", "context": "max_position_embeddings", "width": "hidden_size",
        "layers": "num_hidden_layers", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads",
        "head_width": "head_dim", "mlp_width": "intermediate_size", "norm_eps": "rms_norm_eps",
        "activation": config_field("hidden_act", values={"silu": "silu"}), "tied": "tie_word_embeddings",
        "init_std": "initializer_range", "rotary_base": config_field("rope_parameters.rope_theta", "rope_theta"),
    },
    requires=COMMON_REQUIRES
    | {"attention_bias": (False,), "attention_dropout": (0.0,), "use_sliding_window": (False,)}
    | {"rope_scaling": (None,), "rope_parameters.rope_type": ("default",)},
    harmless=COMMON_HARMLESS | {"sliding_window", "max_window_layers", "layer_types"},
    weights={
        "embed.tokens.weight": "model.embed_tokens.weight",
        "blocks.{n}.norm_attn.weight": LAYER + "input_layernorm.weight",
        **{f"blocks.{{n}}.attn.{ours}.weight": f"{LAYER}{theirs}.weight" for ours, theirs in ATTENTION.items()},
        "blocks.{n}.norm_mlp.weight": LAYER + "post_attention_layernorm.weight",
        **{f"blocks.{{n}}.mlp.{name}.weight": f"{LAYER}mlp.{name}_proj.weight" for name in ("gate", "up", "down")},
        "norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    },
    tied={"head.weight": "embed.tokens.weight"},
)  # fmt: skip
SIZES = {"vocab_size": 101, "context": 40, "width": 60, "layers": 3, "heads": 6, "kv_heads": 2, "head_width": 14}
SIZES |= {"mlp_width": 88, "norm_eps": 3e-5, "rotary_base": 9973.0}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    bundled = tuple(name for name in registry._bundled() if name != NAME)
    monkeypatch.setattr(registry, "_bundled", lambda: bundled)  # the plugin stands in for archport's own
    archport.register(NAME, config_class=Config, build=lambda cfg: build(cfg), table=TABLE, sizes=SIZES)


def output(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_it_is_the_same_model_though_heads_are_normed_after_their_axes_turn():
    [report] = verify_architecture(NAME)
    assert report.ok, str(report)


def test_weights_that_are_all_1_leave_a_norm_its_rounding(tmp_path):
    model = references.loud(architecture(NAME), SIZES)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
    model.save_pretrained(tmp_path)
    report = archport.verify(tmp_path)
    assert report.ok, str(report)


def test_it_is_explained_and_compared_without_a_fused_projection(tmp_path):
    text = " ".join(output("explain", NAME).split())
    assert "6 heads of 14 numbers" in text
    assert "in 2 groups that share a key and a value" in text
    assert "ThreeMaps has its own project, of which there is no description yet" in text
    assert "in one product" not in text
    facts = output("diff", NAME, "gpt2", "--all")
    assert "6 of 14, 2 of keys and values" in facts
    assert f"{2 * 3 * 2 * 14 * 4:,} bytes a token in float32" in facts
    output("page", NAME, "--output", tmp_path / "page.html")


@pytest.mark.families
def test_the_kill_table_says_which_steps_no_fault_knows():
    table = kill_table(NAME)
    assert all(kill.noticed and kill.located and kill.right_name for kill in table.kills if not kill.fault.equivalent)
    assert "ThreeMaps's own project (blocks.{n}.attn)" in str(table.coverage)
    assert "Gated (blocks.{n}.mlp)" in str(table.coverage)
    assert "RMS (" in str(table.coverage)


def test_nothing_is_planted_into_a_port_that_differs_already(monkeypatch):
    monkeypatch.setattr(ThreeMaps, "norm", lambda _, q, k: (q, k))
    with pytest.raises(
        SourceError, match=r"qwen3: the port differs from the reference before a fault is planted.*attn"
    ):
        kill_table(NAME)


def test_a_step_set_on_an_instance_is_refused():
    model = references.loud(architecture(NAME), SIZES)
    port = archport.from_state_dict(model.config, model.state_dict())
    port.blocks[1].attn.project = lambda x: ThreeMaps.project(port.blocks[1].attn, x)
    with pytest.raises(SourceError, match=r"blocks\.1\.attn has a project of its own set on the instance"):
        archport.verify(port, reference=model)


def test_heads_before_or_after_the_sequence_are_the_same_numbers():
    ours = torch.randn(2, 6, 24, 14)
    assert torch.equal(fitted(ours, torch.empty(2, 24, 6, 14)), ours.transpose(1, 2))
    assert fitted(ours, torch.empty(2, 6, 24, 14)) is ours or torch.equal(fitted(ours, torch.empty(2, 6, 24, 14)), ours)


class Penalised(ThreeMaps):
    """Has scores of its own, which fall with distance."""

    def scores(self, q, k, context):
        distance = context.places[:, None] - torch.arange(context.keys, device=q.device)
        return super().scores(q, k, context) - distance

    def attend(self, q, k, v, context):
        return self.attend_eagerly(q, k, v, context)


def test_what_its_own_scores_do_is_not_told_from_the_class_above(monkeypatch):
    plain = output("diff", NAME, "gpt2", "--all")
    monkeypatch.setitem(globals(), "ThreeMaps", Penalised)
    monkeypatch.setitem(globals(), "Rotary", lambda *_, **__: None)
    text = " ".join(output("explain", NAME).split())
    assert "turn the scores into weights" in text
    assert "Penalised has its own attend, project, scores" in text
    facts = output("diff", NAME, "gpt2", "--all")
    assert "those of Penalised" in facts
    assert "those of" not in plain
    assert re.search(r"positions +kind +not known +learned", facts), facts


def test_where_no_part_reads_positions_no_fault_restarts_them(monkeypatch):
    fault = next(fault for fault in CATALOGUE if fault.name == "cached positions restart")
    config = Config(**SIZES)
    assert fault.sites(build(config)) == ["decoder"]
    monkeypatch.setitem(globals(), "Rotary", lambda *_, **__: None)
    assert fault.sites(build(config)) == []


def test_a_field_with_one_value_is_not_called_untested():
    assert references.never_varied(architecture(NAME)) == ["tied"]


class Distant(Attention):
    """All that this model knows of positions."""

    def scores(self, q, k, context):
        return super().scores(q, k, context)


@pytest.mark.parametrize(("attention", "positions"), [(Attention, "none"), (Distant, "not known")])
def test_positions_may_be_in_a_step_of_ones_own(monkeypatch, attention, positions):
    monkeypatch.setattr("archport.models.gpt_neox.Attention", attention)
    monkeypatch.setattr("archport.models.RotaryConfig.rotary", lambda *_: None)
    assert re.search(rf" kind +{positions} +learned", output("diff", "gpt_neox", "gpt2"))
