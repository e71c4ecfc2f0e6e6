"""A decoder of parts that nobody has described: every view of it is drawn, and says nothing that is not so."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

import archport
from archport import layers, registry
from archport.cli.views import app
from archport.config import DecoderConfig
from archport.errors import ConfigError
from archport.layers import (
    MLP,
    Attention,
    Decoder,
    Embed,
    NormedLastAttention,
    PostNormBlock,
    RMSNorm,
    Rotary,
    SandwichBlock,
    ScaledBlock,
    SequentialBlock,
)
from archport.layers.experts import (
    ClampedGatedMLP,
    Experts,
    NormalisedRouter,
    SharedExpert,
    SigmoidRouter,
    SoftmaxRouter,
)
from archport.mappings import COMMON_HARMLESS, COMMON_REQUIRES
from archport.registry import architecture
from archport.translate.table import Table
from archport.view.describing import Description, Fact, describe
from archport.view.descriptions import described
from archport.view.explaining import explain
from archport.view.fact_table import diff, facts
from archport.view.page import to_html
from archport.view.plotting import check, draw
from archport.view.reference_tree import joined_rows
from archport.view.subjects import subject
from archport.view.summary import in_words
from archport.view.trees import every, folded, tree

from .references import loud

SIZES = {"vocab_size": 83, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
SIZES |= {"num_key_value_heads": 2, "intermediate_size": 70, "max_position_embeddings": 31, "rms_norm_eps": 2e-5}


class ScaleNorm(nn.Module):
    """A norm without a mean and a bias."""

    def __init__(self, width, eps):
        super().__init__()
        self.eps, self.gain = eps, nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.gain * F.rms_norm(x, x.shape[-1:], eps=self.eps)


class SplitAttention(nn.Module):
    """Attention in three maps."""

    def __init__(self, width, heads, kv_heads, rotary):
        super().__init__()
        self.size, self.turn = width // heads, rotary
        self.queries = nn.Linear(width, width, bias=False)
        self.keys = nn.Linear(width, kv_heads * self.size, bias=False)
        self.values = nn.Linear(width, kv_heads * self.size, bias=False)
        self.back = nn.Linear(width, width, bias=False)

    def forward(self, x, context):
        maps = (self.queries, self.keys, self.values)
        q, k, v = (one(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for one in maps)
        k, v = context.extend(context.rotated(k, self.turn), v)
        mixed = F.scaled_dot_product_attention(
            context.rotated(q, self.turn), k, v, attn_mask=context.visible, enable_gqa=True
        )
        return self.back(mixed.transpose(1, 2).flatten(-2))


class Bend(nn.Module):
    def forward(self, x):
        return F.silu(x)


class GatedMLP(nn.Module):
    def __init__(self, width, wide):
        super().__init__()
        self.gate, self.lift = nn.Linear(width, wide, bias=False), nn.Linear(width, wide, bias=False)
        self.sink, self.bend = nn.Linear(wide, width, bias=False), Bend()

    def forward(self, x):
        return self.sink(self.bend(self.gate(x)) * self.lift(x))


class OwnBlock(nn.Module):
    def __init__(self, first, mixer, second, feed):
        super().__init__()
        self.first, self.mixer, self.second, self.feed = first, mixer, second, feed

    def forward(self, x, context):
        x = x + self.mixer(self.first(x), context)
        return x + self.feed(self.second(x))


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    kv_heads: int = 1
    rotary_base: float = 10000.0


def build(cfg):
    norm = partial(ScaleNorm, cfg.width, cfg.norm_eps)
    rotary = Rotary(cfg.width // cfg.heads, base=cfg.rotary_base)
    mixers = [SplitAttention(cfg.width, cfg.heads, cfg.kv_heads, rotary) for _ in range(cfg.layers)]
    blocks = [OwnBlock(norm(), mixer, norm(), GatedMLP(cfg.width, cfg.mlp_width)) for mixer in mixers]
    head = nn.Linear(cfg.width, cfg.vocab_size, bias=False)
    return Decoder(embed=Embed(cfg.vocab_size, cfg.width), blocks=blocks, norm=norm(), head=head, tied=cfg.tied)


LAYER = "model.layers.{n}."
TABLE = Table(
    classes=("LlamaForCausalLM",),
    prefix="model.",
    config={
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "mlp_width": "intermediate_size",
        "norm_eps": "rms_norm_eps",
        "tied": "tie_word_embeddings",
        "init_std": "initializer_range",
    },
    requires=COMMON_REQUIRES | {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)},
    harmless=COMMON_HARMLESS
    | {"attention_dropout", "head_dim", "pretraining_tp", "rope_theta", "rope_scaling", "rope_parameters"}
    | {"rope_parameters.rope_theta", "rope_parameters.rope_type"},
    weights={
        "embed.tokens.weight": "model.embed_tokens.weight",
        "blocks.{n}.first.gain": LAYER + "input_layernorm.weight",
        "blocks.{n}.mixer.queries.weight": LAYER + "self_attn.q_proj.weight",
        "blocks.{n}.mixer.keys.weight": LAYER + "self_attn.k_proj.weight",
        "blocks.{n}.mixer.values.weight": LAYER + "self_attn.v_proj.weight",
        "blocks.{n}.mixer.back.weight": LAYER + "self_attn.o_proj.weight",
        "blocks.{n}.second.gain": LAYER + "post_attention_layernorm.weight",
        "blocks.{n}.feed.gate.weight": LAYER + "mlp.gate_proj.weight",
        "blocks.{n}.feed.lift.weight": LAYER + "mlp.up_proj.weight",
        "blocks.{n}.feed.sink.weight": LAYER + "mlp.down_proj.weight",
        "norm.gain": "model.norm.weight",
        "head.weight": "lm_head.weight",
    },
    modules={
        "blocks.{n}.mixer.turn": "model.rotary_emb",
        "blocks.{n}.feed.bend": LAYER + "mlp.act_fn",
    },
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint of transformers' Llama, which the parts above are registered for, as if archport had none."""
    monkeypatch.setattr(registry, "_bundled", lambda: ("gpt2",))
    model = loud(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))).eval()
    model.save_pretrained(tmp_path / "llama")
    archport.register("llama", config_class=Config, build=build, table=TABLE)
    yield tmp_path / "llama"
    del registry._registered["llama"]


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def values(of):
    return {(fact.part, fact.what): fact.value for fact in facts(of)}


