"""verify and the kill table with parts that archport has never seen, and with models that change tensors in place."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.gpt_neox import modeling_gpt_neox
from typer.testing import CliRunner

import archport
from archport.cli import checkpoints, parity
from archport.errors import ConfigError, SourceError
from archport.layers import MLP, Attention, ParallelBlock
from archport.parity import Report, kill, references, verify_architecture, verify_by_block
from archport.parity.catalogue import CATALOGUE, faults_for
from archport.parity.compare import Comparison
from archport.parity.faults import Fault, class_fault, rows
from archport.parity.ids import ids_for
from archport.parity.mistakes import MISTAKES
from archport.parity.outputs import fed, outputs
from archport.parity.running import RaisedError
from archport.parity.settings import without_dropout
from archport.registry import architecture

from . import strange as plugin
from .references import hf_dict, reference
from .strange import strange  # noqa: F401  # a fixture

BY_NAME = {fault.name: fault for fault in CATALOGUE}


def port_of(model):
    return archport.from_state_dict(hf_dict(model), {name: t.clone() for name, t in model.state_dict().items()})


# --- parts that archport has never seen ---


@pytest.mark.parametrize(("dtype", "lines"), [("float32", 30), ("bfloat16", 28)])
def test_a_strange_decoder_is_the_reference(strange, dtype, lines):  # noqa: F811
    reports = verify_architecture(strange, dtype=dtype)
    assert [report.name for report in reports] == ["strange", "strange, tied True"]
    for report in reports:
        assert report.ok, str(report)
        assert len(report.checks) == lines


@pytest.mark.families
def test_what_the_catalogue_can_say_of_a_strange_decoder(strange):  # noqa: F811
    table = kill.kill_table(strange)
    for one in table.kills:
        assert one.noticed != bool(one.fault.equivalent), one.fault.name
        assert one.fault.equivalent or (one.located and one.right_name), (one.fault.name, one.place, one.named)
    assert 10 < table.coverage.possible < len(CATALOGUE) / 2
    assert len(table.kills) == table.coverage.possible + len(MISTAKES)
    assert kill.kill_score([table]).splitlines()[1] == (
        f"strange: {table.coverage.possible} of {len(CATALOGUE)} faults can exist here; no fault covers: "
        "Stage (blocks.{n}), Evener (7 of them), Mixer (blocks.{n}.mixer), Gated (blocks.{n}.gated), "
        "SiLU (blocks.{n}.gated.bend)"
    )


def test_a_wrong_part_of_a_strange_decoder_is_located(strange, monkeypatch, tmp_path):  # noqa: F811
    model = references.loud(architecture(strange), plugin.SIZES)
    model.save_pretrained(tmp_path)
    report = verify_by_block(tmp_path)
    assert report.ok, str(report)
    monkeypatch.setattr(plugin.Evener, "forward", lambda self, x: self.gain * F.normalize(x, dim=-1))
    failed = [check.name for check in verify_by_block(tmp_path).checks if not check.ok]
    assert failed == ["blocks.0", "blocks.1", "blocks.2", "norm", "logits", "units, one by one"]
    port = port_of(model)
    report = archport.verify(port, reference=model)
    assert not report.ok
    assert report.fault.place == "blocks.0.first"


class OwnRate(nn.Module):
    """Drops by a rate under a name of its own."""

    drops = 0.5

    def forward(self, x):
        x = F.scaled_dot_product_attention(x, x, x, None, self.drops if self.training else 0.0)
        x = F.scaled_dot_product_attention(x, x, x, dropout_p=self.drops if self.training else 0.0)
        return nn.Dropout(self.drops)(F.dropout(x, self.drops, self.training)) if self.training else x


def test_nothing_is_dropped_wherever_the_rate_is_kept():
    x, module = torch.randn(1, 2, 5, 4), OwnRate()
    still = module.eval()(x)
    assert not torch.equal(module.train()(x), still)
    with without_dropout():
        assert torch.equal(module(x), still)


# --- faults in subclasses ---


class Louder(Attention):
    """A user's own attention: ours, doubled."""

    def output(self, heads):
        return 2 * super().output(heads)


def test_a_fault_goes_above_the_user_s_own_class():
    model = reference("gpt_neox")
    port = port_of(model)
    for block in port.blocks:
        block.attn.__class__ = Louder
    part = port.blocks[1].attn
    x, context = (
        torch.randn(1, 7, part.qkv.in_features),
        port.context(torch.zeros(1, 7, dtype=torch.long), torch.float32),
    )
    masked = part(x, context)
    fault = BY_NAME["mask missing"]
    assert "blocks.1.attn" in fault.sites(port)
    fault.plant_at(port, "blocks.1.attn")
    everything_seen = part(x, context)
    part.__class__ = Attention
    fault.plant(part)
    assert torch.equal(everything_seen, 2 * part(x, context))
    assert not torch.allclose(everything_seen, masked)
    assert "blocks.1.attn" not in fault.sites(port)  # planted already
    # It would put its own step in the place of the user's.
    assert "blocks.2.attn" not in BY_NAME["attention output not projected"].sites(port)


