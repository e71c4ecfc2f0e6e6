"""archport verify: a right port passes, a wrong one is noticed, located and named, and bad input is one line."""

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import archport
from archport.errors import SourceError
from archport.layers import Attention, Chunked, GatedMLP, NormedLastAttention, RMSNorm
from archport.layers.experts import Experts, SigmoidRouter
from archport.layers.rotary import Rotary
from archport.parity import kill, references, verify_architecture, verify_by_block
from archport.parity.catalogue import CATALOGUE
from archport.parity.counterparts import counterparts
from archport.registry import architecture, skeleton

from .commands import run
from .references import FAMILIES, OLD, SIZES, hf_dict, reference

ARCHITECTURES = list(SIZES)
LINES = (
    "logits, random ids",
    "logits, edge ids",
    "logits, one token",
    "logits, full context",
    "logits, many rows",
    "embeddings, every token",
    "logits, int32 ids",
    "logits, run again",
    "logits, positions given",
    "logits, cached",
    "logits, left-padded",
    "logits, right-padded",
    "logits, cached, left-padded",
    "logits, cached, long text",
    "next tokens",
    "next tokens, static cache",
    "greedy tokens",
    "draws from its logits",
    "sampled tokens",
    "ends of texts",
    "logits, autocast",
    "logits, train mode",
    "logits, dropout drawn alike",
    "modules, one by one",
    "residual stream",
    "parameters that train",
    "loss",
    "gradients",
    "gradients, every token",
    "export",
    "export, config",
)
# Positions, dropout, bfloat16 beside routers: not every architecture has all of them, nor a text past the first ids.
WHERE_THERE_IS_ONE = {
    "logits, positions given",
    "logits, cached, long text",
    "logits, autocast",
    "logits, dropout drawn alike",
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_variant_of_an_architecture_is_the_reference(name):
    if OLD and name in FAMILIES:
        pytest.skip("before transformers 5 the class of a family lacks settings that its variants have")
    reports = verify_architecture(name)
    assert len(reports) > 3
    lines = set()
    for report in reports:
        assert report.ok, str(report)
        drawn = [check.name for check in report.checks]
        assert drawn == [line for line in LINES if line in drawn or line not in WHERE_THERE_IS_ONE]
        lines.update(drawn)
    if name not in FAMILIES:
        assert lines == set(LINES)


# Both for the first three, one of them for each family: all variants of each, so that one is enough by default.
HALVES = [
    pytest.param(name, dtype, marks=[] if (name, dtype) == ("gpt2", "bfloat16") else pytest.mark.families)
    for at, name in enumerate(ARCHITECTURES)
    for dtype in (("float16", "bfloat16") if name not in FAMILIES else ("float16", "bfloat16")[at % 2 :][:1])
]


@pytest.mark.parametrize(("name", "dtype"), HALVES)
def test_half_precision_is_held_to_the_reference_s_own_rounding(name, dtype):
    if OLD and name in FAMILIES:
        pytest.skip("before transformers 5 the class of a family lacks settings that its variants have")
    assert all(report.ok for report in verify_architecture(name, dtype=dtype, quick=name in FAMILIES))


def test_the_bundled_checkpoint():
    report = archport.verify()
    assert report.ok, str(report)
    assert "logits, text" in [check.name for check in report.checks]
    assert archport.verify(against="sdpa").ok


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_folder_and_a_model_in_memory(name, tmp_path):
    model = reference(name)
    model.save_pretrained(tmp_path)
    port = archport.load(tmp_path)
    assert archport.verify(tmp_path).ok
    assert archport.verify(port, reference=model).ok
    before = {key: tensor.clone() for key, tensor in port.state_dict().items()}
    assert archport.verify(port, quick=True).ok
    assert all(torch.equal(tensor, before[key]) for key, tensor in port.state_dict().items())
    assert all(parameter.grad is None for parameter in [*port.parameters(), *model.parameters()])


SCORES = Path(__file__).parents[1] / "docs" / "kill_scores.json"


@pytest.mark.usefixtures("some_faults")
@pytest.mark.parametrize("model", [*ARCHITECTURES])
def test_every_planted_fault_is_noticed_located_and_named(model):
    if OLD and model in FAMILIES:
        pytest.skip("before transformers 5 the class of a family lacks settings that its variants have")
    kills = kill.kill_table(model).kills
    assert len({one.fault.name for one in kills}) > 8
    for one in kills:
        assert one.noticed != bool(one.fault.equivalent), one.fault.name
    counted = [one for one in kills if not one.fault.equivalent]
    assert all(one.located for one in counted), [one for one in counted if not one.located]
    unnamed = [(one.fault.name, one.named) for one in counted if not one.right_name]
    known = json.loads(SCORES.read_text())[model]
    assert len(unnamed) <= known["planted"] - known["named"], unnamed


@pytest.mark.families
@pytest.mark.parametrize("in_build", [False, True], ids=["port", "build"])
def test_the_counts_in_the_docs_are_those_of_all_faults(in_build):
    known = json.loads(SCORES.read_text())["gpt2"]
    counts = kill.kill_counts(kill.kill_table("gpt2", in_build=in_build))
    assert counts.items() <= (known["in_build"] if in_build else known).items(), "python tools/count_kills.py gpt2"


# Faults of parts that no architecture has, or (ALiBi with a factor) none whose reference can be compared with.
WIDTH, HEADS = 12, 3


def _norm():
    return RMSNorm(WIDTH // HEADS, eps=1e-5)


def _experts():
    router = SigmoidRouter(WIDTH, 5, top=2, scale=1.7)
    return Experts(
        router, [GatedMLP(WIDTH, 7, activation="silu") for _ in range(5)], GatedMLP(WIDTH, 9, activation="silu")
    )


IN_PLUGINS = {
    "chunks missing": lambda: Attention(WIDTH, HEADS, mask=Chunked(5)),
    "chunks one too long": lambda: Attention(WIDTH, HEADS, mask=Chunked(5)),
    "q and k normed before rotary": lambda: NormedLastAttention(
        WIDTH, HEADS, q_norm=_norm(), k_norm=_norm(), rotary=Rotary(4)
    ),
    "experts weighted by preference": _experts,
    "experts chosen without preference": _experts,
    "experts' scale missing": _experts,
    "shared expert dropped": _experts,
}


@pytest.mark.parametrize("name", IN_PLUGINS)
def test_a_fault_of_a_part_for_plugins_changes_what_it_makes(name):
    torch.manual_seed(0)
    part, x = IN_PLUGINS[name](), torch.randn(2, 16, WIDTH)
    for parameter in part.parameters():
        parameter.data.normal_()
    context = archport.load().context(torch.zeros(2, 16, dtype=torch.long), torch.float32)
    more = [context] if isinstance(part, Attention) else []
    right = part(x, *more)
    fault = next(fault for fault in CATALOGUE if fault.name == name)
    [site] = [module for module in part.modules() if fault.can_exist_in(module)]
    fault.plant(site)
    context.masks.clear()
    assert not torch.allclose(part(x, *more), right, atol=1e-3)


def test_every_fault_of_the_catalogue_can_exist_somewhere():
    if OLD:
        pytest.skip("an older transformers lacks some of the families")
    bundled = kill.bundled_comparison().clean
    left = {fault.name: fault for fault in CATALOGUE if not fault.sites(bundled)}
    for name in ARCHITECTURES:
        arch = architecture(name)
        for sizes in references.variants(arch).values():
            shape = skeleton(arch, arch.config_class(**next(references.with_dropout(arch, sizes))))
            left = {name: fault for name, fault in left.items() if not fault.sites(shape)}
    assert left.keys() == IN_PLUGINS.keys()


def test_no_two_faults_share_a_name():
    names = [fault.name for fault in CATALOGUE]
    assert sorted(set(names)) == sorted(names)


# Mistakes written by hand, not by the catalogue: what a person porting a model would do.


class UpsideDown(Attention):
    """Exchanges queries and keys in code."""

    def forward(self, x, context):
        by_head = self.qkv(x).unflatten(-1, (self.heads, 3, self.head_width))
        k, q, v = by_head.permute(3, 0, 2, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(
            *self.rotate(q, k, context), v, is_causal=True, scale=self.scale
        )
        return self.out(mixed.transpose(1, 2).flatten(-2))


def exchange_in_code(port):
    port.blocks[1].attn.__class__ = UpsideDown


def wrong_pairing(port):
    right = port.blocks[0].attn.rotary
    for block in port.blocks:
        block.attn.rotary = Rotary(right.width, base=right.base, pairing="neighbours")


def tanh_everywhere(port):
    for block in port.blocks:
        block.mlp.activation = nn.GELU(approximate="tanh")


def forgotten_scale(port):
    port.blocks[2].attn.scale = 1.0


def untransposed(port):
    port.blocks[0].attn.out.weight = nn.Parameter(port.blocks[0].attn.out.weight.T.clone())


BY_HAND = {
    exchange_in_code: ("blocks.1.attn", "q and k exchanged"),
    wrong_pairing: ("blocks.0.attn", "rotary neighbours"),
    tanh_everywhere: ("blocks.0.mlp", "activation GELU (tanh)"),
    forgotten_scale: ("blocks.2.attn", "scale missing"),
    untransposed: ("blocks.0.attn.out", "square projection transposed"),
}


@pytest.mark.parametrize("mistake", BY_HAND, ids=lambda mistake: mistake.__name__)
def test_a_mistake_made_by_hand_is_named(mistake):
    model = reference("gpt_neox")
    port = archport.from_state_dict(hf_dict(model), model.state_dict())
    mistake(port)
    report = archport.verify(port, reference=model)
    place, name = BY_HAND[mistake]
    assert not report.ok
    assert report.fault.place == place
    assert report.fault.fault.name == name
    assert place in report.fault.words


def test_a_fault_nobody_knows_says_what_was_ruled_out():
    model = reference("gpt2")
    port = archport.from_state_dict(hf_dict(model), copy.deepcopy(model.state_dict()))
    with torch.no_grad():
        port.blocks[1].mlp.up.weight[3, 4] += 0.5
    report = archport.verify(port, reference=model)
    assert report.fault.place == "blocks.1.mlp.up"
    assert report.fault.fault is None
    assert "no known fault explains it, ruled out:" in report.fault.words
    assert "activation missing" in report.fault.ruled_out


def test_the_first_of_two_faults_is_named_and_does_not_hide_the_second():
    model = reference("gpt_neox")
    port = archport.from_state_dict(hf_dict(model), model.state_dict())
    forgotten_scale(port)
    tanh_everywhere(port)
    from archport.parity.compare import Comparison
    from archport.parity.ids import ids_for

    compared = Comparison(model, ids_for(port, None)).findings(port)
    places = dict.fromkeys(one.place for one in compared if one.differs)
    assert list(places) == ["blocks.0.mlp", "blocks.1.mlp", "blocks.2.attn", "blocks.2.mlp"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_counterparts_hold_the_same_tensors(name):
    model = reference(name)
    port = archport.from_state_dict(hf_dict(model), model.state_dict())
    pairs = counterparts(port, model, architecture(name).table)
    theirs = dict(model.named_modules())
    for ours, path in pairs.items():
        count = sum(parameter.numel() for parameter in port.get_submodule(ours).parameters())
        assert count == sum(parameter.numel() for parameter in theirs[path].parameters())
    wanted = ("blocks.2", "blocks.1.attn", "norm", "head", "embed.tokens")
    assert {name for name in wanted if any(True for _ in port.get_submodule(name).parameters())} <= pairs.keys()


def test_weights_that_are_not_finite_are_named():
    model = reference("gpt_neox")
    port = archport.from_state_dict(hf_dict(model), copy.deepcopy(model.state_dict()))
    with torch.no_grad():
        port.blocks[1].mlp.down.bias[2] = math.nan
    report = archport.verify(port, reference=model)
    assert not report.ok
    assert report.problems == ("blocks.1.mlp.down.bias is not finite",)


def test_frozen_models_are_verified_too():
    model = reference("gpt2").requires_grad_(False)
    port = archport.from_state_dict(hf_dict(model), model.state_dict()).requires_grad_(False)
    with torch.no_grad():
        assert archport.verify(port, reference=model).ok
    assert not any(parameter.requires_grad for parameter in [*port.parameters(), *model.parameters()])


def test_a_model_without_a_source_needs_a_reference():
    sizes = {"vocab_size": 11, "context": 5, "width": 8, "layers": 1, "heads": 2}
    with pytest.raises(SourceError, match="give the transformers model"):
        archport.verify(archport.build("gpt2", sizes))


def test_a_reference_that_cannot_be_built_is_one_line(tmp_path):
    reference("gptj").save_pretrained(tmp_path)
    with pytest.raises(SourceError, match=r"transformers cannot build the reference: .*no_such_attention") as caught:
        archport.verify(tmp_path, against="no_such_attention")
    assert "\n" not in str(caught.value)


def test_reports_in_two_forms():
    model = reference("gpt_neox")
    port = archport.from_state_dict(hf_dict(model), model.state_dict())
    forgotten_scale(port)
    report = archport.verify(port, reference=model)
    facts = json.loads(report.to_json())
    assert facts["ok"] is False
    assert facts["fault"]["name"] == "scale missing"
    assert len(facts["checks"]) == len(report.checks)
    assert report.to_markdown().count("\n| ") == len(report.checks) + 2


def test_the_command(tmp_path):
    assert "the same model as transformers (eager) in float32" in run("verify", "--quick").stdout
    page = tmp_path / "report.html"
    facts = json.loads(run("verify", "--json", "--quick", "--report", str(page)).stdout)
    assert facts["ok"] is True
    assert page.read_text().startswith("<!doctype html>")
    done = run("verify", "--quick", "--report", str(tmp_path / "no" / "such.md"), code=1)
    assert "the same model" in done.stdout
    assert "cannot be written" in done.stderr


def test_the_command_says_what_is_wrong(tmp_path):
    model = reference("gpt_neox")
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        model.gpt_neox.layers[0].mlp.dense_h_to_4h.bias[0] = math.inf
    model.save_pretrained(tmp_path)
    done = run("verify", str(tmp_path), code=1)
    assert "blocks.0.mlp.up.bias is not finite" in done.stdout


@pytest.mark.parametrize("variant", [*ARCHITECTURES, "gpt2 untied", "gpt_neox tied", "gpt_neox sequential"])
def test_block_by_block(variant, tmp_path):
    reference(variant).save_pretrained(tmp_path)
    report = verify_by_block(tmp_path)
    assert report.ok, str(report)
    names = [check.name for check in report.checks]
    assert [name for name in names if "." not in name] == ["embed", "norm", "head", "logits", "units, one by one"]
    assert {"blocks.0", "blocks.1", "blocks.2", "embed.tokens"} <= set(names)


def test_block_by_block_finds_the_block(tmp_path, monkeypatch):
    import archport.models.gpt_neox as wrong

    model = reference("gpt_neox")
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(wrong, "ParallelBlock", wrong.SequentialBlock)
    report = verify_by_block(tmp_path)
    failed = [check.name for check in report.checks if not check.ok]
    assert failed == ["blocks.0", "blocks.1", "blocks.2", "logits", "units, one by one"]


UNDER_A_LIMIT = """
import resource, sys, torch
import archport, transformers
from archport.parity import verify, verify_by_block
torch.set_num_threads(1)
verify_by_block()  # everything is imported and warm
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[2]),) * 2)
if sys.argv[3] == "whole":
    verify(sys.argv[1])
print(verify_by_block(sys.argv[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_DATA")
def test_block_by_block_fits_where_the_model_does_not(tmp_path):
    sizes = {"vocab_size": 256, "context": 64, "width": 640, "layers": 20, "heads": 10}
    port = archport.build("gpt-neox", sizes, dtype="float16")
    weights = sum(parameter.numel() * 4 for parameter in port.parameters())
    archport.export(port, tmp_path / "large")
    words = [sys.executable, "-c", UNDER_A_LIMIT, str(tmp_path / "large"), str(weights // 2)]
    # Memory that is freed goes back at once, so that the limit counts what is in use.
    env = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    whole, by_block = (
        subprocess.run([*words, way], capture_output=True, text=True, env=env) for way in ("whole", "by block")
    )
    assert whole.returncode != 0
    assert "memory" in whole.stderr.lower()
    assert by_block.returncode == 0, by_block.stderr
    assert "the same model as transformers (eager), block by block" in by_block.stdout