def test_it_is_the_same_model(folder):
    """Or nothing below would mean much."""
    ids = torch.arange(20)[None] % 83
    expected = transformers.AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    assert torch.allclose(archport.load(folder)(ids), expected, atol=1e-4)


def test_what_is_not_described_is_named_and_nothing_else_is_said(folder):
    rows = {row["path"]: row for row in explain(subject(folder))}
    lacking = {path: rows[path]["text"] for path in rows if "no description" in rows[path]["text"]}
    assert lacking == {
        "blocks.{n}": "no description of OwnBlock yet",
        "blocks.{n}.first": "no description of ScaleNorm yet",
        "blocks.{n}.second": "no description of ScaleNorm yet",
        "blocks.{n}.mixer": "no description of SplitAttention yet",
        "blocks.{n}.feed": "no description of GatedMLP yet",
        "blocks.{n}.feed.bend": "no description of Bend yet",
        "norm": "Before the output head: no description of ScaleNorm yet",
    }
    assert rows["blocks.{n}.mixer.keys"]["text"] == "A linear map: 48 numbers in, 16 out."
    assert rows["blocks.{n}.mixer.keys"]["tensors"][0]["keys"] == ["model.layers.{n}.self_attn.k_proj.weight"]
    assert rows["blocks.{n}.mixer.turn"]["count"] == 1  # one module, used by all
    assert "8 elements of each head are turned." in rows["blocks.{n}.mixer.turn"]["text"]
    text = " ".join(row["text"] for row in rows.values())
    for untrue in ("mean 0", "LayerNorm", "bias", "3 x", "sum to 1"):
        assert untrue not in text