class Another(Attention):
    """A user's own attention with a forward of its own: the steps of ours mean nothing here."""

    def forward(self, x, context):
        return self.output(self.attend(*self.project(x), context))


def test_a_part_with_a_forward_of_its_own_is_another_part():
    port = port_of(reference("gpt_neox"))
    before = sum("blocks.1.attn" in fault.sites(port) for fault in CATALOGUE)
    port.blocks[1].attn.__class__ = Another
    assert before > 15
    assert not any("blocks.1.attn" in fault.sites(port) for fault in CATALOGUE)
    coverage = kill.coverage("it", port, CATALOGUE)
    assert coverage.uncovered == ("Another (blocks.{n}.attn)",)


def test_rows_of_grouped_heads_are_changed_group_by_group():
    part = Attention(24, 6, kv_heads=2)
    q, k, v = part.project(x := torch.randn(1, 3, 24))
    BY_NAME["k and v exchanged in the file"].plant(part)
    swapped = part.project(x)
    assert all(torch.equal(a, b) for a, b in zip(swapped, (q, v, k), strict=True))
    rows(lambda slots: slots.roll(1, 0))(part)
    for moved, before in zip(part.project(x), swapped, strict=True):
        half = moved.shape[1] // 2
        assert torch.equal(moved[:, :half], before[:, half:])
    assert not BY_NAME["q and k exchanged"].can_exist_in(part)


# --- faults of an architecture's own ---


class Silent(MLP):
    def forward(self, x):
        return 0 * super().forward(x)


OWN = (class_fault("silent MLP", "the MLP adds nothing", "adds something", "MLP", MLP, Silent),)
NOT_FAULTS = ("silence",)


@pytest.fixture
def register(monkeypatch):
    monkeypatch.setattr("archport.registry._registered", {})
    arch = architecture("gpt2")

    def register(**data):
        archport.register("other", config_class=arch.config_class, build=arch.build, table=arch.table, **data)
        return architecture("other")

    return register


@pytest.mark.parametrize("faults", [OWN, f"{__name__}:OWN"])
def test_an_architecture_adds_faults_of_its_own(register, faults):
    register(faults=faults)
    assert faults_for("other") == (*CATALOGUE, *OWN)
    assert all(isinstance(fault, Fault) for fault in faults_for("gpt2"))


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (f"{__name__}:NOT_FAULTS", "found a str, expected a Fault"),
        (f"{__name__}:NOTHING", "found '.*NOTHING': .*no attribute"),
        (OWN * 2, "found two named 'silent MLP', expected one"),
    ],
)
def test_faults_that_are_none(register, faults, message):
    register(faults=faults)
    with pytest.raises(ConfigError, match=message):
        faults_for("other")


def test_an_architecture_without_sizes_cannot_be_tried(register):
    register()
    with pytest.raises(ConfigError, match=r"sizes: found none, expected .* register\(sizes=\.\.\.\)"):
        verify_architecture("other")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sizes": {"widht": 3}}, "sizes: found widht, which its Config does not have"),
        ({"sizes": [3]}, r"sizes: found \[3\], expected a mapping of fields"),
        ({"variants": {"odd": 3}}, "variants: found .*, expected a mapping of names to fields"),
        ({"published": {"me/it": {"size": 3}}}, "me/it: found size, which its Config does not have"),
        ({"faults": 3}, "faults: found 3, expected a tuple of faults"),
    ],
)
def test_data_that_is_not_an_architecture_s(register, data, message):
    with pytest.raises(ConfigError, match=message):
        register(**data)


@pytest.mark.parametrize("name", archport.architectures())
def test_every_field_that_changes_the_mathematics_is_varied(name):
    assert references.never_varied(architecture(name)) == []


def test_a_field_that_no_variant_varies_is_named(register):
    arch = architecture("gpt2")
    other = register(sizes=arch.sizes, variants={"tied False": {"tied": False}})
    assert references.never_varied(other) == ["activation", "scale_scores", "scale_scores_by_depth"]


# --- the commands ---


