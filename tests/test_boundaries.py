"""A reference that draws the boundaries of its modules elsewhere: no false alarm, and no place lost."""

import copy
import re

import pytest
import transformers
from torch import nn
from transformers.models.gpt2 import modeling_gpt2

import archport
from archport.layers import Attention, ParallelBlock, SequentialBlock
from archport.models import gpt2
from archport.parity.faulty import parts as faulty

from .references import hf_dict, reference

pytestmark = pytest.mark.skipif(transformers.__version__ < "5", reason="its blocks return another thing")

# --- GPT-2 with boundaries elsewhere, and the same numbers between its blocks ---


class AttentionAndStream(modeling_gpt2.GPT2Attention):
    def forward(self, x, stream, **how):
        result, *rest = super().forward(x, **how)
        return result + stream, *rest


class MLPAndStream(modeling_gpt2.GPT2MLP):
    def forward(self, x, stream):
        return super().forward(x) + stream


class AddsInside(modeling_gpt2.GPT2Block):
    """As BLOOM: attention and MLP give back the stream with what they add to it."""

    def forward(self, x, cache=None, attention_mask=None, *_, **how):
        x = self.attn(self.ln_1(x), stream=x, cache=cache, attention_mask=attention_mask, **how)[0]
        return self.mlp(self.ln_2(x), stream=x)


class LoudMLP(modeling_gpt2.GPT2MLP):
    def forward(self, x):
        return 3 * super().forward(x)


class ScalesOutside(modeling_gpt2.GPT2Block):
    """As Granite: what the MLP makes is scaled outside it."""

    def forward(self, x, cache=None, attention_mask=None, *_, **how):
        x = x + self.attn(self.ln_1(x), cache=cache, attention_mask=attention_mask, **how)[0]
        return x + self.mlp(self.ln_2(x)) / 3


class ReadsScaled(modeling_gpt2.GPT2Block):
    """What the second norm is given is scaled, which a norm undoes but for its eps, which is scaled too."""

    def forward(self, x, cache=None, attention_mask=None, *_, **how):
        x = x + self.attn(self.ln_1(x), cache=cache, attention_mask=attention_mask, **how)[0]
        return x + self.mlp(self.ln_2(4 * x))


def adds_inside(model):
    for layer in model.transformer.h:
        layer.__class__, layer.attn.__class__, layer.mlp.__class__ = AddsInside, AttentionAndStream, MLPAndStream


def scales_outside(model):
    for layer in model.transformer.h:
        layer.__class__, layer.mlp.__class__ = ScalesOutside, LoudMLP


def reads_scaled(model):
    for layer in model.transformer.h:
        layer.__class__, layer.ln_2.eps = ReadsScaled, 16 * layer.ln_2.eps


ELSEWHERE = {adds_inside: 6, scales_outside: 3, reads_scaled: 3}
elsewhere = pytest.mark.parametrize("change", ELSEWHERE, ids=lambda change: change.__name__)


def changed(change):
    model = reference("gpt2")
    change(model)
    return model, archport.from_state_dict(hf_dict(model), copy.deepcopy(model.state_dict()))


@elsewhere
def test_another_boundary_is_no_difference(change):
    model, port = changed(change)
    report = archport.verify(port, reference=model)
    assert report.ok, str(report)
    modules = next(check for check in report.checks if check.name == "modules, one by one")
    assert modules.note.endswith(f"; {ELSEWHERE[change]} with another boundary")


def scale(port):
    port.blocks[1].attn.scale = 1.0


def activation(port):
    port.blocks[1].mlp.activation = nn.ReLU()


def wiring(port):
    port.blocks[1].__class__ = ParallelBlock


def down(port):
    port.blocks[1].mlp.down.weight.data *= 1.1


# A fault by hand, where verify must see it, and what it must call it.
FAULTS = {
    scale: ("blocks.1.attn", "scale missing"),
    activation: ("blocks.1.mlp", "activation ReLU"),
    wiring: ("blocks.1", "parallel for sequential"),
    down: ("blocks.1.mlp.down", None),
}


@elsewhere
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_beside_another_boundary_is_located_and_named(change, fault):
    model, port = changed(change)
    fault(port)
    report = archport.verify(port, reference=model)
    assert not report.ok
    assert (report.fault.place, report.fault.fault and report.fault.fault.name) == FAULTS[fault]


class LateScale(Attention):
    """An attention that is wrong."""

    def scores(self, q, k, context):
        return super().scores(q, k, context) / 2

    attend = Attention.attend_eagerly


WRONG = {
    "SequentialBlock": (ParallelBlock, r"blocks\.0"),
    "Attention": (LateScale, r"blocks\.0\.attn"),
    "PositionedEmbed": (faulty.NoPositions, "embed"),
}


@elsewhere
@pytest.mark.parametrize("part", WRONG)
def test_a_build_that_is_wrong_is_located_beside_another_boundary(change, part, monkeypatch):
    kind, place = WRONG[part]
    monkeypatch.setattr(gpt2, part, kind)
    model, port = changed(change)
    report = archport.verify(port, reference=model)
    assert not report.ok
    assert re.fullmatch(place, report.fault.place), report.fault.words


class KeepsItsStream(SequentialBlock):
    """A right port with boundaries of its own: its parts are wrapped, and give back the stream too."""

    def forward(self, x, context):
        x = self.attn(self.norm_attn(x), context, x)
        return self.mlp(self.norm_mlp(x), x)


class OwnAttention(Attention):
    def forward(self, x, context, stream):
        return super().forward(x, context) + stream


class OwnMLP(archport.layers.MLP):
    def forward(self, x, stream):
        return super().forward(x) + stream


@pytest.mark.parametrize("change", [adds_inside, lambda _: None], ids=["as the reference", "unlike the reference"])
def test_a_port_with_boundaries_of_its_own(change):
    model, port = changed(change)
    for block in port.blocks:
        block.__class__, block.attn.__class__, block.mlp.__class__ = KeepsItsStream, OwnAttention, OwnMLP
    report = archport.verify(port, reference=model)
    assert report.ok, str(report)
    for fault in (scale, activation, down):
        wrong = copy.deepcopy(port)
        fault(wrong)
        report = archport.verify(wrong, reference=model)
        assert report.fault.place == FAULTS[fault][0]
