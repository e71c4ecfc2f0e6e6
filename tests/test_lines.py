"""What a report's lines beside plain logits see: each has faults that only it shows, and calls no right port wrong."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archport
from archport.layers import MLP, Attention, Decoder
from archport.parity import kill, references
from archport.parity.catalogue.lines import OF_LINES
from archport.parity.lines import BY_NAME, dropout, inside, line
from archport.parity.lines.dropout import drawn_alike
from archport.parity.passes import padded_logits
from archport.parity.reordered import summed_in_pieces
from archport.parity.tiny_models import loud_comparison
from archport.registry import architecture

from .references import SIZES


def comparison(name, variant=None):
    arch = architecture(name)
    return loud_comparison(name, references.variants(arch)[variant or name])


@pytest.fixture(scope="module")
def gpt2():
    return comparison("gpt2")


@pytest.fixture
def port(gpt2):
    return gpt2.port_of(gpt2.reference)


@pytest.mark.parametrize(
    "name",
    [
        *("gpt2", "mistral"),
        *(pytest.param(name, marks=pytest.mark.families) for name in [*SIZES][::3] if name not in ("gpt2", "mistral")),
    ],
)
def test_each_line_s_faults_are_noticed_placed_and_named(name, monkeypatch):
    # All for two, every third for the others: the lines are the same for all.
    faults = OF_LINES if name in ("gpt2", "mistral") else OF_LINES[[*SIZES].index(name) % 3 :: 3]
    monkeypatch.setattr(kill, "faults_for", lambda _: faults)
    kills = kill.kill_table(name).kills
    assert len(kills) > len(faults) / 2
    for one in kills:
        assert (one.noticed, one.located, one.named) == (True, True, one.fault.name), one


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "olmo2"])  # OLMo 2 norms what attention makes, so that logits hide it
def test_a_constant_that_is_a_little_off_is_named_in_one_block_and_in_all(name, everywhere):
    on = comparison(name)
    wrong = on.port_of(on.reference)
    fault = next(fault for fault in OF_LINES if fault.name == "constant a little off")
    for site in fault.sites(wrong) if everywhere else fault.sites(wrong)[-1:]:
        fault.plant_at(wrong, site)
    report = archport.verify(wrong, reference=on.reference)
    assert report.fault.fault.name == fault.name


def test_every_line_by_its_name_has_a_fault():
    assert BY_NAME.keys() - {fault.line for fault in OF_LINES} == {
        "draws from its logits", "ends of texts", "export", "export, config"
    }  # fmt: skip  # whose faults are not in a model


def test_a_parameter_that_is_frozen_is_another_model_and_all_of_them_are_not(gpt2, port):
    assert archport.verify(port.requires_grad_(False), reference=gpt2.reference).ok
    port.requires_grad_(True).norm.weight.requires_grad_(False)
    report = archport.verify(port, reference=gpt2.reference)
    assert [check.name for check in report.checks if not check.ok] == ["parameters that train"]
    assert report.fault.words.startswith("norm.weight: requires_grad is off in a parameter")
    assert not port.norm.weight.requires_grad


def test_what_makes_no_other_model_is_said_apart_from_the_verdict(gpt2, port):
    port.train().config = replace(port.config, init_std=0.5)
    report = archport.verify(port, reference=gpt2.reference)
    assert report.ok
    assert port.training
    assert report.notes == (
        "handed over in train mode, where it drops numbers: compared in eval mode",
        "config.init_std is 0.5, the reference's 0.02: it acts on fresh weights only",
    )
    assert list(report.notes) == report.to_dict()["notes"] == report.remarks
    assert report.notes[1] in str(report)
    assert report.notes[1] in report.to_markdown()


def dropout_at_another_rate(port):
    port.blocks[1].mlp.dropout.p = 0.5


def no_dropout(port):
    port.blocks[1].mlp.dropout = nn.Identity()


def scores_dropped_at_another_rate(port):
    port.blocks[1].attn.score_dropout = 0.5


def another_number(port):
    port.blocks[1].attn.scale *= 1.01


def one_parameter_more(port):
    port.more = nn.Parameter(torch.ones(3))


def a_part_less(port):
    del port.blocks[1].mlp.up


def fewer_positions(port):
    port.embed.positions.weight.data = port.embed.positions.weight.data[:20]


def not_a_number(port):
    bias = port.blocks[1].mlp.up.bias
    bias.data = torch.full_like(bias, torch.nan)


def another_config(port):
    port.config = replace(port.config, norm_eps=0.25)


KNOWN = {
    dropout_at_another_rate: "blocks.1.mlp.dropout",
    no_dropout: "blocks.1.mlp.dropout",
    scores_dropped_at_another_rate: "blocks.1.attn",
    another_number: "blocks.1.attn",
    one_parameter_more: "more",
    a_part_less: "blocks.1.mlp.up.bias",
    fewer_positions: "embed.positions.weight",
    not_a_number: "blocks.1.mlp.up.bias",
}


@pytest.mark.parametrize("change", KNOWN, ids=lambda change: change.__name__)
def test_what_settings_show_is_the_fault_where_none_of_the_catalogue_explains_it(change, gpt2, port):
    change(port)
    report = archport.verify(port, reference=gpt2.reference)
    assert report.fault.place == KNOWN[change]
    assert report.fault.words == report.problems[0]
    assert str(report).count(report.fault.words) == 1


def test_a_config_of_another_model_is_the_fault_where_no_line_sees_it(gpt2, port):
    another_config(port)
    assert archport.verify(port, reference=gpt2.reference, quick=True).fault.place == "config.norm_eps"


def test_a_head_with_the_same_weights_of_its_own_is_untied(gpt2, port):
    port.head.weight = nn.Parameter(port.head.weight.detach().clone())
    assert archport.verify(port, reference=gpt2.reference).fault.fault.name == "head untied"


@pytest.mark.parametrize("names", [["one"], ["one", "two"]], ids=len)
def test_a_buffer_more_is_no_other_model(names, gpt2, port):
    for name in names:
        port.blocks[1].mlp.register_buffer(name, torch.ones(3))
    port.blocks[1].mlp.register_buffer("left_alone", torch.ones(3), persistent=False)
    report = archport.verify(port, reference=gpt2.reference)
    assert report.ok
    what = {1: "is a buffer", 2: "and 1 more are buffers"}[len(names)]
    assert report.notes == (f"blocks.1.mlp.one {what} that the reference lacks and no export keeps",)


class InATuple(Decoder):
    def forward(self, *args, **how):
        return (super().forward(*args, **how),)


def test_a_port_that_returns_no_logits(gpt2, port):
    port.__class__ = InATuple
    report = archport.verify(port, reference=gpt2.reference)
    assert report.problems == ("decoder returns a tuple, expected logits",)
    assert report.fault.place == "decoder"


class DropsTheMask(Decoder):
    def forward(self, ids=None, **how):
        if how.get("cache") is not None and ids.shape[1] == 1:
            how["mask"] = None
        return super().forward(ids, **how)


def test_cached_steps_that_drop_the_mask(gpt2, port):
    port.__class__ = DropsTheMask
    report = archport.verify(port, reference=gpt2.reference)
    assert [check.name for check in report.checks if not check.ok] == ["logits, cached, left-padded"]
    assert report.fault.fault.name == "padding forgotten in single steps"


class ByHand(nn.Module):
    """GELU by tanh, with constants of its own."""

    def __init__(self, scale=0.7978845608028654, cube=0.044715):
        super().__init__()
        self.scale, self.cube = scale, cube

    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(self.scale * (x + self.cube * x**3)))


class ATrifleLouder(MLP):
    def forward(self, x):
        return super().forward(x) * (1 + 2e-6)


OFF = {
    "cube": ("blocks.0.mlp.activation", lambda mlp: setattr(mlp, "activation", ByHand(cube=0.0447))),
    "scale": ("blocks.", lambda mlp: setattr(mlp, "activation", ByHand(scale=0.79788))),  # within what float32 explains
    "louder": ("blocks.0.mlp", lambda mlp: setattr(mlp, "__class__", ATrifleLouder)),
}


@pytest.mark.parametrize("which", OFF)
def test_a_constant_that_is_a_little_off_has_its_place(which, gpt2, port):
    place, change = OFF[which]
    for block in port.blocks:
        change(block.mlp)
    report = archport.verify(port, reference=gpt2.reference)
    assert not report.ok
    assert report.fault.place.startswith(place)
    assert report.fault.place.endswith(".mlp" if which == "louder" else ".mlp.activation")
    assert "without any rounding, where constants in float32 explain" in report.fault.words
    assert "every module agrees" not in report.fault.words


def test_a_gelu_by_hand_with_all_digits_is_right(gpt2, port):
    for block in port.blocks:
        block.mlp.activation = ByHand()
    assert archport.verify(port, reference=gpt2.reference).ok


class DropsByHand(MLP):
    """Right, with random numbers of its own."""

    def forward(self, x):
        made = self.down(self.activation(self.up(x)))
        if not self.training:
            return made
        return made * (torch.rand_like(made) >= self.dropout.p) / (1 - self.dropout.p)


class InSinglePrecision(Attention):
    """Right, with a constant that is kept in float32, and its output cast there and back."""

    def __init__(self, **_):
        raise NotImplementedError

    def output(self, heads):
        self.one = torch.tensor(1.0) if not hasattr(self, "one") else self.one
        return super().output(heads.float().to(heads.dtype) * self.one)


@pytest.mark.parametrize("name", ["DropsByHand", "InSinglePrecision"])
def test_a_right_class_of_one_s_own_is_not_called_wrong(name, gpt2, port):
    kind = globals()[name]
    for block in port.blocks:
        (block.mlp if kind is DropsByHand else block.attn).__class__ = kind
    assert all(check.ok for check in line(dropout.DROPPED, gpt2, port))
    [own] = line(inside.OWN, gpt2, port)
    assert own.ok
    assert own.port_error < 1e-12


def test_dropout_is_drawn_alike_in_any_shape_and_inside_fused_attention():
    x = torch.randn(2, 3, 4)
    q, k, v = torch.randn(3, 1, 2, 5, 4).unbind()
    with drawn_alike() as drawn:
        assert torch.equal(F.dropout(x, 0.5).flatten(), nn.Dropout(0.5)(x.view(6, 4)).flatten())
        fused = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3, is_causal=True)
        scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
        eager = F.dropout(scores.softmax(-1), 0.3) @ v
    assert drawn.count == 4
    assert torch.allclose(fused, eager, atol=1e-6)
    assert (F.dropout(x, 0.5, training=False) == x).all()


@pytest.mark.parametrize("pieces", [2, 3, 7])
def test_a_sum_in_pieces_is_the_same_sum_in_another_order(pieces):
    x, weight, bias = torch.randn(5, 61), torch.randn(7, 61), torch.randn(7)
    whole = F.linear(x, weight, bias)
    with summed_in_pieces(pieces):
        in_pieces, conv1d = F.linear(x, weight, bias), torch.addmm(bias, x, weight.T)
    assert torch.equal(in_pieces, conv1d)
    assert 0 < (in_pieces - whole).abs().max() < 1e-4


def test_padding_before_a_row_makes_no_nan_in_the_reference_s_float64():
    long = comparison("llama", "llama, rotary_scaling longrope")
    for side in ("left", "right"):
        apart = padded_logits(long.exact, long.first_ids, side) - padded_logits(long.clean, long.first_ids, side)
        assert apart.abs().max() < 1e-4


def test_the_files_that_a_port_came_from_are_what_it_would_write(tmp_path):
    folder = archport.export(archport.load(), tmp_path / "model", dtype="bfloat16")
    report = archport.verify(folder)
    assert report.ok, str(report)
    assert report.checks[-1].name == "export, source"
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.families
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of what torch.compile imports
def test_compiled_steps_are_the_reference_s():
    report = archport.verify(compiled=True)
    assert report.ok
    assert "next tokens, compiled" in [check.name for check in report.checks]


def test_compiled_steps_are_run_only_where_they_are_asked_for(gpt2, port, monkeypatch):
    monkeypatch.setattr("archport.parity.passes.CompiledStep", None)
    assert archport.verify(port, reference=gpt2.reference).ok
    [problem] = archport.verify(port, reference=gpt2.reference, compiled=True).problems
    assert problem.startswith("a step with a static cache raises TypeError")


def test_an_export_lacks_what_the_table_ignores_and_says_so(monkeypatch):
    on = comparison("gpt2")
    port = on.port_of(on.reference)
    for name in ("spare", "other"):  # what a reference holds, and a port does not
        on.reference.transformer.register_parameter(name, nn.Parameter(torch.ones(3)))
    [check] = line("export", on, port)
    assert (check.ok, check.part) == (False, "transformer.spare is missing")
    table = architecture("gpt2").table
    monkeypatch.setitem(vars(table), "ignored", {**table.ignored, "transformer.spare": "no pass reads it"})
    [check] = line("export", on, port)
    assert (check.ok, check.part) == (False, "transformer.other is missing")
    monkeypatch.setitem(vars(table), "ignored", {**table.ignored, "transformer.other": "no pass reads it"})
    [check] = line("export", on, port)
    assert check.ok
    assert check.note.endswith("tensors without 2 that are ignored, all the same")