def test_facts_are_those_that_are_known(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    known = values(subject(folder))
    assert known["positions", "kind"] == "rotary"
    assert known["residual", "wiring"] == "OwnBlock"
    assert known["residual", "norms of a block"] == known["sizes", "KV cache"] == "not known"
    assert known["sizes", "parameters"] == f"{model.num_parameters():,}"
    attention = sum(p.numel() for name, p in model.named_parameters() if ".self_attn." in name)
    gated = sum(p.numel() for name, p in model.named_parameters() if ".mlp." in name)
    assert known["sizes", "of SplitAttention"] == f"{attention:,}"
    assert known["sizes", "of GatedMLP"] == f"{gated:,}"
    absent = {("residual", "norm eps"), ("sizes", "of attention"), ("sizes", "of MLPs"), ("dropout", "attention")}
    assert not absent & known.keys()
    assert not {part for part, _ in known} & {"attention", "mlp"}
    rows = {(row["part"], row["what"]): row["values"] for row in diff([subject(folder), subject("gpt2")])}
    assert rows["attention", "heads"] == ["-", "12 of 64"]
    assert rows["sizes", "of GatedMLP"] == [f"{gated:,}", "-"]


def test_trees_and_joins(folder, monkeypatch):
    rows = {row["path"]: row for row in joined_rows(subject(folder, headers_only=False)) if row["path"]}
    assert rows["blocks.0.mixer.turn"]["theirs"] == "model.rotary_emb"
    assert rows["blocks.0.mixer"]["theirs"] == "model.layers.0-2.self_attn"
    assert [path for path, row in rows.items() if row["join"] == "-"] == ["embed.dropout"]
    assert {row["join"] for row in rows.values()} == {"=", "-", ""}
    assert [row["path"] for row in tree(subject(folder).model)] == list(rows)
    monkeypatch.setattr(GatedMLP, "forward", lambda *_: None)
    monkeypatch.setattr(Bend, "forward", lambda _self, x, _other: x)  # one that cannot be run alone
    rows = {row["path"]: row for row in joined_rows(subject(folder, headers_only=False)) if row["path"]}
    assert rows["blocks.0.feed.bend"]["join"] == "?"
    assert "? not compared" in invoke("tree", folder, "--reference").stdout


def test_plots(folder):
    model = subject(folder, headers_only=False)
    spectrum = draw(model, "spectrum")
    names = [axes.get_title().partition(",")[0] for axes in spectrum.axes if axes.axison]
    maps = ["mixer.queries", "mixer.keys", "mixer.values", "mixer.back", "feed.gate", "feed.lift", "feed.sink"]
    assert names == maps
    weight = archport.load(folder).blocks[2].feed.lift.weight.detach()
    drawn = torch.from_numpy(spectrum.axes[5].lines[2].get_ydata())
    assert torch.allclose(drawn, torch.linalg.svdvals(weight), rtol=1e-4)
    assert draw(model, "weights", name="blocks.0.mixer.keys.weight").axes[0].get_ylabel() == "out"
    message = "layer 1 has no attention probabilities to observe, as Attention has: found ScaleNorm, SplitAttention"
    with pytest.raises(ConfigError, match=f"^plot: attention: {message}"):
        check(model, "attention", layer=1)
    with pytest.raises(ConfigError, match="has rotary positions, which are angles"):
        check(model, "positions")


def test_norms_of_the_stream(folder):
    from archport.view.measured import stream_norms

    ids = torch.arange(20)[None] % 83
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    states = model(ids, output_hidden_states=True).hidden_states[:-1]
    norms = torch.stack([state[0].norm(dim=-1) for state in states])
    assert torch.allclose(stream_norms(archport.load(folder), ids)[:-1], norms, rtol=1e-4)


def test_the_page_and_the_commands(folder):
    for words in (["tree"], ["tree", "--json"], ["explain"], ["explain", "--json"]):
        assert invoke(*words[:1], folder, *words[1:]).exit_code == 0
    assert "no description of GatedMLP yet" in invoke("explain", folder, "feed").stdout
    assert invoke("diff", folder, "gpt2", "--all").exit_code == 0
    text = to_html([subject(folder, headers_only=False), subject("gpt2")])
    assert "no description of SplitAttention yet" in text
    assert "no attention probabilities to observe" in text


def test_a_class_of_ones_own_describes_itself(folder):
    def description(part, _subject, path):
        text = f"Gates {part.lift.out_features} numbers in {path}."
        return Description(text, kind="mlp", facts=[Fact("mlp", "width", "70, gated")])

    describe.register(GatedMLP, description)
    try:
        rows = {row["path"]: row for row in explain(subject(folder))}
        known = values(subject(folder))
    finally:
        describe.register(GatedMLP, describe.dispatch(object))
    assert rows["blocks.{n}.feed"]["text"] == "Gates 70 numbers in blocks.0.feed."
    assert known["mlp", "width"] == "70, gated"
    assert ("sizes", "of GatedMLP") not in known
    assert ("sizes", "of MLPs") in known


# --- parts that are ours, in other settings, or changed by a subclass ---


class SlowMLP(MLP):
    def forward(self, x):
        return self.down(x.new_zeros(*x.shape[:-1], self.down.in_features))


class LocalAttention(Attention):
    def scores(self, q, k, context):
        return super().scores(q, k, context).triu(-4)


def test_a_subclass_is_what_it_was_but_for_what_it_changes():
    model = subject("gpt2")
    for block in model.model.blocks:
        block.attn.__class__, block.mlp.__class__ = LocalAttention, SlowMLP
    rows = {row["path"]: row["text"] for row in explain(model)}
    assert rows["blocks.{n}.attn"].startswith("Lets each position gather")
    assert rows["blocks.{n}.attn"].endswith("LocalAttention has its own scores, of which there is no description yet.")
    assert rows["blocks.{n}.mlp"] == "no description of SlowMLP yet"
    assert values(model)["sizes", "of MLPs"] == values(subject("gpt2"))["sizes", "of MLPs"]


def test_heads_that_share_keys_and_values():
    model = subject("gpt2")
    for layer, block in enumerate(model.model.blocks):
        block.attn = Attention(768, 12, kv_heads=4 if layer else 12, bias=layer > 0).to("meta")
    [first, second] = [row["text"] for row in explain(model, "attn.qkv")]
    assert "3 x 12 x 64 = 2,304 out. Our rows go head by head" in first
    assert "(12 + 2 x 4) x 64 = 1,280 out. Our rows go group by group" in second
    known = values(model)
    assert known["attention", "heads"] == "12 of 64 (layer 0) / 12 of 64, 4 of keys and values (layers 1 to 11)"
    assert known["attention", "biases"] == "no (layer 0) / yes (layers 1 to 11)"
    cached = 2 * 64 * (12 + 11 * 4) * 4
    assert known["sizes", "KV cache"] == f"{cached:,} bytes a token in float32"


def test_biases_and_norms_are_asked_of_the_modules():
    model = subject("gpt2")
    model.model.blocks[0].attn.out = nn.Linear(768, 768, bias=False, device="meta")
    model.model.norm = nn.LayerNorm(768, bias=False, device="meta")
    assert values(model)["attention", "biases"] == "yes, but not in out (layer 0) / yes (layers 1 to 11)"
    text = " ".join(described(model)["norm"].text.split())
    assert text.endswith("a learned gain. The stream itself stays as it is.")


# --- parts that families have ---


def of_parts(*blocks, **parts):
    """A Llama at its test sizes, of other parts."""
    model = subject("llama")
    cfg = replace(model.config, **(architecture("llama").sizes | {"layers": len(blocks)}))
    model = replace(model, config=cfg)
    embed = parts.pop("embed", Embed(113, 72))
    head, norm = nn.Linear(72, 113, bias=False), parts.pop("norm", RMSNorm(72, eps=1e-5))
    made = Decoder(embed=embed, blocks=blocks, norm=norm, head=head, **parts).to("meta")
    made.config, made.architecture = cfg, "llama"
    vars(model)["model"] = made
    return model


def block(attn=None, mlp=None, kind=SequentialBlock, **more):
    names = {SandwichBlock: ("norm_attn", "norm_attn_out", "norm_mlp", "norm_mlp_out")}
    names |= {PostNormBlock: ("norm_attn_out", "norm_mlp_out")}
    norms = {name: RMSNorm(72, eps=1e-5) for name in names.get(kind, ("norm_attn", "norm_mlp"))}
    parts = {"attn": attn or attention(), "mlp": mlp or layers.GatedMLP(72, 102, activation="silu")}
    return kind(**norms, **parts, **more)


def attention(kind=Attention, **more):
    return kind(72, 6, **{"kv_heads": 2, "head_width": 10, "bias": False, "rotary": Rotary(10)} | more)


def texts(model):
    return {path: " ".join(one.text.split()) for path, one in described(model).items()}


def expert():
    return layers.GatedMLP(72, 40, activation="silu")


def experts(router, **more):
    return Experts(router, [expert() for _ in range(4)], **more)


WITH = {  # a part, where something is said of it, a piece of what is, and facts
    "window": (
        attention(mask=layers.Window(9)),
        "attn.mask",
        "Each query sees the last 9 tokens",
        {
            "attention sees": "the last 9",
            "sizes KV cache": "160 bytes a token in float32; past 9 tokens no more are needed",
        },
    ),
    "chunks": (attention(mask=layers.Chunked(9)), "attn.mask", "chunks of 9 tokens", {"attention sees": "its chunk"}),
    "alibi": (
        attention(mask=layers.Alibi(6), rotary=None),
        "attn.mask",
        "from 0.00391 to 0.5",
        {"positions kind": "ALiBi", "positions slopes": "0.00391 to 0.5", "attention sees": "all before it"},
    ),
    "alibi over slots": (
        attention(mask=layers.SlotAlibi(6), rotary=None),
        "attn.mask",
        "padding between two tokens counts too",
        {"positions kind": "ALiBi", "attention sees": "all before it"},
    ),
    "rounded alibi": (
        attention(mask=layers.RoundedAlibi(6), rotary=None),
        "attn.mask",
        "Raises each score by how far the key is from the first token",
        {"positions kind": "ALiBi, rounded to bfloat16", "attention sees": "all before it"},
    ),
    "yarn": (
        attention(rotary=Rotary(10, scaling=layers.Yarn(4.0, 31))),
        "attn.rotary",
        "Cos and sin are multiplied by 1.13863",
        {"positions rotary base": "(Yarn), cos and sin times 1.13863"},
    ),
    "clamped": (
        ClampedGatedMLP(72, 40, alpha=1.7, limit=7.0),
        "mlp",
        "The gate is kept below 7, the up-projection between -7 and 7 and raised by 1.",
        {"mlp kind": "gated, clamped"},
    ),
    "no positions": (attention(rotary=None), "attn", "Lets each position", {"positions kind": "none"}),
    "soft cap": (
        attention(softcap=5.0),
        "attn",
        "turn the scores, divided by sqrt(head width), bent so that none passes 5, into weights",
        {"attention scores": "divided by sqrt(head width), bent so that none passes 5"},
    ),
    "clip": (attention(clip=3.0), "attn", "kept between -3 and 3", {"attention clip": "3"}),
    "sinks": (
        attention(sinks=layers.Sinks(6)),
        "attn.sinks",
        "A learned score for each of 6 heads",
        {"attention sinks": "one a head"},
    ),
    "norms of heads": (
        attention(q_norm=RMSNorm(10, eps=1e-4), k_norm=RMSNorm(10, eps=1e-4)),
        "attn.q_norm",
        "Of queries: divides each head's 10 numbers",
        {"attention norms of q and k": "RMSNorm of each head", "residual norm eps": "1e-05"},
    ),
    "norms across heads": (
        attention(q_norm=layers.AcrossHeads(RMSNorm(60, eps=1e-4)), k_norm=layers.AcrossHeads(RMSNorm(20, eps=1e-4))),
        "attn.q_norm.norm",
        "Divides all heads' 60 numbers",
        {"attention norms of q and k": "RMSNorm of all heads together", "residual norm eps": "1e-05"},
    ),
    "norms after rotary": (
        attention(NormedLastAttention, q_norm=RMSNorm(10, eps=1e-4), k_norm=RMSNorm(10, eps=1e-4)),
        "attn",
        "normed after they are turned",
        {"attention norms of q and k": "RMSNorm of each head, after rotary"},
    ),
    "one key": (attention(kv_heads=1), "attn", "all with the same keys and values", {"sizes KV cache": "80 bytes"}),
    "experts": (
        experts(NormalisedRouter(72, 4, top=2)),
        "mlp",
        "a router chooses 2 of 4 experts for each token",
        {
            "mlp kind": "experts, gated",
            "mlp experts": "4, 2 of them a token",
            "mlp router": "a softmax over all of them, of which the largest 2 are taken, divided by their sum",
            "sizes active for a token": "45,576",
            "mlp width": "40",
        },
    ),
    "a shared expert": (
        experts(SoftmaxRouter(72, 4, top=1), shared=SharedExpert(72, expert())),
        "mlp.shared",
        "that every token goes through",
        {"mlp experts": "4, 1 of them a token, and a shared one"},
    ),
    "preferred experts": (
        experts(SigmoidRouter(72, 4, top=1, groups=2, top_groups=1, scale=2.5)),
        "mlp.router",
        "in 2 groups, of which the best 1 are chosen from",
        {"mlp router": "a sigmoid of each, of which 1 are taken, divided by their sum, times 2.5"},
    ),
}


@pytest.mark.parametrize(("part", "path", "said", "known"), WITH.values(), ids=WITH)
def test_what_is_said_of_a_part(part, path, said, known):
    model = of_parts(block(part) if isinstance(part, Attention) else block(mlp=part))
    rows = texts(model)
    assert said in rows[f"blocks.0.{path}"]
    assert not [path for path, text in rows.items() if "no description" in text]
    found = {f"{fact.part} {fact.what}": fact.value for fact in facts(model)}
    assert {what: found[what] for what in known if known[what] not in found[what]} == {}


WIRED = {
    SandwichBlock: ("norm_mlp_out", "After the MLP, before it is added to the stream: divides", "four", "as they are"),
    PostNormBlock: ("norm_attn_out", "After attention, before it is added", "two", "as they are"),
    ScaledBlock: ("", "what each adds is multiplied by 0.22 first", "two", "times 0.22"),
}


@pytest.mark.parametrize("kind", WIRED)
def test_what_is_said_of_wirings(kind):
    path, said, norms, branches = WIRED[kind]
    model = of_parts(block(kind=kind, **{"scale": 0.22} if kind is ScaledBlock else {}))
    assert said in texts(model)[f"blocks.0.{path}".strip(".")]
    known = values(model)
    assert (known["residual", "norms of a block"], known["residual", "branches"]) == (norms, branches)


ENDS = {
    "soft cap": ({"finish": layers.SoftCap(30.0)}, "finish", "none passes 30", "head logits", "bent to stay within 30"),
    "scale": ({"finish": layers.LogitScale(0.0625)}, "finish", "by 0.0625", "head logits", "times 0.0625"),
    "own": ({"finish": Bend()}, "finish", "no description of Bend", "head logits", "not known"),
    "none": ({}, "head", "113 scores", "head logits", "as they are"),
    "scaled": ({"embed": Embed(113, 72, scale=7.5)}, "embed", ", times 7.5", "embedding token vectors", "times 7.5"),
    "scaled in the lookup": (
        {"embed": layers.ScaledEmbed(113, 72, scale=7.5)},
        "embed.tokens",
        "times 7.5 as it is looked up",
        "embedding token vectors",
        "times 7.5",
    ),
    "normed": (
        {"embed": Embed(113, 72, norm=nn.LayerNorm(72))},
        "embed.norm",
        "Of the token vectors: shifts",
        "embedding token vectors",
        "normed",
    ),
    "offset": (
        {"embed": layers.PositionedEmbed(113, 72, context=31, offset=2)},
        "embed.positions",
        "for each of 31 positions",
        "positions context",
        "31 tokens, no more",
    ),
    "counted": (
        {"embed": layers.CountedEmbed(113, 72, context=31, padding=1)},
        "embed.positions",
        "for each of 31 positions",
        "positions kind",
        "learned, of the tokens that are not padding",
    ),
    "segments": (
        {"embed": layers.SummedEmbed(113, 72, context=31, segments=2)},
        "embed.segments",
        "the first is added to every token's",
        "embedding segments",
        "that of the first is added",
    ),
    "normed as a sum": (
        {"embed": layers.SummedEmbed(113, 72, context=31, last=nn.LayerNorm(72))},
        "embed.last",
        "Of the sum: shifts",
        "embedding sum",
        "normed",
    ),
    "norm, distance from one": (
        {"norm": layers.OffsetLayerNorm(72, eps=1e-5)},
        "norm",
        "kept as its distance from 1",
        "residual norm",
        "LayerNorm",
    ),
    "norm, transformed": (
        {"norm": layers.TransformedNorm(nn.Identity(), nn.LayerNorm(72), 72, activation="gelu")},
        "norm",
        "then maps, activates and norms it once more for the head",
        "residual before the head",
        "mapped, activated and normed once more",
    ),
    "norm, rounded last": (
        {"norm": layers.OffsetRMSNorm(72, eps=1e-5)},
        "norm",
        "after the gain",
        "residual norm",
        "RMSNorm / RMSNorm, times 1 + gain",
    ),
}


@pytest.mark.parametrize(("parts", "path", "said", "what", "value"), ENDS.values(), ids=ENDS)
def test_what_is_said_of_the_ends(parts, path, said, what, value):
    model = of_parts(block(), **parts)
    assert said in texts(model)[path]
    known = {f"{fact.part} {fact.what}": fact.value for fact in facts(model)}
    assert value in known[what]


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ([0], "8 (layer 0) / all (layers 1 to 11)"),
        ([0, 2, 4, 6, 8, 10], "8 (each second layer from 0) / all (each second layer from 1)"),
        ([n for n in range(12) if n % 4 < 3], "8 (all but each fourth layer from 3) / all (each fourth layer from 3)"),
        ([0, 3], "8 (each third layer from 0 to 3) / all (all but each third layer from 0 to 3)"),
        ([1, 2, 5], "8 (layers 1, 2, 5) / all (layers 0, 3, 4, 6, 7, 8, 9, 10 and 1 more)"),
    ],
)
def test_layers_that_differ_are_named(odd, said):
    wide, narrow = attention(), attention(mask=layers.Window(8))
    model = of_parts(*(block(narrow if layer in odd else wide) for layer in range(12)))
    found = values(model)["attention", "sees"].replace("the last 8", "8").replace("all before it", "all")
    assert found in (said, " / ".join(reversed(said.split(" / "))))