def test_the_commands_say_what_they_did_not_look_at(register, monkeypatch):
    coverage = kill.Coverage("gpt2", 1, 66, ("Gated (blocks.{n}.mlp)",))
    one = kill.Kill(OWN[0], "gpt2", ("blocks.1.mlp",), True, "blocks.1.mlp", "silent MLP")
    monkeypatch.setattr(kill, "kill_table", lambda _, **__: kill.KillTable((one,), coverage))
    facts = json.loads(CliRunner().invoke(parity.app, ["faults", "gpt2", "--json"]).stdout)
    assert facts["coverage"]["gpt2"]["uncovered"] == ["Gated (blocks.{n}.mlp)"]
    assert facts["score"].endswith("gpt2: 1 of 66 faults can exist here; no fault covers: Gated (blocks.{n}.mlp)")
    arch = architecture("gpt2")
    register(
        sizes=arch.sizes, variants={name: fields for name, fields in arch.variants.items() if name != "tied False"}
    )
    report = Report("other", "transformers", "float32", (), never_varied=("tied", "window"))
    monkeypatch.setattr("archport.parity.records.making.verify_architecture", lambda *_, **__: [report])
    printed = CliRunner().invoke(parity.app, ["verify", "other"]).stdout.splitlines()
    assert printed[0].startswith("other: the same model")
    assert printed[1:] == ["never varied: tied, window"]
    [facts] = json.loads(CliRunner().invoke(parity.app, ["verify", "other", "--json"]).stdout)
    assert facts["never_varied"] == ["tied", "window"]
    listed = CliRunner().invoke(checkpoints.app, ["models", "--json"])
    assert {row["ARCH"] for row in json.loads(listed.stdout)} == set(archport.architectures())


# --- hooks ---


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Broken(MLP):
    def forward(self, x):
        raise ArithmeticError(f"broken by {tuple(x.shape)}")


def test_nothing_is_left_on_a_model_that_raises():
    model = reference("gpt_neox")
    port, ids = port_of(model), torch.tensor([[1, 2, 3]])
    comparison = Comparison(model, ids_for(port, None))
    comparison.trace(port)  # of the reference, which is whole
    port.blocks[1].mlp.__class__ = Broken
    for run in (
        lambda: outputs(port, ["blocks.0", "blocks.2"], ids),
        lambda: fed(port, "blocks.2", ids),
        lambda: archport.parity.locate.findings(port, comparison.trace(port), comparison.short),
    ):
        with pytest.raises(RaisedError, match=r"blocks\.1\.mlp raises ArithmeticError: broken by"):
            run()
        assert hooks(port) == 0
    for broken in (comparison.reference, comparison.exact):
        broken.gpt_neox.layers[1].mlp.__class__ = Broken
    with pytest.raises(ArithmeticError):
        comparison._trace(ids)
    assert hooks(comparison.reference) == hooks(comparison.exact) == 0


def test_an_observed_model_is_not_verified():
    model = reference("gpt2")
    port = port_of(model)
    with archport.observe(port, "blocks.1"), pytest.raises(SourceError, match="the model is observed right now"):
        archport.verify(port, reference=model)
    assert archport.verify(port, reference=model, quick=True).ok


# --- tensors that are changed in place ---


class LayerInPlace(modeling_gpt_neox.GPTNeoXLayer):
    """The stream goes on in the tensor it came in."""

    def forward(self, hidden_states, *args, **kwargs):
        result = super().forward(hidden_states, *args, **kwargs)
        if not torch.is_grad_enabled():
            hidden_states.copy_(result[0] if isinstance(result, tuple) else result)
        return result


class MLPInPlace(modeling_gpt_neox.GPTNeoXMLP):
    """What the first map made is cleared once it has been used."""

    def forward(self, x):
        up = self.dense_h_to_4h(x)
        active = self.act(up)
        if not torch.is_grad_enabled():
            up.clamp_(0, 0)
        return self.dense_4h_to_h(active)


def test_a_reference_that_changes_its_tensors_in_place(tmp_path, monkeypatch):
    model = reference("gpt_neox")
    model.save_pretrained(tmp_path)
    port = port_of(model)
    for layer in model.gpt_neox.layers:
        layer.__class__, layer.mlp.__class__ = LayerInPlace, MLPInPlace
    report = archport.verify(port, reference=model)
    assert report.ok, str(report)
    port.blocks[1].attn.scale = 1.0
    assert archport.verify(port, reference=model).fault.fault.name == "scale missing"
    monkeypatch.setattr(modeling_gpt_neox, "GPTNeoXLayer", LayerInPlace)
    monkeypatch.setattr(modeling_gpt_neox, "GPTNeoXMLP", MLPInPlace)
    report = verify_by_block(tmp_path)
    assert report.ok, str(report)
    assert isinstance(references.of_folder(tmp_path, torch.float32, "eager").gpt_neox.layers[0], LayerInPlace)


class BlockInPlace(ParallelBlock):
    def forward(self, x, context):
        result = super().forward(x, context)
        return result if torch.is_grad_enabled() else x.copy_(result)


def test_a_port_that_changes_its_tensors_in_place():
    model = reference("gpt_neox")
    port = port_of(model)
    for block in port.blocks:
        block.__class__ = BlockInPlace
    report = archport.verify(port, reference=model)
    assert report.ok, str(report)
    comparison = Comparison(model, ids_for(port, None))
    for _ in range(2):  # what the reference made is as it was
        assert not any(finding.differs for finding in comparison.findings(port))