def test_windows_and_scalings_in_a_line():
    rotary, window = Rotary(10, scaling=layers.Yarn(4.0, 31)), layers.Window(9)
    for masks, said in (((window, None), "window of 9 in some layers"), ((window, window), "window of 9")):
        words = in_words(of_parts(*(block(attention(rotary=rotary, mask=mask)) for mask in masks)).model)
        assert f"rotary 10 of 10 in halves with Yarn, 4 times, {said}, sequential residual, untied head" in words


def test_a_part_is_told_once_with_its_layers():
    shared, own = Rotary(10), {0: {"mask": layers.Window(8)}, 3: {"rotary": None}}
    model = of_parts(*(block(attention(**{"rotary": shared} | own.get(layer % 4, {}))) for layer in range(8)))
    rows = [(row["path"].removeprefix("blocks.{n}."), row["count"], row["layers"]) for row in explain(model)]
    assert [row for row in rows if row[0] in ("attn", "attn.qkv", "attn.rotary", "attn.mask")] == [
        ("attn", 2, "each fourth layer from 0"),
        ("attn", 4, "layers 1, 2, 5, 6"),
        ("attn", 2, "each fourth layer from 3"),
        ("attn.qkv", 8, ""),
        ("attn.rotary", 1, "all but each fourth layer from 3"),
        ("attn.mask", 1, "each fourth layer from 0"),
    ]
    texts_of = [row["text"] for row in explain(model) if row["path"] == "blocks.{n}.attn"]
    assert ["no angle tells positions apart" in text for text in texts_of] == [False, False, True]


def test_experts_are_folded_in_their_layers():
    model = of_parts(
        block(mlp=experts(NormalisedRouter(72, 4, top=2))), block(mlp=experts(SoftmaxRouter(72, 4, top=2)))
    )
    rows = {row["path"]: row for row in tree(model.model)}
    assert [(rows[f"blocks.{n}.mlp.experts.0"][key]) for n in (0, 1) for key in ("module", "kind", "count")] == [
        "experts.0-3",
        "4 x GatedMLP",
        4,
    ] * 2
    assert sum(row["parameters"] for row in rows.values() if row["depth"] == 1) == sum(
        p.numel() for p in model.model.parameters()
    )
    two = of_parts(*(block(mlp=experts(NormalisedRouter(72, 4, top=2))) for _ in range(2)))
    [row] = [row for row in tree(two.model) if row["path"] == "blocks.0.mlp.experts.0.gate"]
    assert (row["count"], row["parameters"]) == (8, 8 * 72 * 40)
    [line] = [line for line in folded(two.model) if line.path == row["path"]]
    assert list(line.paths) == [f"blocks.{n}.mlp.experts.{e}.gate" for n in (0, 1) for e in range(4)]
    assert every(row["path"]) == "blocks.{n}.mlp.experts.{e}.gate"


def test_no_difference_where_one_has_no_such_thing():
    rows = {(row["part"], row["what"]): row["same"] for row in diff([subject("gpt2"), subject("llama")])}
    assert rows["positions", "kind"] is False
    assert rows["positions", "rotary base"] is None
    assert rows["residual", "wiring"] is True
